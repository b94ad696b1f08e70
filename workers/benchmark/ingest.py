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

from workers import cores
from workers.benchmark import scratch, stage_alone, synthetic
from workers.benchmark.processor_time import seconds_by_program, since
from workers.benchmark.stage_alone import Rate
from workers.benchmark.synthetic import Space
from workers.benchmark.table import Say, Setting, Table

DEFAULT_FILES: Final = 200
LEAST_TOLD_MS: Final = 0.1
VECTORS: Final = 5000
_SIDES: Final = (500, 375)


def tables(setting: Setting) -> Iterator[Table]:
    with tempfile.TemporaryDirectory(prefix="cloister-benchmark-") as folder:
        count = setting.files or (None if setting.images else DEFAULT_FILES)
        pictures = _pictures(setting.images, Path(folder), count)
        alone = stage_alone.rates(pictures)
        alone["index"] = _index_alone(setting.say)
        limit = 1 / sum(1 / rate.images_per_s for rate in alone.values())
        yield Table(
            "each stage alone, on all cores",
            tuple(
                {
                    "stage": stage,
                    "images/s": round(rate.images_per_s, 1),
                    "ms an image": round(1000 / rate.images_per_s, 1),
                    "processor, ms an image": round(1000 * rate.processor_s, 1),
                }
                for stage, rate in alone.items()
            ),
            "as many processes and threads as in an import; indexing: one process, vectors of 512"
            " dimensions, many in one statement, the database's processor time included",
        )
        report, busy, spent = _imported(pictures, Path(folder))
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
            f"{cores.there()} cores; the workers had seen {_warming()} pictures before",
        )
        yield _processor_time(alone, spent, len(pictures))


def _processor_time(alone: dict[str, Rate], spent: dict[str, float], pictures: int) -> Table:
    """Where the import's time went, and how much of it the stages would have taken alone."""
    stages_s = sum(rate.processor_s for rate in alone.values()) * pictures
    all_s = sum(spent.values())
    return Table(
        "processor time of the import",
        tuple(
            {
                "program": program,
                "ms an image": round(1000 * seconds / pictures, 1),
                "share": f"{seconds / all_s:.1%}",
            }
            for program, seconds in sorted(spent.items(), key=lambda each: -each[1])
            if 1000 * seconds / pictures >= LEAST_TOLD_MS
        ),
        f"the stages alone take {stages_s / all_s:.2f} of it, whatever else runs here",
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


def _index_alone(say: Say) -> Rate:
    with scratch.database():
        before = seconds_by_program()
        corpus, seconds = synthetic.fill(Space(), VECTORS, say)
        used_s = sum(since(before).values())
    return Rate(len(corpus.images) / seconds, used_s / len(corpus.images))


def _imported(
    pictures: Sequence[Path], folder: Path
) -> tuple[dict[str, Any], float, dict[str, float]]:
    """The report of `import` on warm workers, the share of the cores' time that was used, and the
    seconds of it by program."""
    first, all_of_them = folder / "first", folder / "all"
    first.mkdir()
    rng = np.random.default_rng(1)
    for number in range(_warming()):
        _make(rng, first / f"{number}.jpg")
    all_of_them.mkdir()
    for number, path in enumerate(pictures):
        shutil.copy(path, all_of_them / f"{number:06}{path.suffix}")
    with scratch.appliance(_free_port()) as manage:
        manage("collection", "create", "benchmark", "--no-parts")
        into = ("--collection", "benchmark", "--wait", "--json")
        manage("import", str(first), *into)
        before, spent, children = _core_seconds(), seconds_by_program(), _ended_children_s()
        report = json.loads(manage("import", str(all_of_them), *into))
        used, there = (now - then for now, then in zip(_core_seconds(), before, strict=True))
        spent = since(spent)
        del spent["this"]  # the benchmark itself, which waited
        spent["import"] = _ended_children_s() - children
    return report, used / there, spent


def _warming() -> int:
    """Pictures that go through first, uncounted: each worker is slow with its first one."""
    return max(8, 4 * cores.there())


def _ended_children_s() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _core_seconds() -> tuple[float, float]:
    """Of all cores: in use, and altogether. See proc(5)."""
    ticks = [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return float(sum(ticks) - idle), float(sum(ticks))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
