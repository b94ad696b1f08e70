"""Less detail than there is: for encoders of what is de-identified, and for nobody else."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from PIL import ImageDraw

import workers
from retrieval.models import PrivacyProfile
from workers import stages
from workers.decode import sandbox, wire
from workers.decode.limits import Limits
from workers.decode.sandbox import decode, decode_reduced
from workers.encode.classic import ClassicEncoder
from workers.encode.embedded import EmbeddedEncoder
from workers.encode.encoder import Encoder, encode_all
from workers.previews import HEADROOM

ALLOWED = {"previews.py", "decode/sandbox.py", "benchmark/encode.py"}


def photograph(format: str = "JPEG", size: tuple[int, int] = (4000, 3000)) -> bytes:
    """Smooth and sharp things of many sizes, and some grain."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (size[1] // 60, size[0] // 60, 3), np.uint8)
    picture = Picture.fromarray(noise).resize(size, Picture.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for _ in range(40):
        x, y = random.integers(0, size)
        r = int(random.integers(size[1] // 100, size[1] // 8))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(random.integers(0, 256, 3).tolist()))
    out = io.BytesIO()
    picture.save(out, format, quality=92)
    return out.getvalue()


@pytest.fixture(scope="module")
def large() -> bytes:
    return photograph()


@pytest.mark.parametrize(("encoder", "least"), [(EmbeddedEncoder, 0.995), (ClassicEncoder, 0.98)])
def test_a_vector_hardly_moves_when_only_the_detail_it_needs_is_unpacked(
    large: bytes, encoder: type[Encoder], least: float
) -> None:
    reads = encoder()
    whole, less = decode(large).pixels, decode_reduced(large, round(HEADROOM * reads.side))

    assert less.shape[0] * 4 <= whole.shape[0]
    vectors = encode_all(reads, [whole, less])
    assert float(vectors[0] @ vectors[1]) > least


@pytest.mark.parametrize(
    ("side", "height", "width"),
    [(16, 375, 500), (375, 375, 500), (376, 750, 1000), (3000, 3000, 4000), (9000, 3000, 4000)],
)
def test_the_shorter_side_keeps_what_was_asked_for(
    large: bytes, side: int, height: int, width: int
) -> None:
    assert decode_reduced(large, side).shape == (height, width, 3)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_a_format_that_knows_no_less_is_unpacked_whole(format: str) -> None:
    content = photograph(format, (640, 480))

    assert np.array_equal(decode_reduced(content, 16), decode(content).pixels)


def test_what_is_to_be_deidentified_is_unpacked_whole(
    large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []
    run = sandbox._run

    def noting(content_fd: int, result_fd: int, request: bytes, limits: Limits) -> bytes:
        asked.append(request[wire.REQUEST_BYTES :])
        return run(content_fd, result_fd, request, limits)

    monkeypatch.setattr(sandbox, "_run", noting)
    monkeypatch.setattr(stages, "deidentify_pixels", lambda decoded, *_: decoded)

    seen = stages.deidentified(large, PrivacyProfile())

    assert seen.pixels.shape == (3000, 4000, 3)
    assert asked == [b""]


def test_nobody_but_encoders_of_previews_asks_for_less_detail() -> None:
    root = Path(workers.__file__).parent
    files = {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*.py")}

    assert {name for name, text in files.items() if "decode_reduced" in text} <= ALLOWED
    assert "Form.ORIGINAL" not in files["previews.py"]
