"""A report on its way to its vectors, with the real parts, run here as the worker's role."""

import io

import numpy as np
import pytest

from retrieval import access, index, outbox, receive, reports, storage, upkeep
from retrieval.errors import EncoderUnavailable
from retrieval.models import (
    Embedding,
    EncoderVersion,
    Image,
    Purpose,
    Reads,
    Report,
    Stage,
    State,
    Work,
)
from retrieval.storage import Form
from tests import database
from tests.factories import make_collection, make_encoder, make_image, operator
from workers import reports as reading
from workers import tasks
from workers.encode import minilm
from workers.encode.encoder import Encoder
from workers.encode.registry import REPORTS, load
from workers.encode.reports import ReportEncoder, passages

pytestmark = pytest.mark.usefixtures("db")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load(REPORTS, digest=ReportEncoder.digest)


@pytest.fixture
def image(db: None) -> Image:
    make_encoder()
    return make_image(make_collection(), [1, 0, 0])


def attach(image: Image, text: str) -> None:
    purpose = Purpose.ADMINISTRATION
    batch = receive.start_batch(image.collection, actor=operator(), purpose=purpose)
    candidate = receive.Candidate("a.txt", lambda: io.BytesIO(text.encode()))
    reports.attach(image, candidate, batch, actor=operator(), purpose=purpose)


def run() -> None:
    with database.role("worker"):
        tasks.read_report(Work.objects.get(stage=Stage.REPORT).pk)


def vectors(image: Image) -> np.ndarray:
    with database.role("worker"), access.processing(image.collection_id):
        rows = Embedding.objects.filter(image_id=image.pk, encoder__reads=Reads.REPORTS)
        return np.array([row.vector for row in rows.order_by("region")], np.float32)


