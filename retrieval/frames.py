"""A received video and its frames: how it is split, and what became of it as one file.

A frame is an image of its own, with its own key, review and vector. The file that was received is
the video: reports and progress count it once.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.db.models import Case, Exists, F, OuterRef, Q, QuerySet, Subquery, Value, When
from django.db.models.functions import Coalesce

from retrieval import keys, outbox, storage
from retrieval.models import Image, Stage, State
from retrieval.models.image import SETTLED, TimeRange

_OWN_FRAMES = Image.objects.filter(video=OuterRef("pk"))

OUTCOME = Case(
    When(~Q(state=State.SPLIT), then=F("state")),
    When(Exists(_OWN_FRAMES.exclude(state__in=SETTLED)), then=Value(State.RECEIVED)),
    When(Exists(_OWN_FRAMES.filter(state=State.REVIEW)), then=Value(State.REVIEW)),
    When(Exists(_OWN_FRAMES.filter(state=State.INDEXED)), then=Value(State.INDEXED)),
    default=Value(State.REJECTED),
)
"""The state of a received file. A video is under way until its last frame is settled, then in
review with any of its frames, indexed with at least one, and rejected with all."""

OUTCOME_REASON = Coalesce(
    Case(
        When(
            state=State.SPLIT,
            then=Subquery(_OWN_FRAMES.order_by("frame_at_s").values("reason")[:1]),
        ),
    ),
    F("reason"),
)
"""Why a received file came to its state; for a video that was split, its first frame's reason."""


@dataclass(frozen=True)
class Moment:
    """A frame to be: what part of its video it stands for, and when it is shown there."""

    time: TimeRange
    frame_at_s: float


def files(images: QuerySet[Image]) -> QuerySet[Any]:
    """Those of `images` that were received as files, each with `outcome` and `outcome_reason`."""
    return images.filter(video=None).annotate(outcome=OUTCOME, outcome_reason=OUTCOME_REASON)


def split(video: Image, moments: Iterable[Moment]) -> None:
    """Make the frames of a locked video, each with its work due, inside `outbox.settling`.

    The frame of a moment has one content key: a second run cannot add it again.
    """
    source = storage.source_name(video)
    for number, moment in enumerate(moments):
        frame = _frame(video, number, moment, source)
        frame.save(force_insert=True)
        outbox.add(frame, Stage.DEIDENTIFY)
    outbox.settle(video, State.SPLIT)


def _frame(video: Image, number: int, moment: Moment, source: str) -> Image:
    frame = Image(
        collection_id=video.collection_id,
        batch_id=video.batch_id,
        subject_id=video.subject_id,
        video=video,
        media_type=video.media_type,
        tags=video.tags,
        starts_at_s=moment.time.start_s,
        ends_at_s=moment.time.end_s,
        frame_at_s=moment.frame_at_s,
    )
    content = keys.content_hash(video.collection_id)
    content.update(b"frame %d of " % number + bytes(video.content_key))
    frame.content_key = content.digest()
    data_key, frame.wrapped_key = keys.new_data_key(frame.pk)
    frame.sealed_name = storage.seal_source_name(source, data_key=data_key)
    return frame
