"""What a benchmark is given and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from retrieval.models import PrivacyProfile, User

Cell = str | int | float | None
Say = Callable[[str], None]


def _silently(_said: str) -> None: ...


@dataclass(frozen=True)
class Setting:
    """data: the folder of public data. files: at most so many files of each set, None for all.

    profile: whose detectors are also judged by what reviewers released, as `user` may review it.
    rows: how many vectors are made, where they are. say: told what takes long, before it does.
    images: a folder of pictures to import.
    """

    data: Path
    files: int | None = None
    profile: PrivacyProfile | None = None
    user: User | None = None
    rows: int | None = None
    say: Say = _silently
    images: Path | None = None


@dataclass(frozen=True)
class Table:
    """Rows of heading → value; a note says what one must know to read them, or what is missing."""

    title: str
    rows: tuple[dict[str, Cell], ...]
    note: str = ""