@pytest.fixture
def read_texts(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All that the real encoder is given to read."""
    seen, real = list[str](), encoder.encode_texts

    def encode_texts(texts: list[str]) -> np.ndarray:
        seen.extend(texts)
        return real(texts)

    monkeypatch.setattr(encoder, "encode_texts", encode_texts)
    return seen


def test_no_model_reads_a_report_that_was_not_cleaned(image: Image, read_texts: list[str]) -> None:
    attach(image, "John Smith has a small pleural effusion, seen by Dr. Young on 12 May 2021.")

    run()

    assert read_texts == ["has a small pleural effusion seen by on."]
    assert storage.read(image, Form.REPORT) == b"has a small pleural effusion seen by on"
    assert len(vectors(image)) == 1


def test_a_report_that_cannot_be_cleaned_has_no_vector_and_its_picture_stays_found(
    image: Image, read_texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> str:
        raise RuntimeError

    monkeypatch.setattr(reading, "cleaned_report", fails)
    attach(image, "no fracture")

    for _ in range(outbox.MAX_ATTEMPTS + 1):
        with database.role("worker"):
            Work.objects.update(lease_until=None)
        run()

    assert (read_texts, len(vectors(image))) == ([], 0)
    with database.role("worker"), access.processing(image.collection_id):
        assert Image.objects.get(pk=image.pk).state == State.INDEXED


def test_the_last_sentence_of_a_long_report_is_found_too(image: Image, encoder: Encoder) -> None:
    attach(image, "The heart is of normal size. " * 60 + "There is a fracture of the left wrist.")

    run()

    rows = vectors(image)
    (asked,) = encoder.encode_texts(["fracture of the wrist"])
    assert len(rows) > 2
    assert int(np.argmax(rows @ asked)) == len(rows) - 1


def test_what_an_earlier_report_said_is_not_found_though_the_new_one_cannot_be_read(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(image, "a fracture of the wrist")
    run()
    with database.role("worker"), access.processing(image.collection_id):
        outbox.add_anew(image, Stage.REPORT)
    monkeypatch.setattr(tasks, "_run", lambda *_: None)
    run()
    assert len(vectors(image)) == 1

    attach(image, "no fracture")
    run()

    assert len(vectors(image)) == 0
    with database.role("worker"), access.processing(image.collection_id):
        reader = EncoderVersion.objects.get(reads=Reads.REPORTS)
        assert not index.without_vector(reader, image.collection_id).exists()


def test_a_shorter_report_takes_the_place_of_all_of_a_longer_one(image: Image) -> None:
    attach(image, "The heart is of normal size. " * 60)
    run()
    attach(image, "no fracture")

    run()

    assert len(vectors(image)) == 1


def test_of_a_report_without_a_known_word_nothing_is_read_and_nothing_is_missing(
    image: Image,
) -> None:
    attach(image, "Kein Erguss.")

    run()

    assert len(vectors(image)) == 0
    with database.role("worker"):
        version = index.live_report_encoder()
        assert version is not None
        assert index.coverage(version) == 1.0


def test_a_picture_that_is_not_found_has_no_vector_of_its_report(image: Image) -> None:
    attach(image, "no fracture")
    with database.role("worker"), access.processing(image.collection_id):
        Image.objects.filter(pk=image.pk).update(state=State.REVIEW)

    run()

    assert len(vectors(image)) == 0


def test_passages_are_no_longer_than_what_the_model_reads(encoder: Encoder) -> None:
    text = "\n".join(["pneumothorax " * 90, "no effusion", "normal " * 200])

    pieces = passages(text)

    assert " ".join(pieces).replace(".", "").split() == text.split()
    _, mask = minilm.load_tokenizer()([piece + " end" for piece in pieces])
    assert int(mask.sum(1).max()) <= minilm.MAX_TOKENS


def test_the_encoder_of_reports_is_live_beside_that_of_pictures(image: Image) -> None:
    attach(image, "no fracture")

    run()

    live = EncoderVersion.objects.filter(live=True).values_list("name", "reads")
    assert set(live) == {("test-encoder", Reads.PICTURES), (REPORTS, Reads.REPORTS)}
    assert index.live_encoder().name == "test-encoder"


def test_another_encoder_of_reports_is_filled_and_switched_to_without_touching_that_of_pictures(
    image: Image,
) -> None:
    attach(image, "no fracture")
    run()
    pictures = index.live_encoder()
    with database.role("worker"):
        second = index.register_encoder(
            name="second", digest="1" * 64, dimensions=3, licence="none", reads=Reads.REPORTS
        )
        assert (second.live, index.coverage(second)) == (False, 0.0)
        with access.processing(image.collection_id):
            due = index.reports_to_read(second, image.collection_id, rules_digest="")
            assert [each.pk for each in due] == [image.pk]
            index.store_report(image, np.eye(3, dtype=np.float32)[:1], encoder=second)
        index.switch(second)

    assert index.live_report_encoder() == second
    assert index.live_encoder() == pictures


def test_filling_another_encoder_of_reports_shows_the_live_one_nothing_again(
    image: Image, encoder: Encoder, read_texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But a report that is cleaned by other rules it reads anew."""
    attach(image, "no fracture")
    run()
    with database.role("worker"):
        index.register_encoder(
            name="second",
            digest=ReportEncoder.digest,
            dimensions=ReportEncoder.dimensions,
            licence="none",
            reads=Reads.REPORTS,
        )
    monkeypatch.setattr(reading, "encoder_of", lambda _version: encoder)

    def read_again() -> list[str]:
        read_texts.clear()
        with database.role("worker"), access.processing(image.collection_id):
            outbox.add_anew(image, Stage.REPORT)
        run()
        return read_texts

    assert read_again() == ["no fracture."]
    live = index.live_report_encoder()
    with database.role("worker"):
        assert live is not None
        part = upkeep.find_part(image.collection_id, live)
    assert part is not None
    assert (part.rows, part.removed, len(vectors(image))) == (1, 0, 2)
    assert read_again() == []
    with database.role("worker"), access.processing(image.collection_id):
        Report.objects.update(rules_digest="0" * 64)
    assert read_again() == ["no fracture."] * 2


def test_a_switch_while_a_report_is_read_has_it_read_again(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(image, "no fracture")

    def switched(*_: object) -> None:
        raise EncoderUnavailable

    monkeypatch.setattr(index, "hold_live", switched)
    run()

    assert len(vectors(image)) == 0
    with database.role("worker"):
        assert Work.objects.filter(stage=Stage.REPORT).exists()
