"""What a person decides about images the machinery could not finish, and what that teaches."""

from retrieval.review.boxes import MAX_CHANGES, Drawn, change_boxes
from retrieval.review.case import Case, Waiting, look_at, waiting
from retrieval.review.decide import (
    NotDecidable,
    Outdated,
    TakenOffByYou,
    reject,
    release,
    retry,
    waits_for_rerun,
)
from retrieval.review.judged import SAME_BOX, Judged, reviewed_boxes

__all__ = [
    "MAX_CHANGES",
    "SAME_BOX",
    "Case",
    "Drawn",
    "Judged",
    "NotDecidable",
    "Outdated",
    "TakenOffByYou",
    "Waiting",
    "change_boxes",
    "look_at",
    "reject",
    "release",
    "retry",
    "reviewed_boxes",
    "waiting",
    "waits_for_rerun",
]
