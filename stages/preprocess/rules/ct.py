"""Rules about a CT's voxels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.case import AIR_HU, Volume
from stages.preprocess.problems import Finding

EXPORT_AGAIN = "export or download the file again, or list the case under data.exclude"
# air is -1000; sharp kernels and resampling with splines overshoot it by a third
LOWEST_HU = -1500
HIGHEST_HU = 30_710  # where the extended scale of scanners ends
PADDING_SHARE = 0.001  # of the voxels at one value below the lowest: no noise does that
DENSEST_AIR_HU = -800  # something in a CT must be at most this dense: the air around the body
THINNEST_BODY_HU = -300  # and something must be denser than this


def finite(path: Path, array: NDArray[Any]) -> Finding | None:
    """Every voxel is a number. Those that are none can be taken for air, unless they are many."""
    if array.dtype.kind != "f":
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum(dtype=np.float64)):
            return None
    nan = int(np.isnan(array).sum())
    infinite = int(np.isinf(array).sum())
    if nan + infinite == 0:  # the sum alone was too large
        return None
    fact = f"{nan} voxels are NaN and {infinite} infinite, of {array.size}"
    fixable = infinite == 0 and nan < array.size / 2
    return Finding("finite", path, fact, EXPORT_AGAIN, fixable=fixable)


@dataclass(frozen=True)
class HuRange:
    """Where a CT's values lie, found once for all the rules that ask.

    Attributes:
        low: the smallest value.
        high: the largest.
        padding: the value that fills what was not scanned, such as -3024 or -2000, which is then
            ``low``; None if there is none.
        lowest_scanned: the smallest value apart from the padding.
    """

    low: int
    high: int
    padding: int | None
    lowest_scanned: int

    @classmethod
    def of(cls, hu: Volume) -> "HuRange":
        """The range of int16 HU, (Z, Y, X)."""
        low, high = int(hu.min()), int(hu.max())
        if low >= LOWEST_HU or np.count_nonzero(hu == low) < PADDING_SHARE * hu.size:
            return cls(low, high, None, low)
        return cls(low, high, low, int(hu[hu != low].min(initial=high)))


def padding(path: Path, hu: Volume, values: HuRange) -> Finding | None:
    """No value far below air fills what was not scanned; it can be made air."""
    if values.padding is None:
        return None
    share = float(np.count_nonzero(hu == values.padding)) / hu.size
    fact = f"{share:.1%} of its voxels are {values.padding}, which marks what was not scanned"
    return Finding("padding", path, fact, "replace it by -1000, which is air", fixable=True)


def without_padding(hu: Volume, values: HuRange) -> Volume:
    """The CT with air where padding was; the very array if there is none."""
    if values.padding is None:
        return hu
    return np.where(hu == values.padding, np.int16(AIR_HU), hu)


def hu_limits(path: Path, values: HuRange) -> Finding | None:
    """Nothing below -1500 or above 30710 HU, padding apart."""
    low, high = values.lowest_scanned, values.high
    if low >= LOWEST_HU and high <= HIGHEST_HU:
        return None
    fact = f"values run from {low} to {high}; a CT has {LOWEST_HU} to {HIGHEST_HU} HU at most"
    return Finding("hu_limits", path, fact, "check the rescale slope and intercept of the export")


def hu_range(path: Path, values: HuRange) -> Finding | None:
    """There is air, padding apart, and tissue; without them the values are probably not HU."""
    low, high = values.lowest_scanned, values.high
    if low <= DENSEST_AIR_HU and high >= THINNEST_BODY_HU:
        return None
    fact = f"values run from {low} to {high}; a CT in HU has air near -1000 and tissue near 0"
    if low >= -100 and high >= 1000:
        fact += "; it looks as if the rescale intercept, usually -1024, was left out"
    return Finding("hu_range", path, fact, "check the rescale slope and intercept of the export")
