"""Rules about what a file's header says."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.grid import Grid
from stages.preprocess.problems import Finding
from stages.preprocess.reading.sniff import EXTENSIONS

FINEST_MM, COARSEST_MM = 0.1, 20.0  # no CT has voxels beyond; slices of 10 mm exist
NARROWEST_MM, WIDEST_MM = 100.0, 1000.0  # of a field of view: a newborn's, the widest gantry's
STRAIGHT = 1e-3  # largest deviation of a direction from orthonormal: 0.06 degrees


def extension(path: Path, by_content: str | None) -> Finding | None:
    """The file's ending fits its content; a file without any of our endings claims nothing."""
    name = path.name.lower()
    if by_content is None or not name.endswith(EXTENSIONS) or name.endswith(by_content):
        return None
    fact = f"is a {by_content} file by its content"
    return Finding("extension", path, fact, f"name it …{by_content}", fixable=True)


def three_dimensional(path: Path, size: Sequence[int]) -> Finding | None:
    """One volume of three dimensions; further ones of size 1 can be dropped."""
    if len(size) == 3:
        return None
    sides = "·".join(str(side) for side in size)
    fact = f"has {len(size)} dimensions ({sides}), not 3"
    fixable = len(size) > 3 and all(side == 1 for side in size[3:])
    return Finding("three_dimensional", path, fact, "export one volume", fixable=fixable)


def plain_numbers(path: Path, kind: str, components: int) -> Finding | None:
    """One real number per voxel: no colours, no vectors, no complex numbers."""
    if components == 1 and "complex" not in kind and "vector" not in kind:
        return None
    fact = f"holds several numbers per voxel ({kind})"
    return Finding("plain_numbers", path, fact, "export one volume of plain numbers")


def spacing_positive(path: Path, spacing_xyz_mm: Sequence[float]) -> Finding | None:
    """Distances between voxels are numbers above zero; of a DICOM slice there are x and y."""
    if all(np.isfinite(mm) and mm > 0 for mm in spacing_xyz_mm):
        return None
    axes = "x, y, z"[: 3 * len(spacing_xyz_mm) - 2]
    fact = f"has the spacing ({axes}) {_text(spacing_xyz_mm)} mm, which no scan can have"
    return Finding("spacing_positive", path, fact, "correct the header, or export it again")


def spacing_plausible(path: Path, grid: Grid) -> Finding | None:
    """Voxels of 0.1 to 20 mm, and a field of view of 100 to 1000 mm.

    Of the three extents the second largest counts: a few slices may be thin, a whole body long.
    """
    spacing, extent = grid.spacing_zyx_mm[::-1], grid.extent_zyx_mm[::-1]
    view = sorted(extent)[1]
    if min(spacing) < FINEST_MM or max(spacing) > COARSEST_MM:
        fact = f"has the spacing (x, y, z) {_text(spacing)} mm; {FINEST_MM} to {COARSEST_MM:.0f} mm"
    elif not NARROWEST_MM <= view <= WIDEST_MM:
        fact = f"covers (x, y, z) {_text(extent)} mm; {NARROWEST_MM:.0f} to {WIDEST_MM:.0f} mm"
    else:
        return None
    fix = "check the spacing in the header: lengths and volumes are wrong if it is"
    return Finding("spacing_plausible", path, f"{fact} are plausible", fix)


def direction(
    path: Path, grid: Grid, sform_lps: NDArray[np.float64] | None = None
) -> Finding | None:
    """Axes at right angles, and where a NIfTI file's sform has them.

    Args:
        path: the file.
        grid: the grid as read.
        sform_lps: the sform of a NIfTI header, voxels (x, y, z) to LPS mm.
    """
    fix = "resample it onto a grid with right angles, or list the case under data.exclude"
    matrix = np.reshape(grid.direction, (3, 3))
    skew = float(np.abs(matrix @ matrix.T - np.eye(3)).max())
    if skew > STRAIGHT:
        fact = f"its axes are not at right angles (the cosines are {skew:.3f} off)"
        return Finding("direction", path, fact, fix)
    if sform_lps is None:
        return None
    farthest = max(
        float(np.linalg.norm(sform_lps @ [*corner[::-1], 1] - grid.point_xyz_mm(corner)))
        for corner in np.multiply(np.subtract(grid.shape_zyx, 1), list(np.ndindex(2, 2, 2)))
    )
    if farthest <= min(grid.spacing_zyx_mm) / 2:
        return None
    fact = f"its sform is sheared or contradicts its qform: a corner lies {farthest:.1f} mm apart"
    return Finding("direction", path, fact, fix)


def identity_affine(path: Path, grid: Grid) -> Finding | None:
    """The header knows where the patient lay: not 1 mm everywhere and the origin at zero.

    The LiTS volumes 28 to 47 are such; their true spacing is lost.
    """
    if grid.spacing_zyx_mm != (1.0, 1.0, 1.0) or any(grid.origin_xyz_mm):
        return None
    fact = "has the identity as its geometry: 1 mm along each axis, the origin at zero"
    fix = "take the spacing from the original scan; lengths and volumes are wrong without it"
    return Finding("identity_affine", path, fact, fix)


def _text(values: Sequence[float]) -> str:
    return "·".join(f"{value:.4g}" for value in values)
