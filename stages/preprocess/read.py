"""Reading one file with SimpleITK, after making sure that it is whole.

This is the only module of the stage where SimpleITK's x, y, z order becomes an array's z, y, x.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone uses
from numpy.typing import NDArray

from cache.case import Mask, Volume
from cache.errors import SourceError
from cache.grid import Grid, triple, triple_mm
from stages.preprocess.intact import EXPORT_AGAIN, require_checksum, require_whole_file
from stages.preprocess.sniff import data_files, readable

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
        SourceError: the file is cut short or damaged, is not one three-dimensional volume of plain
            numbers, or SimpleITK refuses it.
    """
    with readable(path) as openable:
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(openable))
        try:
            # the header alone decides most rejections; a bad case's voxels are never decompressed
            reader.ReadImageInformation()
            _require_plain_volume(path, reader)
            require_whole_file(path, reader)
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
    array = sitk.GetArrayFromImage(image)
    require_checksum(path, array)
    return SourceVolume(path, array, grid, orientation)


def as_hu(source: SourceVolume) -> Volume:
    """The voxels as int16 HU: fractions rounded, values beyond int16 clipped.

    Raises:
        SourceError: some voxels are not numbers (NaN) or infinite.
    """
    array = source.array
    if array.dtype.kind == "f":
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        if bad:
            raise SourceError(source.path, f"{bad} voxels are NaN or infinite", EXPORT_AGAIN)
        array = np.rint(array)
    if array.dtype != np.int16:
        array = np.clip(array, INT16.min, INT16.max)
    hu: Volume = array.astype(np.int16, copy=False)
    return hu


def binarize(label_map: NDArray[Any], liver_values: list[int] | None) -> Mask:
    """The liver as 0/1: every value above zero (None), or the listed ones."""
    if liver_values is None:
        return (label_map > 0).astype(np.uint8)
    return np.isin(label_map, liver_values).astype(np.uint8)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, followed by those of its data file if it is a mere header."""
    digest = hashlib.sha256()
    for part in (path, *data_files(path)):
        with part.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _require_plain_volume(path: Path, reader: sitk.ImageFileReader) -> None:
    fix = "export one three-dimensional volume of plain numbers"
    if reader.GetDimension() != 3:
        sizes = "·".join(str(side) for side in reader.GetSize())
        raise SourceError(path, f"has {reader.GetDimension()} dimensions ({sizes}), not 3", fix)
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if reader.GetNumberOfComponents() != 1 or "complex" in kind or "vector" in kind:
        raise SourceError(path, f"holds several numbers per voxel ({kind})", fix)


def _reason(error: RuntimeError) -> str:
    """The last line of SimpleITK's message, which is the one that says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
