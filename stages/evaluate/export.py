"""Writing a mask or a probability as an image file in the CT's geometry."""

import errno
import gzip
import zlib
from pathlib import Path
from typing import Any

import SimpleITK as sitk  # noqa: N813 - the name everyone uses
from numpy.typing import NDArray

from cache.case import Mask
from cache.errors import DataError
from cache.files import replacing
from cache.grid import Grid
from stages.evaluate.window import Probability

# One file with all of the geometry. Others lose it (png, tif), need a second file beside (mhd,
# hdr), which replacing() would leave under its temporary name, or crash the process (dcm).
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
NIFTI_HEADER = 352  # bytes before the voxels
READ_BYTES = 1 << 20  # at once


def require_ending(path: Path) -> None:
    """Refuse a name whose ending is no format for masks, before any work is done.

    Raises:
        DataError: names the endings there are.
    """
    if not has_ending(path):
        fix = "give an --out that ends in .nii.gz"
        raise DataError(path, f"has none of the endings {', '.join(ENDINGS)}", fix)


def has_ending(path: Path) -> bool:
    """Whether a name's ending is a format for masks."""
    return path.name.endswith(ENDINGS)


def beside(path: Path, words: str, ending: str | None = None) -> Path:
    """The path beside a mask's with some words after its name, and its ending or another."""
    own = _ending(path)
    return path.with_name(f"{path.name.removesuffix(own)}{words}{ending or own}")


def _ending(path: Path) -> str:
    return next(each for each in ENDINGS if path.name.endswith(each))


def write_mask(path: Path, mask: Mask, grid: Grid) -> None:
    """Write a mask on its grid, compressed; the file's ending chooses the format.

    Args:
        path: where to; an existing file is replaced, whole or not at all.
        mask: uint8, array order of the CT's file.
        grid: the CT's own grid.

    Raises:
        DataError: no format for masks has this ending, or it cannot be written there.
    """
    _write(path, mask, grid)


def write_probability(path: Path, probability: Probability, grid: Grid) -> None:
    """Write a probability as ``write_mask`` writes a mask.

    Args:
        path: where to; an existing file is replaced, whole or not at all.
        probability: float32 in [0, 1], array order of the CT's file.
        grid: the CT's own grid.

    Raises:
        DataError: no format for masks has this ending, or it cannot be written there.
    """
    _write(path, probability, grid)


def unwritable(path: Path, error: Exception) -> DataError:
    """What to say of a file that a library or the disk refused to write."""
    reason = str(error).strip().splitlines()[-1]
    fix = "give an --out in a folder that can be written"
    return DataError(path, f"cannot be written: {reason}", fix)


def _write(path: Path, voxels: NDArray[Any], grid: Grid) -> None:
    require_ending(path)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(grid.spacing_zyx_mm[::-1])
    image.SetOrigin(grid.origin_xyz_mm)
    image.SetDirection(grid.direction)
    try:
        with replacing(path) as partial:
            # SimpleITK ends the process at a name that is no UTF-8
            plain = partial.with_name("image" + _ending(path))
            sitk.WriteImage(image, str(plain), useCompression=True)
            _require_whole(plain, voxels.nbytes)
            plain.rename(partial)
    except (RuntimeError, OSError, EOFError, zlib.error) as error:
        raise unwritable(path, error) from error


def _require_whole(path: Path, voxel_bytes: int) -> None:
    """Make sure that a NIfTI file holds its voxels: on a full disk its writer says nothing.

    Raises:
        OSError, EOFError, zlib.error: it does not.
    """
    if not path.name.endswith((".nii", ".nii.gz")):
        return  # the writers of the others complain
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
        found = sum(len(part) for part in iter(lambda: file.read(READ_BYTES), b""))
    if found < NIFTI_HEADER + voxel_bytes:
        raise OSError(errno.ENOSPC, "only a part of it was written; is the disk full?")
