"""Judged queries: words, and the images that answer them, by the names people know them by."""

import codecs
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from retrieval.errors import QueriesUnreadable

MAX_QUERIES_BYTES: Final = 256 * 1024 * 1024
COLUMNS: Final = ("query", "relevant")

_CELL = re.compile(r'(?:"((?:[^"\t]|"")*)"|([^\t\r\n]*))(\t|\r\n|\r|\n|\Z)')
"""A cell and what ends it. Quoted as spreadsheets do it only where the quotes hold all of it:
words may begin with a quotation. No tab within: two cells with a stray quote each stay two."""
_NAME = re.compile(r'"((?:[^"]|"")+)"(?=[ \r\n]|\Z)|([^ \r\n"][^ \r\n]*)|([^ \r\n]+)')
"""A name, in quotes or up to the next space; last, one whose quotes do not close. Only spaces part
names: some systems write other blanks into them."""


@dataclass(frozen=True)
class Judged:
    """Words, and the names or ids of the images that answer them.

    `whole`: what is relevant as it was written, where that may be one name with spaces in it.
    `line`: of the file it stands in.
    """

    words: str
    relevant: frozenset[str]
    whole: str = ""
    line: int = 0


@dataclass(frozen=True)
class Place:
    """An image that may be found, and by which rules it was de-identified."""

    image_id: UUID
    collection_id: int
    rules_digest: str


class Known:
    """The images that may be found, by id and, where they are told, by the names they came under.

    A name is a path as the import saw it, such as `folder/name.jpg`. Whoever names an image may
    know less of its path, or more: one must be the end of the other. In each collection those of
    exactly this name go before those it is only the end of.
    """

    def __init__(self, images: Iterable[tuple[Place, str]]) -> None:
        """Each with its source name, empty where that is not told."""
        self._whole: dict[str, set[Place]] = defaultdict(set)
        self._ends: dict[str, set[Place]] = defaultdict(set)
        for place, name in images:
            self._whole[str(place.image_id)].add(place)
            if name:
                first, *ends = _ends_of(normal(name))
                self._whole[first].add(place)
                for end in ends:
                    self._ends[end].add(place)

    def images(self, name: str) -> frozenset[Place]:
        """All that `name`, a normal one, may mean."""
        whole, *ends = _ends_of(name)
        found = self._whole.get(whole, set())
        taken = {place.collection_id for place in found}
        found = found | {p for p in self._ends.get(whole, ()) if p.collection_id not in taken}
        known = next((end for end in ends if end in self._whole), None)
        return frozenset(found or (self._whole[known] if known else ()))

    def answers(self, query: Judged) -> dict[str, frozenset[Place]]:
        """What each of a query's names may mean; nothing, where no image bears it."""
        if query.whole and (found := self.images(query.whole)):
            return {query.whole: found}
        return {name: self.images(name) for name in query.relevant}


def normal(name: str) -> str:
    """A name or an id as it is compared: umlauts are written in two ways, paths in more."""
    if is_id(name):
        return name.lower()
    parts = unicodedata.normalize("NFC", name).replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", ".")) or name


def is_id(name: str) -> bool:
    try:
        return str(UUID(name)) == name.lower()
    except ValueError:
        return False


def _ends_of(path: str) -> list[str]:
    """The path itself, and what is left of it without its first folders."""
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def read_queries(path: Path) -> list[Judged]:
    """Tab-separated with the header `query`, `relevant`, in any order and among other columns.

    Cells may be quoted as spreadsheets do it. Of several relevant ones a space is between; a name
    that holds a space is quoted, or stands alone. Raises QueriesUnreadable with the number of the
    first wrong line.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_QUERIES_BYTES + 1)
    except (OSError, ValueError) as error:
        raise QueriesUnreadable("the file of queries cannot be read") from error
    if len(content) > MAX_QUERIES_BYTES:
        raise QueriesUnreadable(f"a file of queries has at most {MAX_QUERIES_BYTES} bytes")
    rows = _rows(_text(content))
    _, header = next(rows, (1, []))
    columns = [name.strip().lower() for name in header]
    if any(columns.count(name) != 1 for name in COLUMNS):
        raise QueriesUnreadable(
            "the first line must name the columns query and relevant, with a tab between"
        )
    queries = [_judged(line, columns, cells) for line, cells in rows]
    if not queries:
        raise QueriesUnreadable("the file holds no query")
    return queries


def _text(content: bytes) -> str:
    is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_utf_16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        raise QueriesUnreadable(f"line {line} of the file of queries is not UTF-8") from error


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Each line that is not blank: its number, and its cells."""
    line = first = 1
    cells: list[str] = []
    for found in _CELL.finditer(text):
        quoted, plain, end = found.groups()
        cells.append(plain if quoted is None else quoted.replace('""', '"'))
        cell = found.group()
        line += cell.count("\n") + cell.count("\r") - cell.count("\r\n")
        if end != "\t":
            if any(cell.strip() for cell in cells):
                yield first, cells
            first, cells = line, []


def _judged(line: int, columns: Sequence[str], cells: Sequence[str]) -> Judged:
    if any(cell.strip() for cell in cells[len(columns) :]):
        raise QueriesUnreadable(f"line {line} has more cells than the first line has columns")
    row = dict(zip(columns, cells, strict=False))
    words, relevant = (row.get(name, "").strip() for name in COLUMNS)
    if not (words and relevant):
        raise QueriesUnreadable(f"line {line} lacks a query or what is relevant")
    names = set()
    for quoted, plain, open_ended in _NAME.findall(relevant):
        if open_ended:
            raise QueriesUnreadable(f"line {line} opens quotes of a name and does not close them")
        names.add(normal(quoted.replace('""', '"') or plain))
    whole = normal(relevant)
    return Judged(words, frozenset(names), whole if whole not in names else "", line)
