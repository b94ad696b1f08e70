import unicodedata
import uuid
from pathlib import Path

import pytest

from retrieval.errors import QueriesUnreadable
from retrieval.judged import Judged, Known, Place, read_queries


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "queries.tsv"


def place(collection: int = 1) -> Place:
    return Place(uuid.uuid4(), collection, "")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "first line"),
        (b"query\trelevant\n\n", "no query"),
        (b"words\tfile\na dog\t1.jpg\n", "first line"),
        (b"query,relevant\na dog,1.jpg\n", "tab between"),
        (b"query\tquery\trelevant\na\tb\t1.jpg\n", "first line"),
        (b"query\trelevant\na dog\t\n", "line 2 lacks"),
        (b"query\trelevant\n\t1.jpg\n", "line 2 lacks"),
        (b"query\trelevant\r\n\r\na dog\r\n", "line 3 lacks"),
        (b"query\trelevant\na\t1.jpg\t2.jpg\n", "line 2 has more cells"),
        (b'query\trelevant\n"a\nb"\t1.jpg\nc\t"d e.jpg f.jpg\n', "line 4 opens quotes"),
        (b"query\trelevant\na dog\t1.jpg\n\xff\t2.jpg\n", "line 3 .* UTF-8"),
    ],
)
def test_a_file_that_is_no_query_file_is_refused_with_the_line(
    file: Path, content: bytes, reason: str
) -> None:
    file.write_bytes(content)
    with pytest.raises(QueriesUnreadable, match=reason):
        read_queries(file)


def test_a_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.tsv", tmp_path, Path("\0")):
        with pytest.raises(QueriesUnreadable, match="cannot be read"):
            read_queries(path)


def test_quotes_in_a_query_are_words_like_others(file: Path) -> None:
    file.write_text('\ufeffquery\trelevant\r\n"a dog" runs\t1.jpg 2.jpg\r\n', encoding="utf-8")
    (query,) = read_queries(file)
    assert query.words == '"a dog" runs'
    assert query.relevant == {"1.jpg", "2.jpg"}


def test_cells_are_unquoted_as_spreadsheets_quote_them(file: Path) -> None:
    file.write_text(
        'query\trelevant\n"a ""big"" dog, two\nlines"\t"""a b.jpg"" c.jpg"\n'
        '"stray\t1.jpg\n5"\t2.jpg'
    )
    assert [(q.words, sorted(q.relevant), q.line) for q in read_queries(file)] == [
        ('a "big" dog, two\nlines', ["a b.jpg", "c.jpg"], 2),
        ('"stray', ["1.jpg"], 4),
        ('5"', ["2.jpg"], 5),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_columns_may_stand_in_any_order_among_others(file: Path, encoding: str, end: str) -> None:
    lines = ["Relevant\tnote\t query", "", "ä.jpg\tof me\ta dog\t", "\t\t", "2.jpg\t\ta cat"]
    file.write_bytes(end.join(lines).encode(encoding))
    assert read_queries(file) == [
        Judged("a dog", frozenset({"ä.jpg"}), line=3),
        Judged("a cat", frozenset({"2.jpg"}), line=5),
    ]


def test_a_name_with_spaces_is_quoted_or_stands_alone(file: Path) -> None:
    file.write_text('query\trelevant\nx\t"a b.jpg" c.jpg\ny\ta b.jpg\nz\ta b.jpg c.jpg\n')
    spaced, single = place(), place()
    known = Known([(spaced, "holiday/a b.jpg"), (single, "c.jpg")])

    answers = [known.answers(query) for query in read_queries(file)]

    assert answers == [
        {"a b.jpg": {spaced}, "c.jpg": {single}},
        {"a b.jpg": {spaced}},
        {"a": frozenset(), "b.jpg": frozenset(), "c.jpg": {single}},
    ]


def test_only_spaces_part_names(file: Path) -> None:
    file.write_text("query\trelevant\nx\tat\u202f10.png  b\u00a0c.png\n", encoding="utf-8")
    (query,) = read_queries(file)
    assert query.relevant == {"at\u202f10.png", "b\u00a0c.png"}


def test_an_umlaut_is_one_however_it_is_written(file: Path) -> None:
    name = "Übersicht.jpg"
    composed, decomposed = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    image = place()
    for stored, asked in ((composed, decomposed), (decomposed, composed)):
        file.write_text(f"query\trelevant\nx\t{asked}\n", encoding="utf-8")
        (query,) = read_queries(file)
        assert [*Known([(image, stored)]).answers(query).values()] == [{image}]


def test_a_path_is_known_by_its_end_or_with_more_of_it_before() -> None:
    inner, outer, zipped = place(), place(), place(2)
    known = Known([(inner, "a/b/1.jpg"), (outer, "2.jpg"), (zipped, "x.zip/a/b/1.jpg")])
    for name in ("1.jpg", "b/1.jpg", "a/b/1.jpg", "data/a/b/1.jpg"):
        assert inner in known.images(name)
    assert known.images("1.jpg") == {inner, zipped}
    assert known.images("photos/2.jpg") == {outer}
    # Another folder's picture of this name is another picture.
    assert known.images("c/1.jpg") == frozenset()


def test_in_one_collection_an_exact_name_goes_before_the_end_of_a_longer_one() -> None:
    exact, longer, elsewhere = place(), place(), place(2)
    known = Known([(exact, "1.jpg"), (longer, "a/1.jpg"), (elsewhere, "b/1.jpg")])
    assert known.images("1.jpg") == {exact, elsewhere}
    assert known.images("a/1.jpg") == {longer}


def test_paths_and_ids_are_compared_however_they_are_written(file: Path) -> None:
    image = place()
    asked = f"./a//1.jpg a\\1.jpg {str(image.image_id).upper()}"
    file.write_text(f"query\trelevant\nx\t{asked}\n")
    (query,) = read_queries(file)
    assert query.relevant == {"a/1.jpg", str(image.image_id)}
    known = Known([(image, "a\\1.jpg")])
    assert {*known.answers(query).values()} == {frozenset({image})}
