"""One phantom to its two NIfTI files, each whole or not at all."""

from pathlib import Path

from stages.image_file import PHANTOM, write_image
from stages.phantom.make import Phantom

FAST = 1  # level of compression: noise is as large at any other


def write_phantom(out: Path, case_id: str, *, phantom: Phantom) -> None:
    """Write ``image/<id>/<id>.nii.gz`` and ``label/<id>/<id>.nii.gz`` under a folder.

    Their headers say that they are phantoms, so that nobody takes one for a scan. A failure leaves
    what was there before.

    Raises:
        DataError: one cannot be written, for want of space or of permission.
    """
    for kind, voxels in (("label", phantom.label_map), ("image", phantom.volume)):
        path = out / kind / case_id / f"{case_id}.nii.gz"
        write_image(path, voxels, phantom.grid, level=FAST, note=PHANTOM)
