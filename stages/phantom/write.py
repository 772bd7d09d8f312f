"""One phantom to its two NIfTI files, each whole or not at all."""

from pathlib import Path
from typing import Any

import SimpleITK as sitk  # noqa: N813 - the name everyone uses
from numpy.typing import NDArray

from cache.files import replacing
from cache.grid import Grid
from stages.phantom.make import Phantom


def write_phantom(out: Path, case_id: str, *, phantom: Phantom) -> None:
    """Write ``image/<id>/<id>.nii.gz`` and ``label/<id>/<id>.nii.gz`` under a folder."""
    for kind, voxels in (("label", phantom.label_map), ("image", phantom.volume)):
        write_whole(out / kind / case_id / f"{case_id}.nii.gz", voxels, grid=phantom.grid)


def write_whole(path: Path, voxels: NDArray[Any], *, grid: Grid) -> None:
    """Write an array (Z, Y, X) as compressed NIfTI; a failure leaves what was there before.

    Raises:
        RuntimeError: SimpleITK could not write, for want of space or of permission.
    """
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(grid.spacing_zyx_mm[::-1])
    image.SetOrigin(grid.origin_xyz_mm)
    image.SetDirection(grid.direction)
    with replacing(path) as partial:
        sitk.WriteImage(image, str(partial), useCompression=True, compressionLevel=1)
