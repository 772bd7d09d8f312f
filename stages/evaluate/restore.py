"""From the prepared grid back to the CT's own."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cache.case import Mask
from cache.grid import Box, Grid
from cache.orientation import from_lps, lps_grid, to_lps
from stages.evaluate.window import Probability
from stages.resize import resize_planes

THRESHOLD = 0.5


@dataclass(frozen=True)
class Place:
    """Where a prepared volume came from: all that is needed to go back.

    Attributes:
        box: what was cut out of the LPS-turned source.
        source_grid: the CT's own grid.
        orientation: where the CT's own axes point.
    """

    box: Box
    source_grid: Grid
    orientation: str


@dataclass(frozen=True)
class Restored:
    """A prediction on the source grid, in the array order of the CT's file.

    Attributes:
        mask: uint8 0/1.
        probability: float32 in [0, 1]; None unless it was asked for.
    """

    mask: Mask
    probability: Probability | None


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
    place = Place(box, source_grid, orientation)
    return restore(probability, len(probability), place).mask


def restore(
    planes: Iterable[Probability], depth: int, place: Place, *, with_probability: bool = False
) -> Restored:
    """``restore_mask`` plane by plane, so that no volume of probabilities need exist.

    Args:
        planes: the probability of liver on the prepared grid, (Y, X), LPS, from the first plane to
            the last.
        depth: how many they are.
        place: where the prepared volume came from.
        with_probability: keep what is thresholded too, as it was interpolated; 0 outside the box.
    """
    shape = place.source_grid.shape_zyx
    mask = np.zeros(shape, np.uint8)
    probability = np.zeros(shape, np.float32) if with_probability else None
    # views: what is written into them lies in the file's order at once
    cut = to_lps(mask, place.orientation)[place.box.slices]
    cut_probability = None
    if probability is not None:
        cut_probability = to_lps(probability, place.orientation)[place.box.slices]
    for index, plane in enumerate(resize_planes(planes, depth, place.box.shape_zyx)):
        cut[index] = plane > THRESHOLD
        if cut_probability is not None:
            # sums of weights are 1 to rounding
            np.clip(plane, 0, 1, out=cut_probability[index])
    return Restored(mask, probability)


def inside_box(mask: Mask, *, box: Box, source_grid: Grid, orientation: str) -> Mask:
    """A mask on the source grid with everything outside the prepared box taken away."""
    inside = np.zeros(lps_grid(source_grid, orientation).shape_zyx, np.uint8)
    inside[box.slices] = 1
    kept: Mask = mask * from_lps(inside, orientation)
    return kept
