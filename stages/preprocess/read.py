"""Reading one file with SimpleITK, after making sure that it is whole.

This is the only module of the stage where arrays meet SimpleITK's x, y, z order.
"""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone uses
from numpy.typing import NDArray

from cache.case import Mask, Volume
from cache.errors import SourceError
from cache.grid import Grid, triple, triple_mm
from stages.preprocess.sniff import GZIP_MAGIC, readable

EXPORT_AGAIN = "export or download the file again, or list the case under data.exclude"
INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class SourceVolume:
    """A file's voxels as they are stored, (Z, Y, X) in the file's own order and data type."""

    path: Path
    array: NDArray[Any]
    grid: Grid
    orientation: str


def read_source(path: Path) -> SourceVolume:
    """Read a CT or label file.

    Raises:
        SourceError: the file is cut short, is not one three-dimensional volume of plain numbers,
            or SimpleITK refuses it.
    """
    with readable(path) as openable:
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(openable))
        try:
            # the header alone decides most rejections; a bad case's voxels are never decompressed
            reader.ReadImageInformation()
            _require_plain_volume(path, reader)
            _require_whole_file(path, reader)
            image = reader.Execute()
        except RuntimeError as error:
            raise SourceError(path, f"cannot be read: {_reason(error)}", EXPORT_AGAIN) from error
    grid = Grid(
        triple(image.GetSize()[::-1]),
        triple_mm(image.GetSpacing()[::-1]),
        triple_mm(image.GetOrigin()),
        tuple(float(cosine) for cosine in image.GetDirection()),
    )
    orientation = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(grid.direction)
    return SourceVolume(path, sitk.GetArrayFromImage(image), grid, orientation)


def as_hu(source: SourceVolume) -> Volume:
    """The voxels as int16 HU: fractions rounded, values beyond int16 clipped.

    Raises:
        SourceError: some voxels are not numbers (NaN) or infinite.
    """
    array = source.array
    if array.dtype == np.int16:
        return np.asarray(array, np.int16)
    if array.dtype.kind == "f":
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        if bad:
            raise SourceError(source.path, f"{bad} voxels are NaN or infinite", EXPORT_AGAIN)
        array = np.rint(array)
    return np.clip(array, INT16.min, INT16.max).astype(np.int16)


def binarize(label_map: NDArray[Any], liver_values: list[int] | None) -> Mask:
    """The liver as 0/1: every value above zero (None), or the listed ones."""
    if liver_values is None:
        return (label_map > 0).astype(np.uint8)
    return np.isin(label_map, liver_values).astype(np.uint8)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_plain_volume(path: Path, reader: sitk.ImageFileReader) -> None:
    fix = "export one three-dimensional volume of plain numbers"
    if reader.GetDimension() != 3:
        sizes = "·".join(str(side) for side in reader.GetSize())
        raise SourceError(path, f"has {reader.GetDimension()} dimensions ({sizes}), not 3", fix)
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if reader.GetNumberOfComponents() != 1 or "complex" in kind or "vector" in kind:
        raise SourceError(path, f"holds several numbers per voxel ({kind})", fix)


def _require_whole_file(path: Path, reader: sitk.ImageFileReader) -> None:
    """Refuse a NIfTI file that ends early: SimpleITK reads it and fills up with zeros."""
    keys = reader.GetMetaDataKeys()
    if "vox_offset" not in keys or "bitpix" not in keys:
        return  # not NIfTI; the other readers notice by themselves
    voxel_bytes = int(reader.GetMetaData("bitpix")) // 8
    voxels = int(np.prod(np.array(reader.GetSize(), dtype=np.int64)))
    needed = int(float(reader.GetMetaData("vox_offset"))) + voxels * voxel_bytes
    found = _content_bytes(path, needed)
    if found < needed:
        fact = f"ends early: {found:,} of {needed:,} bytes are there"
        raise SourceError(path, fact, EXPORT_AGAIN)


def _content_bytes(path: Path, needed: int) -> int:
    """Bytes a file holds, after inflating if it is gzip; inflated only if its trailer disagrees."""
    with path.open("rb") as file:
        if file.read(2) != GZIP_MAGIC:
            return path.stat().st_size
        file.seek(-4, 2)
        trailer = int.from_bytes(file.read(4), "little")
    # the trailer states the size modulo 4 GiB; padding after the voxels is allowed
    if trailer >= needed % (1 << 32) and trailer - needed % (1 << 32) < (1 << 16):
        return needed
    return _inflated_bytes(path)


def _inflated_bytes(path: Path) -> int:
    """Count by inflating all: several gzip members in a row state only the last one's size."""
    count = 0
    try:
        with gzip.open(path) as file:
            while block := file.read(1 << 24):
                count += len(block)
    except (EOFError, OSError, zlib.error):
        return count
    return count


def _reason(error: RuntimeError) -> str:
    """The last line of SimpleITK's message, which is the one that says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
