"""Writing a mask as an image file in the CT's geometry."""

from pathlib import Path

import SimpleITK as sitk  # noqa: N813 - the name everyone uses

from cache.case import Mask
from cache.errors import DataError
from cache.files import replacing
from cache.grid import Grid

# One file with all of the geometry. Others lose it (png, tif), need a second file beside (mhd,
# hdr), which replacing() would leave under its temporary name, or crash the process (dcm).
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")


def require_ending(path: Path) -> None:
    """Refuse a name whose ending is no format for masks, before any work is done.

    Raises:
        DataError: names the endings there are.
    """
    if not path.name.endswith(ENDINGS):
        fix = "give an --out that ends in .nii.gz"
        raise DataError(path, f"has none of the endings {', '.join(ENDINGS)}", fix)


def write_mask(path: Path, mask: Mask, grid: Grid) -> None:
    """Write a mask on its grid, compressed; the file's ending chooses the format.

    Args:
        path: where to; an existing file is replaced, whole or not at all.
        mask: uint8, array order of the CT's file.
        grid: the CT's own grid.

    Raises:
        DataError: no format for masks has this ending, or it cannot be written there.
    """
    require_ending(path)
    image = sitk.GetImageFromArray(mask)
    image.SetSpacing(grid.spacing_zyx_mm[::-1])
    image.SetOrigin(grid.origin_xyz_mm)
    image.SetDirection(grid.direction)
    try:
        with replacing(path) as partial:
            sitk.WriteImage(image, str(partial), useCompression=True)
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
        fix = "give an --out in a folder that can be written"
        raise DataError(path, f"cannot be written: {reason}", fix) from error
