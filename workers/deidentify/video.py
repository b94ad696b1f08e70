"""Follow faces from frame to frame, so that one the detector loses for a moment stays covered."""

from collections.abc import Mapping

from workers.deidentify.faces import Face

Box = tuple[int, int, int, int]

# A face is looked for so many frames apart; at 25 frames a second, five times a second.
STRIDE = 5
# Two boxes are one face if their middles are no further apart than this share of their longer
# side, and neither side is more than twice the other's.
_REACH = 1.5
_GROWTH = 2.0
# For so many frames a detector may lose a face before it counts as gone: for two looks in a row.
_MAX_LOST_FRAMES = 3 * STRIDE


def tracked(found: Mapping[int, list[Face]], count: int) -> list[list[Face]]:
    """Return what to cover in each of `count` frames, given the faces found in some of them.

    found: frame number to faces. Between two sightings of one face, every frame is covered by the
    smallest box around both: wherever it was on the way, it is inside. A face seen before the
    first or after the last sighting may have come or gone in between, so each is held until the
    next frame that was looked at, and for a stride at least.
    """
    looked = sorted(found)
    covers: list[list[Face]] = [[] for _ in range(count)]
    for at, number in enumerate(looked):
        before = min(looked[at - 1], number - STRIDE) + 1 if at > 0 else 0
        after = max(looked[at + 1], number + STRIDE) if at + 1 < len(looked) else count
        for face in found[number]:
            for frame in range(max(0, before), min(after, count)):
                covers[frame].append(face)
            for later in (n for n in looked[at + 1 :] if n <= number + _MAX_LOST_FRAMES):
                if following := [other for other in found[later] if _is_same(face, other)]:
                    for frame in range(number + 1, later):
                        covers[frame] += [_around_both(face, other) for other in following]
                    break
    return covers


def _is_same(one: Face, other: Face) -> bool:
    longer = max(*one.box[2:], *other.box[2:])
    shorter = min(max(one.box[2:]), max(other.box[2:]))
    apart = max(
        abs((one.box[at] + one.box[at + 2] / 2) - (other.box[at] + other.box[at + 2] / 2))
        for at in (0, 1)
    )
    return apart <= _REACH * longer and longer <= _GROWTH * shorter


def _around_both(one: Face, other: Face) -> Face:
    left, top = (min(one.box[at], other.box[at]) for at in (0, 1))
    right, bottom = (
        max(one.box[at] + one.box[at + 2], other.box[at] + other.box[at + 2]) for at in (0, 1)
    )
    return Face((left, top, right - left, bottom - top), min(one.score, other.score), "track")
