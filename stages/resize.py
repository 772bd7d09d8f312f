"""Bringing arrays to another shape over the same extent: linear for intensities, nearest for masks.

Outer corners stay where they are, so voxel centres shift (torch calls this
``align_corners=False``). Pillow's separable BILINEAR is used for intensities: it is linear where
an axis grows and averages over the covered voxels where it shrinks (anti-aliasing), equal to
torch's antialiased bilinear to 0.004 HU and faster than SimpleITK with Gaussians.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cache.grid import Triple

Floats = NDArray[np.float32]


def resize_linear(volume: NDArray[np.generic], shape_zyx: Triple) -> Floats:
    """A (Z, Y, X) array of numbers on another shape, float32, anti-aliased where it shrinks."""
    if volume.shape[0] < shape_zyx[0]:  # the cheaper pass first: grow last
        volume = np.stack(list(_resized_slices(volume, shape_zyx)))
        return resize_depth(volume, shape_zyx[0])
    return np.stack(list(_resized_slices(resize_depth(volume, shape_zyx[0]), shape_zyx)))


def resize_depth(volume: NDArray[np.generic], depth: int) -> Floats:
    """A (Z, Y, X) array with another number of slices, float32; slices keep their shape."""
    floats = np.ascontiguousarray(volume, dtype=np.float32)
    if floats.shape[0] == depth:
        return floats
    _, rows, columns = floats.shape
    sheet = resize_slice(floats.reshape(floats.shape[0], -1), (depth, rows * columns))
    return sheet.reshape(depth, rows, columns)


def resize_slice(plane: NDArray[np.generic], shape_yx: tuple[int, int]) -> Floats:
    """A (Y, X) array on another shape, float32, anti-aliased where it shrinks."""
    floats = np.ascontiguousarray(plane, dtype=np.float32)
    if floats.shape == shape_yx:
        return floats
    image = Image.fromarray(floats).resize(shape_yx[::-1], Image.Resampling.BILINEAR)
    return np.asarray(image)


def resize_nearest(mask: NDArray[np.uint8], shape_zyx: Triple) -> NDArray[np.uint8]:
    """A (Z, Y, X) mask on another shape: each voxel takes the value at its centre."""
    for axis, new in enumerate(shape_zyx):
        old = mask.shape[axis]
        if old != new:
            centres = ((np.arange(new) + 0.5) * old / new).astype(np.intp)
            mask = mask.take(centres, axis=axis)
    return np.ascontiguousarray(mask)


def _resized_slices(volume: NDArray[np.generic], shape_zyx: Triple) -> Iterator[Floats]:
    for plane in volume:
        yield resize_slice(plane, shape_zyx[1:])
