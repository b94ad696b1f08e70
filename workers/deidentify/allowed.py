"""What a profile lets stand in a picture although it is writing: side marks and scale bars.

An entry is taken letter by letter, except that # stands for a number of at most three digits,
with at most two decimals: "# cm" allows "10 cm". Capitals and spaces do not count. An entry holds
a letter: a number alone may be a date, an age or part of an identifier.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

MAX_ENTRIES = 32
MAX_ENTRY_LENGTH = 24
NUMBER = "#"
# Of bounded length, and never two in a row: no text makes matching slow.
_NUMBER_PATTERN = r"[0-9]{1,3}(?:[.,][0-9]{1,2})?"


def check_entry(entry: str) -> None:
    """Raise ValueError unless `entry` is one that may stand on an allow-list."""
    if not 1 <= len(entry) <= MAX_ENTRY_LENGTH:
        raise ValueError(f"an allowed text must be 1 to {MAX_ENTRY_LENGTH} characters long")
    if not any(letter.isalpha() for letter in entry):
        raise ValueError("an allowed text must hold a letter")
    if NUMBER * 2 in _plain(entry):
        raise ValueError("an allowed text must not hold two numbers in a row")


def is_allowed(words: str, entries: Iterable[str]) -> bool:
    """Whether `words`, all of them, are what one entry says."""
    return any(_pattern(entry).fullmatch(_plain(words)) for entry in entries)


@lru_cache(maxsize=256)
def _pattern(entry: str) -> re.Pattern[str]:
    literals = (re.escape(part) for part in _plain(entry).split(NUMBER))
    return re.compile(_NUMBER_PATTERN.join(literals))


def _plain(words: str) -> str:
    return "".join(words.split()).casefold()
