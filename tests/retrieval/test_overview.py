"""Numbers of cohorts that are too small are withheld, and so is what would give them away."""

from hypothesis import given
from hypothesis import strategies as st

from retrieval import access
from retrieval.models import Collection, Image, Purpose, Subject, User
from retrieval.overview import Cell, Overview, _Counted, overviews, withhold
from tests.factories import grant, make_collection, make_image, make_user, operator
from tests.web.conftest import Log, log, signed_in

__all__ = ["log"]


def fill(collection: Collection, modality: str, subjects: int, first: int = 0) -> None:
    for number in range(first, first + subjects):
        with access.acting_as(operator(), Purpose.ADMINISTRATION):
            subject, _ = Subject.objects.get_or_create(
                collection=collection, pseudonym=f"subject {number}"
            )
        make_image(collection, subject=subject, modality=modality)


def seen_by(reader: User) -> Overview:
    (overview,) = overviews(actor=reader, purpose=Purpose.TREATMENT)
    return overview


def reader_of(collection: Collection) -> User:
    reader = make_user()
    grant(reader, collection)
    return reader


def test_without_a_minimum_all_numbers_are_told_of_what_may_be_seen(db: None) -> None:
    collection = make_collection()
    fill(collection, "CT", 2)
    fill(make_collection(), "MR", 3)

    overview = seen_by(reader_of(collection))

    assert overview.images == 2
    assert overview.facets["modality"] == [Cell("CT", 2)]


def test_a_small_cohort_is_withheld_with_what_would_give_it_away(db: None) -> None:
    collection = make_collection(minimum_cohort=3)
    fill(collection, "CT", 6)
    fill(collection, "MR", 4, first=6)
    fill(collection, "US", 1, first=10)

    overview = seen_by(reader_of(collection))

    assert overview.images == 11
    # Were MR told, US would be the rest; that there is US at all is a number of one subject.
    assert overview.facets["modality"] == [Cell("CT", 6), Cell("others", None)]


def test_many_images_of_few_subjects_are_a_small_cohort(db: None) -> None:
    collection = make_collection(minimum_cohort=2)
    for _ in range(4):
        fill(collection, "CT", 1)

    assert seen_by(reader_of(collection)).images is None


def test_images_of_nobody_known_count_as_one_subject(db: None) -> None:
    collection = make_collection(minimum_cohort=2)
    for _ in range(3):
        make_image(collection)

    assert seen_by(reader_of(collection)).images is None


@given(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=2), st.frozensets(st.integers(0, 9))),
    st.integers(0, 6),
)
def test_what_is_withheld_together_is_never_a_small_cohort(
    subjects: dict[str, frozenset[int | None]], minimum: int
) -> None:
    cells = [_Counted(value, len(s), s) for value, s in subjects.items() if s]
    withheld = withhold(cells, minimum)

    shown = [cell for cell in cells if cell.value not in withheld]
    hidden = {s for cell in cells if cell.value in withheld for s in cell.subjects}
    assert all(len(cell.subjects) >= minimum for cell in shown)
    assert not withheld or len(hidden) >= minimum or not shown


def test_the_page_withholds_and_is_on_the_log(db: None, log: Log) -> None:
    collection = make_collection(minimum_cohort=3)
    fill(collection, "CT", 1)
    make_image(make_collection("sealed"))

    page = signed_in(reader_of(collection)).get("/collections/").content.decode()

    assert "withheld" in page
    assert "CT: " not in page
    assert "sealed" not in page
    assert log("counts.read") == [{"collections": [str(collection.pk)]}]
    assert Image.objects.count() == 0
