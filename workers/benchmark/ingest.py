"""An import end to end, with the workers it has, against what its stages could do alone."""

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image as Picture

from workers.benchmark import scratch, synthetic
from workers.benchmark.stage_alone import images_per_s
from workers.benchmark.synthetic import Space
from workers.benchmark.table import Say, Setting, Table

DEFAULT_FILES: Final = 200
WARMING: Final = 8
"""Pictures that go through first, uncounted: each worker loads its models with its first one."""
VECTORS: Final = 5000
_SIDES: Final = (500, 375)


def tables(setting: Setting) -> Iterator[Table]:
    with tempfile.TemporaryDirectory(prefix="cloister-benchmark-") as folder:
        count = setting.files or (None if setting.images else DEFAULT_FILES)
        pictures = _pictures(setting.images, Path(folder), count)
        rates = images_per_s(pictures)
        rates["index"] = _index_alone(setting.say)
        limit = 1 / sum(1 / rate for rate in rates.values())
        yield Table(
            "each stage alone, one process a core",
            tuple(
                {"stage": stage, "images/s": round(rate, 1), "ms an image": round(1000 / rate, 1)}
                for stage, rate in rates.items()
            ),
            "indexing: one process, vectors of 512 dimensions, many in one statement",
        )
        report, busy = _imported(pictures, Path(folder))
        rate = len(pictures) / report["seconds"]
        yield Table(
            "import of files with the appliance's workers (goal 9: ratio at least 0.8)",
            (
                {
                    "files": len(pictures),
                    "indexed": report["indexed"],
                    "in review": report["review"],
                    "seconds": report["seconds"],
                    "images/s": round(rate, 2),
                    "sum of the stages, images/s": round(limit, 2),
                    "ratio": round(rate / limit, 2),
                    "cores busy": f"{busy:.0%}",
                },
            ),
            f"{os.cpu_count()} cores; the workers had seen {WARMING} pictures before",
        )


def _pictures(own: Path | None, folder: Path, count: int | None) -> list[Path]:
    """The first ones of `own`, or as many made from a seed."""
    if own is not None:
        return sorted(path for path in own.iterdir() if path.is_file())[:count]
    rng = np.random.default_rng(0)
    made = folder / "made"
    made.mkdir()
    for number in range(count or DEFAULT_FILES):
        _make(rng, made / f"{number:06}.jpg")
    return sorted(made.iterdir())


def _make(rng: np.random.Generator, path: Path) -> None:
    """As smooth and as grainy as a photograph of half a thousand pixels a side."""
    coarse = rng.integers(0, 256, (12, 16, 3), np.uint8)
    smooth = Picture.fromarray(coarse).resize(_SIDES, Picture.Resampling.BICUBIC)
    grain = rng.normal(scale=8, size=(*_SIDES[::-1], 3))
    grainy = (np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8)
    Picture.fromarray(grainy).save(path, "JPEG", quality=90)


def _index_alone(say: Say) -> float:
    with scratch.database():
        corpus, seconds = synthetic.fill(Space(), VECTORS, say)
    return len(corpus.images) / seconds


def _imported(pictures: Sequence[Path], folder: Path) -> tuple[dict[str, Any], float]:
    """The report of `import` on warm workers, and the share of the cores' time that was used."""
    first, all_of_them = folder / "first", folder / "all"
    first.mkdir()
    rng = np.random.default_rng(1)
    for number in range(WARMING):
        _make(rng, first / f"{number}.jpg")
    all_of_them.mkdir()
    for number, path in enumerate(pictures):
        shutil.copy(path, all_of_them / f"{number:06}{path.suffix}")
    with scratch.appliance(_free_port()) as manage:
        manage("collection", "create", "benchmark")
        into = ("--collection", "benchmark", "--wait", "--json")
        manage("import", str(first), *into)
        before = _core_seconds()
        report = json.loads(manage("import", str(all_of_them), *into))
        used, there = (now - then for now, then in zip(_core_seconds(), before, strict=True))
    return report, used / there


def _core_seconds() -> tuple[float, float]:
    """Of all cores: in use, and altogether. See proc(5)."""
    ticks = [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return float(sum(ticks) - idle), float(sum(ticks))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
