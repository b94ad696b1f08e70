"""What one file may cost before it is refused."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds on the decoding of one file.

    memory_bytes: address space the decoder may take beyond its own code, which is less than
    100 MB: less than 512 MB in all. They hold an 8-bit colour picture of 57 megapixels (4 bytes a
    pixel in Pillow, 3 in the result).
    cpu_s, wall_s: the decoder is killed past either; together with start and hand-over a file is
    answered within 5 s.
    max_pixels: height times width of one frame. max_frames: pages, frames or slices in one file.
    max_side: pixels; what JPEG and DICOM can say at most. Whoever works on rows or columns of a
    picture gets no millions of them.
    min_side: pixels; a smaller picture shows nothing anybody could search for.
    """

    memory_bytes: int = 384 * 1024**2
    cpu_s: int = 4
    wall_s: float = 4.5
    max_pixels: int = 100_000_000
    max_frames: int = 10_000
    max_side: int = 65_535
    min_side: int = 16
