"""De-identified pixels for encoders: of the stored preview, never of what was received."""

from collections.abc import Sequence
from typing import Final

from retrieval import storage
from retrieval.models import Image
from retrieval.models.image import Region
from retrieval.storage import Form
from workers.decode.limits import Limits
from workers.decode.sandbox import decode, decode_reduced
from workers.deidentify.faces.added import AddedDetector
from workers.encode import regions
from workers.encode.encoder import Pixels

# A long thin picture's preview may be thinner than what is accepted at the door.
OWN_PICTURE: Final = Limits(min_side=1)
HEADROOM: Final = 1.5
"""Pixels that are unpacked for one that an encoder reads: its own resampling does the rest."""


def pixels_of(image: Image) -> Pixels:
    """(H, W, 3), all there are. Raises as `decode`."""
    return decode(storage.read(image, Form.PREVIEW), limits=OWN_PICTURE).pixels


def pixels_for(image: Image, side: int) -> Pixels:
    """(H, W, 3), as many as serve who reads `side` along each side. Raises as `decode`.

    Most of the time that a photograph of 12 megapixels takes to unpack whole is saved.
    """
    wanted = round(HEADROOM * side)
    return decode_reduced(storage.read(image, Form.PREVIEW), wanted, limits=OWN_PICTURE)


class Shown:
    """An image on its way to an encoder, with the parts of it that get vectors of their own.

    detectors: whose objects are parts beside the corners; None where only the whole is wanted.
    """

    def __init__(self, image: Image, detectors: Sequence[AddedDetector] | None) -> None:
        self.image = image
        self.parts: list[Region] = []
        self._detectors = detectors

    def pictures(self, side: int) -> list[Pixels]:
        """The whole and each of `parts`, which are known then, in pixels of the image itself."""
        if self._detectors is None:
            return [pixels_for(self.image, side)]
        # Detectors look for small things; corners alone can do with less than every pixel.
        pixels = (
            pixels_of(self.image)
            if self._detectors
            else pixels_for(self.image, round(side / regions.SHARE))
        )
        seen = regions.parts_of(pixels, self._detectors, side)
        height, width = pixels.shape[:2]
        size = (self.image.width or width, self.image.height or height)
        self.parts = [regions.in_image(part, (width, height), size) for part in seen]
        return [pixels, *(regions.cut(pixels, part) for part in seen)]
