"""Bringing arrays to another shape over the same extent: intensities, probabilities and masks.

Outer corners stay where they are, so voxel centres shift (torch calls this
``align_corners=False``). Pillow's separable BILINEAR is linear where an axis grows and averages
over the covered voxels where it shrinks (anti-aliasing), as torch's antialiased bilinear does
(to 0.02 HU on noise from -1000 to 1500 HU).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cache.case import Mask
from cache.grid import Triple

Floats = NDArray[np.float32]
Numbers = NDArray[Any]

FULL = np.uint8(255)  # a voxel that is all liver, in the 8 bits Pillow resizes fastest
HALF = 128


def resize_linear(volume: Numbers, shape_zyx: Triple) -> Floats:
    """A (Z, Y, X) array of numbers on another shape, float32, anti-aliased where it shrinks."""
    return _resized(volume, shape_zyx, np.float32)


def resize_mask(mask: Mask, shape_zyx: Triple) -> Mask:
    """A (Z, Y, X) mask on another shape: 1 where at least half of a voxel is, 0 elsewhere.

    Taking the value at each new voxel's centre (nearest neighbour) loses more on the way to a
    coarser grid and back; docs/decisions/0007-masks.md has the measurement.
    """
    share = _resized(mask * FULL, shape_zyx, np.uint8)
    return (share >= HALF).astype(np.uint8)


def resize_depth(volume: Numbers, depth: int) -> Floats:
    """A (Z, Y, X) array with another number of slices, float32; slices keep their shape."""
    return _resized_depth(volume, depth, np.float32)


def resize_slice(plane: Numbers, shape_yx: tuple[int, int]) -> Floats:
    """A (Y, X) array on another shape, float32, anti-aliased where it shrinks."""
    return _resized_slice(plane, shape_yx, np.float32)


def _resized(volume: Numbers, shape_zyx: Triple, dtype: type[np.generic]) -> Numbers:
    depth, rows, columns = shape_zyx
    if volume.shape[0] > depth:  # the slices first where there are fewer, last where more
        volume = _resized_depth(volume, depth, dtype)
    slices = [_resized_slice(plane, (rows, columns), dtype) for plane in volume]
    return _resized_depth(np.stack(slices), depth, dtype)


def _resized_depth(volume: Numbers, depth: int, dtype: type[np.generic]) -> Numbers:
    slices, rows, columns = volume.shape
    if slices == depth:
        return np.ascontiguousarray(volume, dtype=dtype)
    sheet = np.ascontiguousarray(volume).reshape(slices, rows * columns)
    return _resized_slice(sheet, (depth, rows * columns), dtype).reshape(depth, rows, columns)


def _resized_slice(plane: Numbers, shape_yx: tuple[int, int], dtype: type[np.generic]) -> Numbers:
    numbers = np.ascontiguousarray(plane, dtype=dtype)
    if numbers.shape == shape_yx:
        return numbers
    image = Image.fromarray(numbers).resize(shape_yx[::-1], Image.Resampling.BILINEAR)
    return np.asarray(image)
