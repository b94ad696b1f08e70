"""Pictures of many tasks in batches: each task has its own rows back, and its own failure."""

import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from retrieval.errors import DeviceBusy, Reason, Rejected
from workers import cores
from workers.encode.batches import Load, batch_size, under_way_together, vectors_of
from workers.encode.classic import ClassicEncoder
from workers.encode.device import best_device
from workers.encode.encoder import Pixels, Vectors, encode_all


class Watched(ClassicEncoder):
    """The encoder without a network, which notes its batches and has room for so many pictures."""

    def __init__(self, room: int = 1000) -> None:
        self.batches: list[int] = []
        self.room = room

    def encode_images(self, batch: torch.Tensor) -> Vectors:
        if len(batch) > self.room:
            raise DeviceBusy("the batch does not fit")
        self.batches.append(len(batch))
        return super().encode_images(batch)


@pytest.fixture(scope="module")
def pictures() -> list[Pixels]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (40 + at, 50, 3), np.uint8) for at in range(7)]


def bringing(*pictures: Pixels) -> Load:
    return lambda: pictures


def failing(error: Exception) -> Load:
    def load() -> Sequence[Pixels]:
        raise error

    return load


def test_pictures_of_several_tasks_share_batches_and_each_has_its_own_rows(
    pictures: list[Pixels],
) -> None:
    encoder = Watched()
    loads = [bringing(*pictures[:2]), bringing(pictures[2]), bringing(*pictures[3:])]

    found = list(vectors_of(encoder, loads, size=3))

    assert sorted(encoder.batches) == [3, 4]
    rows = [each for each in found if not isinstance(each, Exception)]
    assert [len(each) for each in rows] == [2, 1, 4]
    assert np.array_equal(np.concatenate(rows), encode_all(ClassicEncoder(), pictures))


def test_a_picture_that_cannot_be_loaded_is_no_other_s_failure(pictures: list[Pixels]) -> None:
    refused = Rejected(Reason.TRUNCATED)
    loads = [bringing(pictures[0]), failing(refused), bringing(pictures[1])]

    first, second, third = vectors_of(Watched(), loads, size=8)

    assert second is refused
    expected = encode_all(ClassicEncoder(), pictures[:2])
    assert isinstance(first, np.ndarray)
    assert isinstance(third, np.ndarray)
    assert np.array_equal(np.concatenate([first, third]), expected)


def test_a_batch_of_failures_asks_the_device_for_nothing() -> None:
    encoder = Watched()

    assert len(list(vectors_of(encoder, [failing(ValueError())] * 3, size=2))) == 3
    assert encoder.batches == []


def test_a_busy_device_is_asked_for_less_at_once(pictures: list[Pixels]) -> None:
    encoder = Watched(room=2)

    (found,) = vectors_of(encoder, [bringing(*pictures)], size=7)

    assert max(encoder.batches) == 2
    assert not isinstance(found, Exception)
    assert np.array_equal(found, encode_all(ClassicEncoder(), pictures))


def test_a_batch_that_fails_is_the_failure_of_those_in_it_only(pictures: list[Pixels]) -> None:
    encoder = Watched(room=0)
    found = list(vectors_of(encoder, [bringing(one) for one in pictures[:3]], size=2))

    assert [type(each) for each in found] == [DeviceBusy] * 3


def test_the_next_batch_is_loaded_while_one_is_computed(pictures: list[Pixels]) -> None:
    loaded_meanwhile = threading.Event()

    class Slow(Watched):
        def encode_images(self, batch: torch.Tensor) -> Vectors:
            assert loaded_meanwhile.wait(10)
            return super().encode_images(batch)

    def second() -> Sequence[Pixels]:
        loaded_meanwhile.set()
        return [pictures[1]]

    loads: list[Callable[[], Sequence[Pixels]]] = [bringing(pictures[0]), second]
    found = list(vectors_of(Slow(), loads, size=1))

    assert all(isinstance(rows, np.ndarray) for rows in found)


@pytest.mark.skipif(best_device().type != "cpu", reason="a device of its own takes two at once")
def test_on_a_cpu_as_many_batches_are_computed_at_once_as_there_are_cores_for(
    pictures: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "there", lambda: 3 * torch.get_num_threads())
    together = threading.Barrier(3, timeout=10)

    class Meeting(Watched):
        def encode_images(self, batch: torch.Tensor) -> Vectors:
            together.wait()
            return super().encode_images(batch)

    found = list(vectors_of(Meeting(), [bringing(one) for one in pictures[:3]], size=1))

    assert all(isinstance(rows, np.ndarray) for rows in found)
    assert under_way_together() == 3 * batch_size()
