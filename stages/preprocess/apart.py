"""Whether values of a label that nothing names are parts of one organ: those touch each other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.grid import box_of

TOUCHING = 0.03  # of a value's border in plane: lesions and vessels have most of it with the liver
SLIP = 0.01  # of the voxels of all: a value of fewer is a slip of the mouse
SLICES = 12  # of those a value is in, evenly spread: enough to see whether it touches another


def values_apart(label_map: NDArray[Any], voxels: dict[int, int]) -> list[int]:
    """The values that touch no other of these, as a spleen does not touch a liver.

    Args:
        label_map: whole numbers, (Z, Y, X).
        voxels: values that are all to be liver, and how often each occurs.

    Returns:
        Ascending, the one of the most voxels apart, since a small lesion is little of a liver's
        border; empty where there is one value, or all touch another.
    """
    least = SLIP * sum(voxels.values())
    *judged, _ = sorted(voxels, key=lambda value: voxels[value]) or [0]
    judged = sorted(value for value in judged if voxels[value] >= least)
    box = box_of(label_map > 0) if judged else None
    if box is None:
        return []
    inside = label_map[box.slices]
    return [value for value in judged if _touch(inside, value, sorted(voxels)) < TOUCHING]


def _touch(label_map: NDArray[Any], value: int, values: Sequence[int]) -> float:
    """The share of a value's border, between voxels in plane, that it has with the others."""
    found = [at for at, part in enumerate(label_map) if (part == value).any()]
    border = touching = 0
    for at in found[:: max(1, len(found) // SLICES)]:
        is_value = label_map[at] == value
        is_other = np.isin(label_map[at], values) & ~is_value
        for axis in (0, 1):
            one, other = _neighbours(is_value, axis)
            border += int(np.count_nonzero(one != other))
            far_one, far_other = _neighbours(is_other, axis)
            touching += int(np.count_nonzero((one & far_other) | (other & far_one)))
    return touching / border if border else 1.0


def _neighbours(plane: NDArray[Any], axis: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Every voxel but the last along an axis, and the next of each."""
    return (plane[:-1], plane[1:]) if axis == 0 else (plane[:, :-1], plane[:, 1:])
