"""De-identify one frame of a video with what its neighbours show.

A face that turns away for a frame is found in the frames around it, and covered all the same.
"""

import numpy as np

from retrieval.errors import Reason
from workers.decode.footage import Stretch
from workers.deidentify.verdict import (
    Boxes,
    Deidentified,
    Detectors,
    Profile,
    boxes_to_cover,
    deidentify_frames,
)
from workers.deidentify.video import tracked


def deidentify_moment(stretch: Stretch, profile: Profile, detectors: Detectors) -> Deidentified:
    """Cover the frame that was asked for: what is found in it, and what is held from around it.

    Never raises for a detector's sake: a failing one gives a black picture for review.
    """
    frame = stretch.frames[stretch.centre]
    try:
        held = _held(stretch, profile, detectors)
    except Exception:  # noqa: BLE001 - whatever a detector raises, nothing un-redacted may leave
        return Deidentified(np.zeros_like(frame), Boxes(), "review", Reason.DETECTOR_FAILED)
    one = deidentify_frames(frame[None], profile, detectors, held=held)
    return Deidentified(one.frames[0], one.boxes, one.verdict, one.reason)


def _held(stretch: Stretch, profile: Profile, detectors: Detectors) -> Boxes:
    """What the neighbours show, carried over to the frame between them.

    The frame itself is left out of the track: what it was found to show says nothing about what
    it was not.
    """
    around = {
        number: boxes_to_cover(frame, profile, detectors)
        for number, frame in enumerate(stretch.frames)
        if number != stretch.centre
    }
    found = {number: list(boxes.faces) for number, boxes in around.items()}
    faces = tracked(found, len(stretch.frames))[stretch.centre]
    beside = [around[at] for at in (stretch.centre - 1, stretch.centre + 1) if at in around]
    written = sum(beside, Boxes())
    return Boxes(tuple(faces), written.text, written.codes)
