"""Rules about where a label is laid over its CT, and whether a geometry is one at all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from cache.grid import Grid
from stages.preprocess.problems import Finding

Side = Literal["ct", "label"]
CORNER_TOLERANCE = 0.1  # of the finest spacing: less cannot move a nearest-neighbour label
AXES_STRAIGHT = 1e-6  # a direction that was never set has zeros and ones
SAME_SPACING = 1e-3  # relative: what float32 and a rounding to micrometres leave

EXCLUDE = "or list the case under data.exclude"


def label_grid(path: Path, ct: Grid, label: Grid) -> Finding | None:
    """The label's voxels are the CT's; otherwise it can be brought onto the CT's grid."""
    facts = []
    if ct.shape_zyx != label.shape_zyx:
        facts = [_difference("size", ct.shape_zyx[::-1], label.shape_zyx[::-1])]
    elif _corner_distance(ct, label) > CORNER_TOLERANCE * min(ct.spacing_zyx_mm):
        facts = [
            _difference(name, ours, theirs)
            for name, ours, theirs, tolerance in (
                ("spacing", ct.spacing_zyx_mm[::-1], label.spacing_zyx_mm[::-1], 1e-5),
                ("origin", ct.origin_xyz_mm, label.origin_xyz_mm, 1e-2),
                ("direction", ct.direction, label.direction, 1e-5),
            )
            if not np.allclose(ours, theirs, rtol=0, atol=tolerance)
        ]
    if not facts:
        return None
    fact = f"is not on the grid of the CT: {'; '.join(facts)}"
    return Finding("label_grid", path, fact, "export the label on the CT's grid", fixable=True)


def overlap(path: Path, ct: Grid, label: Grid) -> Finding | None:
    """CT and label share some space."""
    lows, highs = zip(*(_bounds(grid) for grid in (ct, label)), strict=True)
    if np.all(np.max(lows, axis=0) < np.min(highs, axis=0)):
        return None
    fact = "is outside the CT: the two share no space"
    return Finding("overlap", path, fact, f"check the geometry of both, {EXCLUDE}")


def lost_side(ct: Grid, label: Grid) -> Side | None:
    """Which of two grids that differ has no geometry of its own; None if both have one.

    A header that was never filled in has its origin at zero, straight axes, and 1 mm along each of
    them, unless somebody set the spacing alone: so it comes out of an array. On another number of
    voxels such a header is believed only if it covers the very space of the other, as a label
    resampled to 1 mm does.
    """
    if ct.shape_zyx != label.shape_zyx and _covers_the_same(ct, label):
        return None
    if _is_default(label):
        return "label"
    if _is_default(ct):
        return "ct"
    label_is_nowhere, ct_is_nowhere = _is_nowhere(label), _is_nowhere(ct)
    if label_is_nowhere and ct_is_nowhere:  # in one frame, so what differs was meant, but for turns
        is_turned = ct.shape_zyx == label.shape_zyx and _same_spacing(ct, label)
        return "label" if is_turned else None
    if label_is_nowhere:
        return "label"
    return "ct" if ct_is_nowhere else None


def has_lengths(grid: Grid) -> bool:
    """Whether a grid, though perhaps without a place, has a spacing that somebody set."""
    return not _is_default(grid)


def geometry_lost(path: Path, lost: Grid, *, median_hu: float, doubt: str) -> Finding:
    """A label or CT without a geometry is laid over the other by index, where that fits.

    Args:
        path: the label or the CT.
        lost: its grid.
        median_hu: in the liver, laid over the CT voxel by voxel; NaN where there is none.
        doubt: why it cannot be laid over it; empty if it can.
    """
    spacing = "·".join(f"{mm:.6g}" for mm in lost.spacing_zyx_mm[::-1])
    what = f"has lost its geometry (origin 0, straight axes, spacing {spacing} mm)"
    fix = f"save it again with the geometry of the other file, {EXCLUDE}"
    if doubt:
        return Finding("geometry_lost", path, f"{what}, and {doubt}", fix)
    taken = "it is laid over" if has_lengths(lost) else "it takes the grid of"
    fact = f"{what}; {taken} the other file voxel by voxel"
    if not np.isnan(median_hu):
        fact += f", where half of the liver is below {median_hu:.0f} HU"
    return Finding("geometry_lost", path, fact, fix, fixable=True)


def _is_nowhere(grid: Grid) -> bool:
    """The origin at zero and straight axes: no scanner puts a patient there."""
    matrix = np.reshape(grid.direction, (3, 3))
    off_axis = float(np.abs(matrix - np.diag(np.diag(matrix))).max())
    return not any(grid.origin_xyz_mm) and off_axis <= AXES_STRAIGHT


def _is_default(grid: Grid) -> bool:
    return grid.spacing_zyx_mm == (1.0, 1.0, 1.0) and _is_nowhere(grid)


def _same_spacing(ours: Grid, theirs: Grid) -> bool:
    return np.allclose(ours.spacing_zyx_mm, theirs.spacing_zyx_mm, rtol=SAME_SPACING, atol=0)


def _covers_the_same(ours: Grid, theirs: Grid) -> bool:
    """The outer corners are those of the other, to a voxel of the coarser."""
    room = max(*ours.spacing_zyx_mm, *theirs.spacing_zyx_mm)
    return np.allclose(_bounds(ours), _bounds(theirs), rtol=0, atol=room)


def _bounds(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and highest LPS coordinates of a grid's outer corners, mm."""
    corners = np.multiply(grid.shape_zyx, list(np.ndindex(2, 2, 2))) - 0.5
    points = np.array([grid.point_xyz_mm(corner) for corner in corners])
    return points.min(axis=0), points.max(axis=0)


def _corner_distance(ours: Grid, theirs: Grid) -> float:
    """The farthest that two grids of one shape put the same corner voxel apart, mm."""
    last = np.subtract(ours.shape_zyx, 1)
    corners = [last * corner for corner in np.ndindex(2, 2, 2)]
    return max(
        float(np.linalg.norm(np.subtract(ours.point_xyz_mm(c), theirs.point_xyz_mm(c))))
        for c in corners
    )


def _difference(name: str, ours: Sequence[float], theirs: Sequence[float]) -> str:
    def text(values: Sequence[float]) -> str:
        return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"

    return f"{name} (x, y, z) is {text(theirs)}, the CT's is {text(ours)}"
