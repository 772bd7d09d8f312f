"""Rules about the slices of a DICOM series."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stages.preprocess.problems import Finding

UNEVEN = 0.05  # of the usual distance: positions are rounded to 0.01 mm and worse
TILTED = 0.01  # sideways, of the distance between slices: 0.6 degrees


def dicom_gaps(folder: Path, positions_mm: Sequence[float]) -> Finding | None:
    """Slices at equal distances; a missing one would be closed up without a word.

    Args:
        folder: the series.
        positions_mm: of all slices along their normal, ascending, none twice.
    """
    steps = np.diff(positions_mm)
    if steps.size < 2:
        return None
    usual = float(np.median(steps))
    uneven = np.flatnonzero(np.abs(steps - usual) > UNEVEN * usual)
    if not uneven.size:
        return None
    first = int(uneven[0])
    fact = (
        f"its slices are {usual:.3f} mm apart, but {float(steps[first]):.3f} mm between "
        f"{positions_mm[first]:.3f} and {positions_mm[first + 1]:.3f} mm; "
        f"{uneven.size} of {steps.size} distances differ"
    )
    return Finding("dicom_gaps", folder, fact, "export the whole series again")


def dicom_repeats(folder: Path, repeated: int, *, is_same: bool) -> Finding | None:
    """No place twice; slices that are equal to the last bit can be dropped.

    Args:
        folder: the series.
        repeated: slices at a place where there is another.
        is_same: whether each of them holds the same voxels as the other.
    """
    if not repeated:
        return None
    what = "the same" if is_same else "other"
    fact = f"{repeated} slices lie where there is another one, with {what} voxels"
    return Finding("dicom_repeats", folder, fact, "keep one phase in the folder", fixable=is_same)


def gantry_tilt(folder: Path, origins_xyz_mm: np.ndarray, normal: np.ndarray) -> Finding | None:
    """Slices stacked along their normal; a tilted gantry shears the volume. Rule ``direction``."""
    if len(origins_xyz_mm) < 2:
        return None
    way = origins_xyz_mm[-1] - origins_xyz_mm[0]
    along = float(way @ normal)
    sideways = float(np.linalg.norm(way - along * normal))
    if sideways <= TILTED * along:
        return None
    angle = float(np.degrees(np.arctan2(sideways, along)))
    fact = f"its slices are stacked at {angle:.1f} degrees to their normal (a tilted gantry)"
    fix = "correct the tilt when exporting, or list the case under data.exclude"
    return Finding("direction", folder, fact, fix)
