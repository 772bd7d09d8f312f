"""Rules a case must pass, and rules that warn. One function each."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.case import Mask
from cache.errors import SourceError
from cache.grid import Grid
from stages.preprocess.read import SourceVolume

CORNER_TOLERANCE = 0.1  # of the finest spacing: less cannot move a nearest-neighbour label
PLAUSIBLE_LIVER_ML = (100.0, 6000.0)  # a child's to a massively enlarged one; partial ones fall out
DENSEST_AIR_HU = -800  # something in a CT must be at most this dense: the air around the body
THINNEST_BODY_HU = -300  # and something must be denser than this

Warnings = list[dict[str, str]]


def require_same_grid(ct: SourceVolume, label: SourceVolume) -> None:
    """Refuse a label whose voxels are not the CT's: other size, spacing, origin or direction.

    Raises:
        SourceError: names what differs and both values.
    """
    facts = []
    if ct.grid.shape_zyx != label.grid.shape_zyx:
        facts = [_difference("size", ct.grid.shape_zyx[::-1], label.grid.shape_zyx[::-1])]
    elif _corner_distance(ct.grid, label.grid) > CORNER_TOLERANCE * min(ct.grid.spacing_zyx_mm):
        facts = [
            _difference(name, ours, theirs)
            for name, ours, theirs, tolerance in (
                ("spacing", ct.grid.spacing_zyx_mm[::-1], label.grid.spacing_zyx_mm[::-1], 1e-5),
                ("origin", ct.grid.origin_xyz_mm, label.grid.origin_xyz_mm, 1e-2),
                ("direction", ct.grid.direction, label.grid.direction, 1e-5),
            )
            if not np.allclose(ours, theirs, rtol=0, atol=tolerance)
        ]
    if facts:
        fact = f"is not on the grid of {ct.path.name}: {'; '.join(facts)}"
        fix = "export the label on the CT's grid, or list the case under data.exclude"
        raise SourceError(label.path, fact, fix)


def require_liver(label: SourceVolume, mask: Mask, liver_values: list[int] | None) -> None:
    """Refuse a label without a single liver voxel.

    Raises:
        SourceError: names the values that were looked for and those that are there.
    """
    if mask.any():
        return
    wanted = "above 0" if liver_values is None else f"among {liver_values}"
    present = ", ".join(f"{value:g}" for value in np.unique(label.array)[:10])
    raise SourceError(
        label.path,
        f"has no liver: no value {wanted} (its values: {present})",
        "set preprocess.liver_values, correct the label, or list the case under data.exclude",
    )


def warn_liver_volume(liver_ml: float) -> Warnings:
    """Doubt a liver that is too small or too large to be whole and correctly spaced."""
    low, high = PLAUSIBLE_LIVER_ML
    if low <= liver_ml <= high:
        return []
    fact = f"the liver measures {liver_ml:.1f} ml; {low:.0f} to {high:.0f} ml are plausible"
    fix = "check the spacing in the header; a part of a liver is fine if it is meant"
    return [{"rule": "liver-volume", "fact": fact, "fix": fix}]


def warn_hu_range(voxels: NDArray[Any]) -> Warnings:
    """Doubt a CT without air or without tissue: its values are probably not Hounsfield units."""
    low, high = int(voxels.min()), int(voxels.max())
    if low <= DENSEST_AIR_HU and high >= THINNEST_BODY_HU:
        return []
    fact = f"values run from {low} to {high}; a CT in HU has air near -1000 and tissue near 0"
    fix = "check the rescale slope and intercept of the export"
    return [{"rule": "hu-range", "fact": fact, "fix": fix}]


def _corner_distance(ours: Grid, theirs: Grid) -> float:
    """The farthest that two grids of one shape put the same corner voxel apart, mm."""
    last = np.subtract(ours.shape_zyx, 1)
    corners = [last * corner for corner in np.ndindex(2, 2, 2)]
    return max(
        float(np.linalg.norm(np.subtract(ours.point_xyz_mm(c), theirs.point_xyz_mm(c))))
        for c in corners
    )


def _difference(name: str, ours: tuple[float, ...], theirs: tuple[float, ...]) -> str:
    def text(values: tuple[float, ...]) -> str:
        return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"

    return f"{name} (x, y, z) is {text(theirs)}, the CT's is {text(ours)}"
