"""A label that is a folder with one PNG image per slice, as CHAOS gives it."""

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cache.errors import SourceError
from cache.grid import Grid
from stages.preprocess.reading.regular import require_regular

# what Pillow raises on damaged bytes, or on more pixels than a slice can have
UNREADABLE = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OSError,
    SyntaxError,
    ValueError,
    struct.error,
    zlib.error,
)
FIX = "put one PNG image per slice of the CT into the folder, named in their order"


def png_files(folder: Path) -> list[Path]:
    """The images of a folder in the order of the numbers in their names: 2 before 10."""
    images = (path for path in folder.glob("*.png") if not path.name.startswith("."))
    return sorted(images, key=lambda path: _natural(path.name))


def read_png_stack(folder: Path, grid: Grid) -> NDArray[Any]:
    """A label from images, (Z, Y, X) in the order of the CT's slices.

    The images run from head to feet, against z of most CTs. They carry no geometry, so their grid
    is the CT's.

    Raises:
        SourceError: there are not as many as the CT has slices, or one is of another size, which
            is looked at before an image is decoded.
    """
    files = png_files(folder)
    depth, height, width = grid.shape_zyx
    if len(files) != depth:
        fact = f"holds {len(files)} images, but the CT has {depth} slices"
        raise SourceError(folder, fact, FIX, rule="label_grid")
    images = [_read(file, width, height) for file in files]
    is_upwards = grid.direction[8] >= 0
    return np.stack(images[::-1] if is_upwards else images)


def _read(path: Path, width: int, height: int) -> NDArray[Any]:
    """One image, of which nothing is decoded before its size is known to be the CT's."""
    require_regular(path)
    try:
        with Image.open(path) as image:
            if image.size != (width, height):
                sides = "·".join(map(str, image.size))
                fact = f"has {sides} pixels, the CT {width}·{height}"
                raise SourceError(path, fact, FIX, rule="label_grid")
            pixels = np.asarray(image)
    except UNREADABLE as error:
        raise SourceError(path, f"cannot be read as an image ({error})", FIX) from error
    if pixels.ndim != 2:
        raise SourceError(path, "is a colour image, not a label", FIX, rule="plain_numbers")
    return pixels.astype(np.uint8) if pixels.dtype == bool else pixels


def _natural(name: str) -> list[tuple[int, str]]:
    """The numbers of a name as numbers; of the digits there are, only those that make one."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if index % 2 else (0, part) for index, part in enumerate(parts)]
