"""One private step on adapters inside an image tower, with and without ghost clipping."""

from collections.abc import Iterator

from workers.benchmark.table import Cell, Setting, Table
from workers.finetune import tower


def tables(setting: Setting) -> Iterator[Table]:
    """Throughput and peak memory on the device at hand; `files` is the largest batch."""
    rows: list[dict[str, Cell]] = [
        {
            "tower": cost.tower,
            "clipping": cost.clipping,
            "device": cost.device,
            "precision": cost.precision,
            "batch": cost.batch,
            "images/s": round(cost.images_per_s, 2),
            "peak MiB": cost.peak_mib,
        }
        for name in tower.BATCHES
        for cost in tower.costs(name, at_most=setting.files)
    ]
    yield Table(
        "adapters in an image tower, one private step",
        tuple(rows),
        "random weights; peak: what the step holds beyond the tower itself",
    )
