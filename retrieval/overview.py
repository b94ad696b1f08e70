"""What a collection holds, in numbers: for who may see its images, and of cohorts large enough.

A number that fewer distinct subjects stand behind than the collection's `minimum_cohort` is
withheld, and so are further ones, until what is left out cannot be had by subtraction (secondary
suppression; Hundepool et al., Statistical Disclosure Control, 2012, section 4.4).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from django.db.models import Count, F, Q, QuerySet
from django.db.models.functions import ExtractYear

from retrieval import access, audit
from retrieval.models import Collection, Image, Kind, Purpose, State, User
from retrieval.models.grant import Capability

FACETS: Final = ("modality", "media_type", "year")


@dataclass(frozen=True)
class Cell:
    """One value's number of images; None where it is withheld."""

    value: str
    images: int | None


@dataclass(frozen=True)
class Overview:
    """images: of the whole collection. facets: cells by facet, the largest first."""

    collection: Collection
    images: int | None
    facets: dict[str, list[Cell]]


@dataclass(frozen=True)
class _Counted:
    value: str
    images: int
    subjects: frozenset[int | None]


def overviews(*, actor: User, purpose: Purpose) -> list[Overview]:
    """Of each collection the actor may look into. On the log before this returns."""
    readable = access.collections_where(actor, purpose, Capability.VIEW)
    with access.acting_as(actor, purpose):
        found = [_overview(collection) for collection in readable]
    audit.record(
        Kind.COUNTS_READ,
        actor=actor,
        purpose=purpose,
        collections=[str(c.pk) for c in readable],
    )
    return found


def _overview(collection: Collection) -> Overview:
    indexed = Image.objects.filter(collection=collection, state=State.INDEXED).order_by()
    indexed = indexed.annotate(year=ExtractYear("taken_on"))
    total = indexed.aggregate(
        images=Count("pk"),
        subjects=Count("subject", distinct=True),
        unknown=Count("pk", filter=Q(subject=None)),
    )
    # Images of nobody we know may all be of one person.
    subjects = total["subjects"] + bool(total["unknown"])
    is_large = subjects >= collection.minimum_cohort
    return Overview(
        collection,
        total["images"] if is_large else None,
        {name: _cells(indexed, name, collection.minimum_cohort) for name in FACETS},
    )


def _cells(indexed: QuerySet[Image], name: str, minimum: int) -> list[Cell]:
    rows = indexed.values_list(F(name), "subject").annotate(images=Count("pk"))
    counted: dict[str, tuple[int, set[int | None]]] = {}
    for value, subject, images in rows:
        before, subjects = counted.get(str(value or ""), (0, set()))
        counted[str(value or "")] = (before + images, subjects | {subject})
    cells = [_Counted(v, n, frozenset(s)) for v, (n, s) in counted.items()]
    cells.sort(key=lambda cell: (-cell.images, cell.value))
    withheld = withhold(cells, minimum)
    # Which values there are is a number as well: the small ones are told together, without names.
    shown = [Cell(c.value or "unknown", c.images) for c in cells if c.value not in withheld]
    return [*shown, Cell("others", None)] if withheld else shown


def withhold(cells: Iterable[_Counted], minimum: int) -> set[str]:
    """The values whose numbers are not told: small ones, and so many more that the difference to
    the total is of `minimum` subjects again."""
    by_size = sorted(cells, key=lambda cell: (len(cell.subjects), cell.value))
    small = [cell for cell in by_size if len(cell.subjects) < minimum]
    withheld, hidden = set[str](), set[int | None]()
    for cell in by_size:
        if cell in small or (withheld and len(hidden) < minimum):
            withheld.add(cell.value)
            hidden |= cell.subjects
    return withheld
