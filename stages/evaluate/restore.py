"""From the prepared grid back to the CT's own."""

import numpy as np

from cache.case import Mask
from cache.grid import Box, Grid
from cache.orientation import from_lps, lps_grid
from stages.evaluate.window import Probability
from stages.resize import resize_depth, resize_slice

THRESHOLD = 0.5


def restore_mask(
    probability: Probability, *, box: Box, source_grid: Grid, orientation: str
) -> Mask:
    """The mask on the source grid: interpolate the probability, then threshold at one half.

    Interpolating before thresholding keeps the surface smooth between prepared voxels. What lies
    outside the prepared box is background.

    Args:
        probability: of liver on the prepared grid, (Z, Y, X), LPS.
        box: what was cut out of the LPS-turned source.
        source_grid: the CT's own grid.
        orientation: where the CT's own axes point.

    Returns:
        uint8 0/1 on the source grid, array order of the CT's file.
    """
    restored = np.zeros(lps_grid(source_grid, orientation).shape_zyx, np.uint8)
    cut = restored[box.slices]
    depth, rows, columns = cut.shape
    sheets = resize_depth(probability, depth)
    for index in range(depth):
        cut[index] = resize_slice(sheets[index], (rows, columns)) > THRESHOLD
    return np.ascontiguousarray(from_lps(restored, orientation))


def inside_box(mask: Mask, *, box: Box, source_grid: Grid, orientation: str) -> Mask:
    """A mask on the source grid with everything outside the prepared box taken away."""
    inside = np.zeros(lps_grid(source_grid, orientation).shape_zyx, np.uint8)
    inside[box.slices] = 1
    kept: Mask = mask * from_lps(inside, orientation)
    return kept
