"""A query on its way in, with the real parts, run here as the worker's role."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import numpy as np
import pytest

from retrieval import access, index, queue, storage
from retrieval.errors import EncoderUnavailable, NoTextTower, Reason, Rejected
from retrieval.models import EncoderVersion, Image, PrivacyProfile, State
from retrieval.models.image import Region
from retrieval.queue import QueryVectors, ToEncode, Waiting
from retrieval.storage import Form
from tests import database
from tests.factories import make_collection, make_encoder, make_image
from tests.workers.test_stages import astronaut, embed
from workers import query, remembered, stages, tasks
from workers.decode.sandbox import decode
from workers.deidentify.derivative import encode_preview
from workers.encode.encoder import Encoder, Pixels
from workers.encode.registry import CLASSIC, load

pytestmark = pytest.mark.usefixtures("db")
FACE = Region(170, 40, 110, 150)


@pytest.fixture
def picture(db: None) -> Image:
    """An indexed image of 64 × 32 pixels, its left half red, its right half striped."""
    make_encoder()
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, :32, 0] = 255
    pixels[::4, 32:] = 255
    preview = encode_preview(pixels)
    return make_image(make_collection(), preview=preview, width=64, height=32)


@pytest.fixture
def encoder(picture: Image) -> Iterator[Encoder]:
    with database.role("worker"):
        EncoderVersion.objects.filter(live=True).update(live=False)
        stages.warm_up()
        yield stages.encoder_of(index.live_encoder())


def ask(*parts: ToEncode) -> QueryVectors:
    (answer,) = query.encode([Waiting("", 1, "", list(parts))])
    if isinstance(answer, Exception):
        raise answer
    return answer


def test_a_query_image_is_covered_before_it_is_encoded(encoder: Encoder) -> None:
    (vector,) = ask(ToEncode(image=astronaut().read_bytes())).vectors

    assert float(vector @ embed(encoder, astronaut().read_bytes())) < 0.99


def test_a_region_is_cut_out_of_covered_pixels_only(encoder: Encoder) -> None:
    content = astronaut().read_bytes()

    (vector,) = ask(ToEncode(image=content, region=FACE)).vectors

    def encoded(pixels: Pixels) -> np.ndarray:
        return stages.embed(encoder, query.cut_out(pixels, FACE))

    covered = stages.deidentified(content, PrivacyProfile()).pixels
    assert float(vector @ encoded(covered)) > 0.999
    assert float(vector @ encoded(decode(content).pixels)) < 0.9


def test_a_stored_image_s_region_is_read_from_its_de_identified_preview(
    picture: Image, encoder: Encoder
) -> None:
    where = (picture.collection_id, picture.pk)
    left, right = Region(0, 0, 32, 32), Region(32, 0, 32, 32)

    vectors = ask(*(ToEncode(stored=where, region=part) for part in (left, right))).vectors

    assert not storage.path_of(picture.pk, Form.ORIGINAL).exists()
    assert float(vectors[0] @ vectors[1]) < 0.95


def test_a_region_of_a_preview_that_was_scaled_down_is_scaled_with_it() -> None:
    pixels = np.arange(100 * 200 * 3, dtype=np.uint32).astype(np.uint8).reshape(100, 200, 3)

    cut = query.cut_out(pixels, Region(100, 40, 200, 100), scale=0.5)

    assert np.array_equal(cut, pixels[20:70, 50:150])


@pytest.mark.parametrize("region", [Region(1000, 0, 50, 50), Region(0, 0, 5, 50)])
def test_a_region_that_shows_nothing_is_refused(region: Region) -> None:
    with pytest.raises(Rejected) as refused:
        query.cut_out(np.zeros((512, 512, 3), np.uint8), region)

    assert refused.value.reason == Reason.TOO_SMALL


def test_a_query_image_that_cannot_be_read_has_a_reason(encoder: Encoder) -> None:
    with pytest.raises(Rejected) as refused:
        ask(ToEncode(image=b"not a picture"))

    assert refused.value.reason == Reason.NOT_AN_IMAGE


@pytest.mark.parametrize("state", [State.REVIEW, State.REJECTED])
def test_what_is_not_indexed_is_no_example(encoder: Encoder, state: State, picture: Image) -> None:
    with access.processing(picture.collection_id):
        Image.objects.update(state=state)

    with pytest.raises(EncoderUnavailable):
        ask(ToEncode(stored=(picture.collection_id, picture.pk)))


def test_what_waits_is_answered_together_and_one_failure_is_no_other_s(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue.app, "send_task", lambda *_, **__: None)
    batches: list[Sequence[str]] = []
    together = query._remembered.encode

    def encode(encoder: Encoder, asked: Sequence[tuple[int, str]]) -> list[np.ndarray]:
        batches.append([words for _, words in asked])
        return together(encoder, asked)

    monkeypatch.setattr(query._remembered, "encode", encode)
    sent = [ToEncode(words="a dog"), ToEncode(image=b"no picture"), ToEncode(words="a cat")]
    answers: list[QueryVectors | Exception] = []

    def ask_in_a_thread(part: ToEncode) -> None:
        try:
            answers.append(queue.encode_query([part], asker=1))
        except Rejected as error:
            answers.append(error)

    with ThreadPoolExecutor() as threads:
        for part in sent:
            threads.submit(ask_in_a_thread, part)
        while queue._broker().llen(queue.WAITING) != len(sent):
            time.sleep(0.01)
        tasks.encode_query()
        tasks.encode_query()  # a nudge that comes too late finds nothing

    assert sorted(batches[0]) == ["a cat", "a dog"]
    assert sorted(type(answer).__name__ for answer in answers) == [
        "QueryVectors",
        "QueryVectors",
        "Rejected",
    ]


def test_a_query_may_name_an_encoder_that_is_not_live(encoder: Encoder) -> None:
    EncoderVersion.objects.update(live=False)

    waiting = [Waiting(n, 1, n, [ToEncode(words="a dog")]) for n in (encoder.name, "", "unknown")]
    named, live, unknown = query.encode(waiting)

    assert isinstance(named, QueryVectors)
    assert named.encoder == encoder.name
    assert isinstance(live, EncoderUnavailable)
    assert isinstance(unknown, EncoderUnavailable)


class Counting:
    """An encoder that counts what it encodes."""

    digest = "d" * 64

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.encoded += texts
        return np.eye(3, dtype=np.float32)[: len(texts)]


def test_words_are_encoded_once_for_each_who_asks() -> None:
    """Shared entries would answer sooner what somebody else has asked."""
    words, encoder = remembered.RememberedWords(), Counting()

    for asker in (1, 1, 2):
        words.encode(encoder, [(asker, "fracture")])  # type: ignore[arg-type]

    assert encoder.encoded == ["fracture", "fracture"]


def test_remembered_words_are_not_kept_as_words() -> None:
    words = remembered.RememberedWords()

    words.encode(Counting(), [(1, "zebrafracture")])  # type: ignore[arg-type]

    assert "zebrafracture" not in repr(vars(words))


def test_the_oldest_words_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "CAPACITY", 2)
    words, encoder = remembered.RememberedWords(), Counting()

    for each in ("a", "b", "c", "c", "a"):
        words.encode(encoder, [(1, each)])  # type: ignore[arg-type]

    assert encoder.encoded == ["a", "b", "c", "a"]


def test_a_query_passes_the_broker_whole() -> None:
    image_id = UUID(int=7)
    parts = [
        ToEncode(words="a ‘dog’"),
        ToEncode(image=b"\0bytes", region=Region(1, 2, 3, 4)),
        ToEncode(stored=(9, image_id), region=Region(0, 0, 5, 6)),
    ]

    sent = queue._write_query(3, "shadow", parts)

    assert queue._read_query("reply:1", sent) == Waiting("reply:1", 3, "shadow", parts)


def test_words_asked_of_an_encoder_of_images_are_refused_and_its_images_are_not(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    classic = load(CLASSIC)
    index.register_encoder(
        name=CLASSIC, digest=classic.digest, dimensions=classic.dimensions, licence="none"
    )
    EncoderVersion.objects.update(live=False)
    EncoderVersion.objects.filter(name=CLASSIC).update(live=True)
    stages.warm_up()
    monkeypatch.setattr(queue.app, "send_task", lambda *_, **__: tasks.encode_query())

    asked = queue.encode_query([ToEncode(image=astronaut().read_bytes())], asker=1)
    with pytest.raises(NoTextTower, match="reads images only"):
        queue.encode_query([ToEncode(words="a dog")], asker=1)

    assert asked.encoder == CLASSIC
    queue.wait_for_query_worker(5)  # it is ready all the same
