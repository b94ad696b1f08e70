"""The embedded encoder: words and pictures; and decoding, which comes before."""

import io
import time
import zipfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import skimage
from PIL import Image

from workers.benchmark.table import Cell, Setting, Table
from workers.decode.sandbox import decode
from workers.encode.encoder import Pixels, encode_all
from workers.encode.registry import EMBEDDED, load

_PICTURES = Path(skimage.__file__).parent / "data"
_WORDS = ("a dog runs on the beach", "fracture of the left wrist", "stars in the night sky")
_BATCHES = (1, 16)
_QUERIES = 100
_IMAGES = 128
_TWELVE_MEGAPIXELS = (4000, 3000)
_DECODED = 10


def tables(setting: Setting) -> Iterator[Table]:
    """Yield each table as soon as it is measured; the first of each kind is not counted."""
    encoder = load(EMBEDDED)
    queries = min(_QUERIES, setting.files or _QUERIES)
    yield Table(
        "queries, words",
        (_times(lambda at: encoder.encode_texts([_WORDS[at % len(_WORDS)]]), queries),),
    )
    pictures, source = _pictures(setting)
    rows: list[dict[str, Cell]] = []
    for batch in _BATCHES:
        encode_all(encoder, pictures[:batch], batch_size=batch)
        started = time.monotonic()
        encode_all(encoder, pictures, batch_size=batch)
        seconds = time.monotonic() - started
        rows.append({"batch": batch, "images/s": round(len(pictures) / seconds, 1)})
    yield Table("images", tuple(rows), f"{len(pictures)} pictures from {source}")
    photograph = _photograph()
    yield Table(
        "decoding a JPEG of 12 megapixels in the sandbox",
        (_times(lambda _: decode(photograph), min(_DECODED, setting.files or _DECODED)),),
    )


def _times(call: Callable[[int], object], count: int) -> dict[str, Cell]:
    """Call once unmeasured and `count` times more; milliseconds by the clock."""
    call(0)
    seconds = []
    for at in range(count):
        started = time.perf_counter()
        call(at)
        seconds.append(time.perf_counter() - started)
    p50, p95 = (round(float(ms), 1) for ms in 1000 * np.percentile(seconds, (50, 95)))
    return {"times": count, "p50 ms": p50, "p95 ms": p95}


def _pictures(setting: Setting) -> tuple[list[Pixels], str]:
    count = min(_IMAGES, setting.files or _IMAGES)
    archive = setting.data / "flickr8k" / "val.zip"
    if archive.is_file():
        with zipfile.ZipFile(archive) as photographs:
            names = sorted(n for n in photographs.namelist() if n.endswith(".jpg"))[:count]
            return [decode(photographs.read(name)).pixels for name in names], "Flickr8k"
    ours = (decode(path.read_bytes()).pixels for path in sorted(_PICTURES.glob("*.jpg")))
    few = list(islice(ours, count))
    return [few[at % len(few)] for at in range(count)], "a wheel: no flickr8k in --data"


def _photograph() -> bytes:
    """Return a JPEG of 12 megapixels, as smooth and as grainy as a camera's."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    out = io.BytesIO()
    large = Image.fromarray(noise).resize(_TWELVE_MEGAPIXELS, Image.Resampling.BICUBIC)
    large.save(out, "JPEG", quality=90)
    return out.getvalue()
