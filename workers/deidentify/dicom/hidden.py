"""Show what a picture of stored values does not tell apart: writing may stand outside its window.

A viewer has a knob for the window. A name in the highest value over metal in nearly the highest is
white on white until somebody turns it; the object must not leave with it.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from workers.decode.stored import Stretch

Grey = npt.NDArray[np.uint8]
Values = npt.NDArray[np.generic]
Numbers = npt.NDArray[np.float64]

# A grey of the picture hides something if it stands for more values than this many greys of the
# whole range would; a grey of the whole range if it stands for more values than this.
_HIDES_GREYS = 2
_HIDES_VALUES = 16
_GREYS = 256
# Ranks are taken among so many values; writing is more than a few pixels.
_RANKED = 1 << 20
_LARGEST = 1e300


def hidden_views(stretch: Stretch) -> Iterator[tuple[str, Grey]]:
    """Yield by name (N, H, W) or (N, H, W, 3) pictures of what `stretch.shown` hides, if anything.

    "low" and "high" are the values that the window makes one black or one white, "whole" is all
    values. Names are the same for each stretch of an object.
    """
    values = _finite(stretch.values)
    if stretch.photometric == "PALETTE COLOR":
        # Two colours of a palette may be the same, or as good as.
        yield "whole", _told_apart(values, values)
        return
    if values.ndim == 4:  # noqa: PLR2004 - colours are shown whole, but of 16 bits 8
        if stretch.values.dtype.itemsize > 1:
            yield "whole", _told_apart(values, values)
        return
    shown = stretch.shown[..., 0]
    lowest, highest = np.full(_GREYS, np.inf), np.full(_GREYS, -np.inf)
    np.minimum.at(lowest, shown.ravel(), values.ravel())
    np.maximum.at(highest, shown.ravel(), values.ravel())
    span = float(highest.max() - lowest.min())
    hides = highest - lowest > _HIDES_GREYS * span / (_GREYS - 1)
    for end in (0, _GREYS - 1):
        if hides[end]:
            is_low = highest[end] < highest.max()
            yield "low" if is_low else "high", _told_apart(values, values[shown == end])
    if hides[1:-1].any() or span / (_GREYS - 1) > _HIDES_VALUES:
        yield "whole", _told_apart(values, values)


def _finite(values: Values) -> Numbers:
    """Return numbers that can be compared; what is none lies apart from all others."""
    numbers = values.astype(np.float64)
    if values.dtype.kind != "f":
        return numbers
    usual = numbers[np.isfinite(numbers)].clip(-_LARGEST, _LARGEST)
    low, high = (float(usual.min()), float(usual.max())) if usual.size else (0.0, 0.0)
    step = (high - low) / 8 or 1.0
    numbers = np.nan_to_num(numbers, nan=high + step, posinf=high + 2 * step, neginf=low - step)
    return numbers.clip(low - step, high + 2 * step)


def _told_apart(values: Numbers, among: Numbers) -> Grey:
    """Return greys that differ where `values` do, half by value and half by rank in `among`.

    By value alone one metal clip would leave all else black; by rank alone a word of few pixels
    would be as good as its surroundings. Values beyond those in `among` are black or white.
    """
    flat = among.ravel()
    ends = [flat.min(), flat.max()]
    sample = np.concatenate([flat[:: max(1, flat.size // _RANKED)], ends])
    levels, counts = np.unique(sample, return_counts=True)
    if len(levels) == 1:
        return np.zeros(values.shape, np.uint8)
    ranks = np.cumsum(counts) - counts / 2
    by_rank = (ranks - ranks[0]) / (ranks[-1] - ranks[0])
    by_value = (levels - levels[0]) / (levels[-1] - levels[0])
    greys = (_GREYS - 1) / 2 * (by_rank + by_value)
    return np.asarray(np.interp(values, levels, greys).round(), np.uint8)
