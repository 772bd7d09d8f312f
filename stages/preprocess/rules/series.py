"""Rules about the slices of a DICOM series."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stages.preprocess.problems import Finding

# of what breaks one of these, nothing sound can be predicted
NEVER_PREDICTED = ("dicom_mixed", "dicom_phases")
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


def dicom_mixed(folder: Path, differences: Sequence[str]) -> Finding | None:
    """Slices of one series agree in all that changes their voxels or their places.

    Args:
        folder: the series.
        differences: what they differ in.
    """
    if not differences:
        return None
    fact = f"its slices differ among themselves: {'; '.join(differences)}"
    return Finding("dicom_mixed", folder, fact, "export the series again from the archive")


def dicom_phases(folder: Path, how: str | None) -> Finding | None:
    """One scan in one phase; slices of two that alternate would be a volume of neither.

    Args:
        folder: the series.
        how: the words for how they alternate; None if they do not.
    """
    if how is None:
        return None
    return Finding("dicom_phases", folder, how, "keep the slices of one phase in the folder")


def dicom_choice(folder: Path, chosen: str, rivals: Sequence[str]) -> Finding | None:
    """One series that can be meant, of those in a folder.

    Args:
        folder: holds the series.
        chosen: the description of the one that is read.
        rivals: the descriptions of others that may be meant just as well.
    """
    if not rivals:
        return None
    others = "; ".join(f"({rival})" for rival in sorted(rivals))
    fact = f"holds several series that may be meant: ({chosen}) is read, not {others}"
    return Finding("dicom_choice", folder, fact, "keep the series that is meant in the folder")


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
