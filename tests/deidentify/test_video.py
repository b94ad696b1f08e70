"""No face shows in a frame between two in which it was found."""

from workers.deidentify.faces import Face
from workers.deidentify.video import tracked


def at(x: int, *, y: int = 40, side: int = 30) -> Face:
    return Face((x, y, side, side), 0.9, "test")


def holds(covers: list[Face], inner: Face) -> bool:
    x, y, w, h = inner.box
    return any(
        left <= x and top <= y and left + width >= x + w and top + height >= y + h
        for left, top, width, height in (cover.box for cover in covers)
    )


def test_a_face_on_its_way_is_covered_in_every_frame_between_two_sightings() -> None:
    covers = tracked({0: [at(0)], 5: [at(25)], 10: [at(60)]}, 11)

    for number in range(11):
        x = 5 * number if number <= 5 else 25 + 7 * (number - 5)
        assert holds(covers[number], at(x)), number


def test_a_face_the_detector_loses_for_a_moment_stays_covered() -> None:
    covers = tracked({0: [at(0)], 1: [], 2: [], 3: [at(9)]}, 4)

    assert holds(covers[1], at(3))
    assert holds(covers[2], at(6))


def test_a_face_is_covered_before_its_first_and_after_its_last_sighting() -> None:
    covers = tracked({0: [], 5: [at(50)], 10: []}, 12)

    assert [bool(frame) for frame in covers] == [number in range(1, 10) for number in range(12)]


def test_a_face_is_held_for_a_stride_though_a_nearer_look_finds_none() -> None:
    """Between its looks a detector may lose it for a moment, however close they are."""
    covers = tracked({0: [], 5: [], 6: [at(50)], 7: [], 10: []}, 14)

    assert [n for n in range(14) if covers[n]] == list(range(2, 11))


def test_two_faces_are_not_joined_into_one() -> None:
    covers = tracked({0: [at(0), at(200)], 5: [at(5), at(205)]}, 6)

    assert max(face.box[2] for frame in covers for face in frame) <= 40
