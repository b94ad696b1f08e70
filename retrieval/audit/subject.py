"""Who saw images of one subject: what its report lists, newest first."""

from dataclasses import dataclass
from typing import Final

from retrieval.audit.entries import Entry, stored
from retrieval.audit.events import record
from retrieval.audit.export import images_of, subjects_of
from retrieval.models import Image, Kind, Purpose, User

RIGHT: Final = "retrieval.view_auditevent"
ABOUT: Final = (Kind.SUBJECT_REPORTED, Kind.AUDIT_EXPORTED)
"""Entries that name a subject and showed none of its images: reports like this one."""


@dataclass(frozen=True)
class Sighting:
    """One entry of the log that showed images of the subject. `actor`: a user's name, or empty."""

    number: int
    occurred_at: str
    kind: str
    actor: str
    purpose: str


def images_of_subject(subject: int) -> set[str]:
    """The subject's images of now, as far as this transaction sees them."""
    found = Image.objects.filter(subject_id=subject).values_list("pk", flat=True)
    return {str(pk) for pk in found}


def concerns(entry: Entry, subject: int, images: set[str]) -> bool:
    """Recorded with the subject when its images were shown, or on an image of it now."""
    return subject in subjects_of(entry) or not images.isdisjoint(images_of(entry))


def sightings(subject: int) -> list[Sighting]:
    """Of a subject, inside `acting_as` somebody who may read the log; see `record_report`."""
    images = images_of_subject(subject)
    names = dict(User.objects.values_list("pk", "username"))
    found = [
        Sighting(e.number, e.occurred_at, e.kind, names.get(e.actor or 0, ""), e.purpose)
        for e in stored()
        if e.kind not in ABOUT and concerns(e, subject, images)
    ]
    return found[::-1]


def record_report(subject: int, count: int, *, actor: User) -> int:
    """That somebody read the report. Commits before it is shown."""
    return record(
        Kind.SUBJECT_REPORTED,
        actor=actor,
        purpose=Purpose.ADMINISTRATION,
        subject=subject,
        entries=count,
    )
