"""A received video on its way: split into frames, and each frame taken from it in its own work.

Splitting reads no picture out, so it is short; a frame's work reads the frame and its neighbours,
so that no lease has to last as long as a video.
"""

import io

from PIL import Image as Picture

from retrieval import storage
from retrieval.frames import Moment
from retrieval.models import Image
from retrieval.models.image import TimeRange
from retrieval.storage import Form
from workers.decode import footage
from workers.decode.reel import MEDIA_TYPES
from workers.deidentify.faces import Pixels
from workers.deidentify.moment import deidentify_moment
from workers.deidentify.verdict import Deidentified, Profile, detectors_for

# Frames are kept for as long as their video; a better compression would cost more than it saves.
_PNG_LEVEL = 1


def is_whole_video(image: Image) -> bool:
    return image.media_type in MEDIA_TYPES and image.video_id is None


def moments(video: Image) -> list[Moment]:
    """Which moments stand for a received video. Raises Rejected as `footage.survey`."""
    survey = footage.survey(storage.read(video, Form.ORIGINAL))
    return [Moment(TimeRange(s.start_s, s.end_s), s.at_s) for s in survey.samples]


def deidentified_frame(frame: Image, video: Image, rules: Profile) -> tuple[bytes, Deidentified]:
    """The frame as it is in its video, a PNG to be kept as its original, and de-identified.

    Raises Rejected as `footage.frames_around`.
    """
    assert frame.frame_at_s is not None  # noqa: S101 - a constraint of the table
    stretch = footage.frames_around(storage.read(video, Form.ORIGINAL), frame.frame_at_s)
    covered = deidentify_moment(stretch, rules, detectors_for(rules))
    return _png(stretch.frames[stretch.centre]), covered


def _png(pixels: Pixels) -> bytes:
    out = io.BytesIO()
    Picture.fromarray(pixels, "RGB").save(out, "PNG", compress_level=_PNG_LEVEL)
    return out.getvalue()
