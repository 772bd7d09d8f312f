"""Rules about what a file's header says."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.grid import Grid
from stages.preprocess.problems import Finding
from stages.preprocess.reading.sniff import EXTENSIONS
from stages.preprocess.reading.stated import Stated

FINEST_MM, COARSEST_MM = 0.1, 20.0  # no CT has voxels beyond; slices of 10 mm exist
NARROWEST_MM, WIDEST_MM = 100.0, 1000.0  # of a field of view: a newborn's, the widest gantry's
STRAIGHT = 1e-3  # largest deviation of a direction from orthonormal: 0.06 degrees
STRAIGHTENED = 5e-5  # from which on ITK takes the nearest right angles; single precision has 1e-7
SAME_LENGTH = 0.01  # of two spacings, as a share
TINY = 1e-30


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


def one_hot(path: Path, count: int, *, has_background: bool) -> Finding:
    """A label of one volume for each structure is read as one label map.

    Args:
        path: the label.
        count: of its volumes.
        has_background: whether the first is what is not a structure.
    """
    values = f"0 (background) to {count - 1}" if has_background else f"1 to {count}"
    fact = f"is one-hot: its {count} volumes are read as the values {values}"
    fix = "check that they are in this order, or export one label map"
    return Finding("three_dimensional", path, fact, fix, fixable=True)


def plain_numbers(path: Path, kind: str, components: int) -> Finding | None:
    """One real number per voxel: no colours, no vectors, no complex numbers."""
    if components == 1 and "complex" not in kind and "vector" not in kind:
        return None
    fact = f"holds several numbers per voxel ({kind})"
    return Finding("plain_numbers", path, fact, "export one volume of plain numbers")


def of_place(path: Path, grid: Grid, stated: Stated | None) -> list[Finding | None]:
    """What a header that states a geometry breaks of the rules about it."""
    return [
        None if stated is None else length_unit(path, stated.unit),
        direction(path, grid, stated),
        right_angles(path, grid, stated),
    ]


def length_unit(path: Path, unit: str) -> Finding | None:
    """Lengths are in mm; others are turned into it."""
    if not unit:
        return None
    fact, fix = f"gives its lengths in {unit}", "they are turned into mm; check the spacing"
    return Finding("length_unit", path, fact, fix, fixable=True)


def known_place(path: Path, *, is_analyze: bool) -> Finding | None:
    """The header can say where the voxels are: ANALYZE's cannot, nor which side is left."""
    if not is_analyze:
        return None
    fact = "is an ANALYZE file, which knows no place in space"
    return Finding("readable", path, fact, "convert the original scan to NIfTI or NRRD")


def finite_geometry(path: Path, grid: Grid) -> Finding | None:
    """Spacing, origin and directions are numbers."""
    if np.isfinite([*grid.spacing_zyx_mm, *grid.origin_xyz_mm, *grid.direction]).all():
        return None
    fact = f"has the origin (x, y, z) {_text(grid.origin_xyz_mm)} mm"
    if np.isfinite(grid.origin_xyz_mm).all():
        fact = "has a spacing or directions that are not numbers"
    return Finding("readable", path, fact, "correct the header, or export it again")


def spacing_positive(path: Path, spacing_xyz_mm: Sequence[float] | None) -> Finding | None:
    """Distances between voxels are numbers above zero; of a DICOM slice there are x and y."""
    if spacing_xyz_mm is None or all(np.isfinite(mm) and mm > 0 for mm in spacing_xyz_mm):
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


def direction(path: Path, grid: Grid, stated: Stated | None = None) -> Finding | None:
    """Axes at right angles, and where a NIfTI file's sform has them.

    Args:
        path: the file.
        grid: the grid as read.
        stated: what its header says, where it is looked at.
    """
    fix = "resample it onto a grid with right angles, or list the case under data.exclude"
    skew = _skew(np.reshape(grid.direction, (3, 3)).T)
    if skew > STRAIGHT:
        fact = f"its axes are not at right angles (the cosines are {skew:.3f} off)"
        return Finding("direction", path, fact, fix)
    if stated is None or stated.sform_lps is None:
        return None
    farthest = _farthest_mm(grid, stated.sform_lps)
    if farthest <= min(grid.spacing_zyx_mm) / 2:
        return None
    fact = f"{_culprit(stated)}: a corner is {farthest:.1f} mm apart"
    return Finding("direction", path, fact, fix)


def _culprit(stated: Stated) -> str:
    """What is wrong with a NIfTI header whose sform is not where the voxels were read."""
    sform = stated.sform_lps
    if sform is None or not np.isfinite(sform).all():
        return "its sform holds values that are not numbers"
    lengths = np.linalg.norm(sform[:, :3], axis=0)
    spacing = stated.spacing_xyz_mm or (0.0, 0.0, 0.0)
    if _skew(sform[:, :3] / np.maximum(lengths, TINY)) > STRAIGHT:
        return "its sform is sheared"
    if not np.allclose(lengths, spacing, rtol=SAME_LENGTH, atol=0):
        return f"its sform has the spacing {_text(lengths)} mm, its pixdim {_text(spacing)} mm"
    return "its sform contradicts its qform"


def right_angles(path: Path, grid: Grid, stated: Stated | None) -> Finding | None:
    """Where a sform alone says where the axes point, they are at right angles to rounding.

    One whose axes are farther off than half a voxel breaks ``direction``.
    """
    if stated is None or stated.sform_lps is None or not stated.is_straightened:
        return None
    columns = stated.sform_lps[:, :3]
    skew = _skew(columns / np.maximum(np.linalg.norm(columns, axis=0), TINY))
    farthest = _farthest_mm(grid, stated.sform_lps)
    if skew <= STRAIGHTENED or not farthest <= min(grid.spacing_zyx_mm) / 2:
        return None
    fact = f"its sform is {skew:.2g} off right angles, by which a corner moves {farthest:.2g} mm"
    fix = "it is read with the nearest right angles; copy the sform to the qform to keep them"
    return Finding("right_angles", path, fact, fix, fixable=True)


def _farthest_mm(grid: Grid, sform_lps: NDArray[np.float64]) -> float:
    """The farthest that a grid and a sform put the same corner voxel apart; NaN of no numbers."""
    return max(
        float(np.linalg.norm(sform_lps @ [*corner[::-1], 1] - grid.point_xyz_mm(corner)))
        for corner in np.multiply(np.subtract(grid.shape_zyx, 1), list(np.ndindex(2, 2, 2)))
    )


def _skew(columns: NDArray[np.float64]) -> float:
    """How far columns are from orthonormal: the largest deviation of their products."""
    return float(np.abs(columns.T @ columns - np.eye(3)).max())


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
