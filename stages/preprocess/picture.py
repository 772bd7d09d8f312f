"""A picture per case: the slice through the middle of the liver, with the label's outline."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cache.case import Mask, Volume
from cache.grid import TripleMm

SOFT_TISSUE_HU = (-160, 240)  # shown black and white
# the report's blue for the truth, purer: a line of one pixel must stand out on a bright liver too
OUTLINE_COLOUR = "#00D5FF"
LONGEST_SIDE = 224  # pixels; with the quality about 10 KB, so that 1000 cases make a 13 MB page
QUALITY = 80


def case_picture(volume: Volume, mask: Mask, spacing_zyx_mm: TripleMm) -> bytes:
    """Draw one axial slice and the liver's outline on it.

    The slice is the median of the liver's voxels, half of which lie below it; without a liver it
    is the middle one. Shown as radiologists do: the patient's left is on the right.

    Args:
        volume: (Z, Y, X) int16 in HU, LPS; only the one slice of it is touched.
        mask: the same shape, uint8 of 0 and 1; may be empty. All of it is counted, which takes
            2 ms of 200·512·512 in C order and 100 times as long in an order far from it.
        spacing_zyx_mm: distance between voxel centres.

    Returns:
        A JPEG in RGB, 224 pixels along its longer side, each as wide as high. The same arrays
        give the same bytes.
    """
    at = liver_slice(mask)
    size = _display_size(volume.shape[1:], spacing_zyx_mm[1:])
    pixels = np.asarray(_resized(_windowed(volume[at]), size))
    picture = np.stack([pixels] * 3, axis=-1)
    picture[_outline(_shown(mask[at], size))] = _rgb(OUTLINE_COLOUR)
    buffer = io.BytesIO()
    # 4:4:4, or the colour of a line one pixel wide is washed out over its neighbours
    Image.fromarray(picture).save(buffer, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
    return buffer.getvalue()


def liver_slice(mask: Mask) -> int:
    """The slice in which the median of the mask's voxels lies; the middle one of an empty mask."""
    # as bool: NumPy counts those ten times as fast as bytes, and over an axis it would copy
    counts = [np.count_nonzero(plane) for plane in mask.view(np.bool_)]
    below = np.cumsum(counts)
    if not below[-1]:
        return len(counts) // 2
    return int(np.searchsorted(below, (below[-1] + 1) // 2))


def _display_size(shape_yx: tuple[int, ...], spacing_yx_mm: tuple[float, ...]) -> tuple[int, int]:
    """Width and height in pixels as wide as high; a strip keeps one pixel at least."""
    height, width = (side * mm for side, mm in zip(shape_yx, spacing_yx_mm, strict=True))
    scale = LONGEST_SIDE / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _windowed(plane: NDArray[np.int16]) -> NDArray[np.uint8]:
    """HU as grey values; what is outside the window is black or white."""
    low, high = SOFT_TISSUE_HU
    grey = (plane.astype(np.float32) - low) * (255 / (high - low))
    shown: NDArray[np.uint8] = np.rint(grey.clip(0, 255)).astype(np.uint8)
    return shown


def _resized(plane: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    # Pillow's bilinear filter widens when it shrinks, so thin vessels do not flicker away
    return Image.fromarray(np.ascontiguousarray(plane)).resize(size, Image.Resampling.BILINEAR)


def _shown(plane: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask in display pixels; a liver smaller than one of them still shows."""
    share = np.asarray(_resized(plane * np.uint8(255), size))
    inside = share >= 128
    return inside if inside.any() else share > 0


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask's own pixels that touch what is outside of it; the picture's rim is outside."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour.removeprefix("#")))
