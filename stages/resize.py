"""Bringing arrays to another shape over the same extent: intensities, probabilities and masks.

Outer corners stay where they are, so voxel centres shift (torch calls this
``align_corners=False``). Each axis is a sparse matrix of weights: linear where the axis grows, and
averaging over the covered voxels with a triangle where it shrinks (anti-aliasing), which is what
Pillow's BILINEAR and torch's antialiased bilinear do. docs/decisions/0008-resizing.md has the
measurement.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.case import Mask
from cache.grid import Triple

Floats = NDArray[np.float32]
Numbers = NDArray[Any]

HALF = 0.5 - 1e-6  # float32 sums of weights may miss the half by so much


def resize_planes(planes: Iterable[Numbers], depth: int, shape_zyx: Triple) -> Iterator[Floats]:
    """The slices of a volume on another shape, one after the other.

    Only the old slices that the next new one is made of are held resized, so that a whole volume
    of floats never is.

    Args:
        planes: the old slices, (Y, X), from the first to the last; a (Z, Y, X) array is such.
        depth: how many they are.
        shape_zyx: the new shape.

    Yields:
        float32 (Y, X), anti-aliased where it shrinks; to be read only.
    """
    along = weights(depth, shape_zyx[0])
    coming, held = enumerate(planes), dict[int, Floats]()
    for number in range(shape_zyx[0]):
        row = slice(along.indptr[number], along.indptr[number + 1])
        needed = along.indices[row]
        held = {index: held[index] for index in needed if index in held}
        while needed[-1] not in held:
            index, plane = next(coming)
            if index >= needed[0]:
                held[index] = _resized_slice(plane, shape_zyx[1:])
        yield _sum(held, needed, along.data[row])


def resize_volume(volume: NDArray[np.int16], shape_zyx: Triple) -> NDArray[np.int16]:
    """A (Z, Y, X) int16 array on another shape, rounded; anti-aliased where it shrinks."""
    resized = np.empty(shape_zyx, np.int16)
    for number, plane in enumerate(resize_planes(volume, len(volume), shape_zyx)):
        np.rint(plane, out=resized[number], casting="unsafe")
    return resized


def resize_mask(mask: Mask, shape_zyx: Triple) -> Mask:
    """A (Z, Y, X) mask on another shape: 1 where at least half of a voxel is, 0 elsewhere.

    Taking the value at each new voxel's centre (nearest neighbour) loses more on the way to a
    coarser grid and back; docs/decisions/0007-masks.md has the measurement.
    """
    if mask.shape == shape_zyx:
        return np.ascontiguousarray(mask)
    resized = np.empty(shape_zyx, np.uint8)
    for number, plane in enumerate(resize_planes(mask, len(mask), shape_zyx)):
        np.greater_equal(plane, HALF, out=resized[number].view(bool))
    return resized


def resize_slice(plane: Numbers, shape_yx: tuple[int, int]) -> Floats:
    """A (Y, X) array on another shape, float32, anti-aliased where it shrinks."""
    rows, columns = shape_yx
    numbers: Floats = np.ascontiguousarray(plane, dtype=np.float32)
    if rows != numbers.shape[0]:
        numbers = weights(numbers.shape[0], rows) @ numbers
    if columns != numbers.shape[1]:
        turned = weights(numbers.shape[1], columns) @ np.ascontiguousarray(numbers.T)
        numbers = np.ascontiguousarray(turned.T)
    return numbers


@lru_cache(maxsize=64)
def weights(old: int, new: int) -> Any:
    """How much of each old voxel is in each new one, along one axis.

    Returns:
        Sparse float32 (new, old), each row adding up to 1: a triangle around the new voxel's
        centre, as wide as two of the larger of both voxels, cut off at the ends of the axis.
    """
    from scipy import sparse  # 0.15 s to import, which preprocessing to the native grid spares

    scale = old / new
    reach = max(scale, 1.0)
    rows, columns, values = [], [], []
    for number in range(new):
        centre = (number + 0.5) * scale
        first = max(0, int(np.floor(centre - reach)))
        last = min(old, int(np.ceil(centre + reach)))
        distance = np.abs(np.arange(first, last) + 0.5 - centre) / reach
        triangle = np.maximum(0.0, 1.0 - distance)
        kept = np.flatnonzero(triangle)
        rows += [number] * kept.size
        columns += (first + kept).tolist()
        values += (triangle[kept] / triangle.sum()).tolist()
    shares = np.array(values, np.float32)
    return sparse.csr_matrix((shares, (rows, columns)), shape=(new, old))


def _resized_slice(plane: Numbers, shape_yx: tuple[int, int]) -> Floats:
    if not plane.any():  # most slices of a liver's mask
        return np.zeros(shape_yx, np.float32)
    return resize_slice(plane, shape_yx)


def _sum(held: dict[int, Floats], indices: NDArray[np.int32], shares: Floats) -> Floats:
    if len(indices) == 1:
        return held[indices[0]]
    total: Floats = held[indices[0]] * shares[0]
    for index, share in zip(indices[1:], shares[1:], strict=True):
        total += held[index] * share
    return total
