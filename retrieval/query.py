"""What is looked for: words, examples, stored images and parts of them, and what to leave out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final
from uuid import UUID

from retrieval.index import EVERYTHING, Filter, Metric
from retrieval.models.image import Region

MAX_PARTS: Final = 16
MAX_FEEDBACK: Final = 64
MAX_WEIGHT: Final = 10.0
MAX_ID: Final = 2**63 - 1
MAX_CHOICES: Final = 64
"""Of one kind in a filter: tags, modalities, media types or subjects."""


class Fusion(StrEnum):
    """Several parts become one vector, or each ranks by itself and the ranks are fused."""

    SPACE = "space"
    RANKS = "ranks"


class LookIn(StrEnum):
    """What words are held against. Where no report came in, both are the pictures alone."""

    BOTH = "both"
    PICTURES = "pictures"
    REPORTS = "reports"


class Group(StrEnum):
    """Of what an answer shows one image only, the nearest."""

    SUBJECT = "subject"
    STUDY = "study"
    VIDEO = "video"
    DUPLICATE = "duplicate"


@dataclass(frozen=True)
class Part:
    """One thing to be near to, or with a weight below 0 to be far from.

    Words, an example's bytes, or a stored image's id: one of the three. `region`: of the picture,
    cut out after it was de-identified. Weights are relative to one another.
    """

    words: str = field(default="", repr=False)
    image: bytes = field(default=b"", repr=False)
    like: UUID | None = None
    region: Region | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if bool(self.words.strip()) + bool(self.image) + (self.like is not None) != 1:
            raise ValueError("a part of a query is words, an image or a stored image")
        if self.region is not None and self.words:
            raise ValueError("words have no region")
        if not (math.isfinite(self.weight) and 0 < abs(self.weight) <= MAX_WEIGHT):
            raise ValueError(f"a weight is not 0 and at most {MAX_WEIGHT:.0f} either way")


@dataclass(frozen=True)
class Query:
    """What is looked for: any mix of parts, and how they are held against what is stored.

    `words`, `image`, `like` and `without` (words for what is not wanted) are the usual parts, each
    once and alike; `region` is of `image`, or where there is none of `like`. `parts`: more of them,
    weighted. `liked` and `disliked`: stored images an earlier answer showed, judged by who looks
    (Rocchio's relevance feedback). `look_in`: what words are held against. `collections`: ids to
    search in, or all that may be searched. `diversity`: from 0, nearest first, to 1, each as unlike
    those before as can be.
    """

    words: str = field(default="", repr=False)
    image: bytes = field(default=b"", repr=False)
    like: UUID | None = None
    without: str = field(default="", repr=False)
    collections: Sequence[int] | None = None
    region: Region | None = None
    parts: tuple[Part, ...] = ()
    liked: tuple[UUID, ...] = ()
    disliked: tuple[UUID, ...] = ()
    where: Filter = EVERYTHING
    metric: Metric = Metric.COSINE
    fusion: Fusion = Fusion.SPACE
    diversity: float = 0.0
    group: Group | None = None
    look_in: LookIn = LookIn.BOTH

    def __post_init__(self) -> None:
        parts = self.all_parts()
        if not (self.liked or any(part.weight > 0 for part in parts)):
            raise ValueError("a query needs words, an image, or both")
        has_others = self.liked or self.disliked or not all(part.words for part in parts)
        if self.look_in is LookIn.REPORTS and has_others:
            raise ValueError("reports are searched by words alone")
        if len(parts) > MAX_PARTS:
            raise ValueError(f"a query has at most {MAX_PARTS} parts")
        if len(self.liked) + len(self.disliked) > MAX_FEEDBACK:
            raise ValueError(f"at most {MAX_FEEDBACK} images are judged")
        if self.region is not None and not self.image and self.like is None:
            raise ValueError("a region needs an image")
        choices = (v for v in vars(self.where).values() if isinstance(v, tuple))
        if any(len(chosen) > MAX_CHOICES for chosen in choices):
            raise ValueError(f"a filter has at most {MAX_CHOICES} choices of one kind")
        if any(not 0 < subject <= MAX_ID for subject in self.where.subjects):
            raise ValueError("there is no such subject")
        if not 0.0 <= self.diversity <= 1.0:
            raise ValueError("diversity is between 0 and 1")

    def all_parts(self) -> list[Part]:
        parts = []
        if self.words.strip():
            parts.append(Part(words=self.words))
        if self.image:
            parts.append(Part(image=self.image, region=self.region))
        if self.like is not None:
            parts.append(Part(like=self.like, region=None if self.image else self.region))
        if self.without.strip():
            parts.append(Part(words=self.without, weight=-1.0))
        return [*parts, *self.parts]

    def of_words(self) -> "Query | None":
        """Its words alone, which can be looked for in reports; None where none are wanted."""
        words = tuple(part for part in self.all_parts() if part.words)
        if not any(part.weight > 0 for part in words):
            return None
        nothing_else = {"image": b"", "like": None, "region": None, "liked": (), "disliked": ()}
        return replace(self, words="", without="", parts=words, **nothing_else)  # type: ignore[arg-type]

    def stored(self) -> set[UUID]:
        """The stored images it names: whoever asks must be allowed to search them."""
        named = {part.like for part in self.all_parts() if part.like is not None}
        return named | set(self.liked) | set(self.disliked)
