"""The coarse lattice anatomy is computed on, and its cubic interpolation to voxels.

Organs are smooth: a point every 6 mm holds them, and a CT of any size costs one interpolation.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from stages.phantom.shapes import Level, Points, Triple

STEP_MM = 6.0
BoxMm = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
Slices = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Lattice:
    """Points every 6 mm that cover the voxels of a CT, with room for cubic interpolation.

    Attributes:
        axes_zyx_mm: the voxels' patient coordinates along each axis; rising or falling.
    """

    axes_zyx_mm: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]

    @property
    def starts_zyx_mm(self) -> Triple:
        """The first lattice point."""
        z, y, x = (float(axis.min()) - 1.5 * STEP_MM for axis in self.axes_zyx_mm)
        return z, y, x

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Lattice points along each axis."""
        z, y, x = (int(np.ptp(axis) / STEP_MM) + 5 for axis in self.axes_zyx_mm)
        return z, y, x

    def points(self) -> Points:
        """Coordinates of all lattice points, as open grids that broadcast to (Z, Y, X)."""
        z, y, x = np.meshgrid(
            *(
                (start + STEP_MM * np.arange(side)).astype(np.float32)
                for start, side in zip(self.starts_zyx_mm, self.shape_zyx, strict=True)
            ),
            indexing="ij",
            sparse=True,
        )
        return Points(x, y, z)

    def box(self, box_xyz_mm: BoxMm, margin_mm: float) -> Slices:
        """The lattice points within a box of patient coordinates and a margin; may be empty."""
        slices = []
        for (low, high), start, side in zip(
            reversed(box_xyz_mm), self.starts_zyx_mm, self.shape_zyx, strict=True
        ):
            first = int((low - margin_mm - start) // STEP_MM) - 1
            last = int((high + margin_mm - start) // STEP_MM) + 3
            slices.append(slice(min(max(first, 0), side), min(max(last, 0), side)))
        z, y, x = slices
        return z, y, x

    def interpolation(self, box: Slices) -> "Interpolation | None":
        """From the lattice points of a box to the voxels between them; None if there are none."""
        axes = [
            _cubic_weights((axis - start) / STEP_MM, part)
            for axis, start, part in zip(self.axes_zyx_mm, self.starts_zyx_mm, box, strict=True)
        ]
        if any(voxels.start == voxels.stop for voxels, _ in axes):
            return None
        (z, weights_z), (y, weights_y), (x, weights_x) = axes
        return Interpolation((z, y, x), (weights_z, weights_y, weights_x))


@dataclass(frozen=True)
class Interpolation:
    """Cubic weights that turn one box of lattice values into voxel values.

    Attributes:
        voxels: the box of voxels that lie between the lattice points.
        weights_zyx: one sparse matrix for each axis, (voxels, lattice points).
    """

    voxels: Slices
    weights_zyx: tuple[csr_array, csr_array, csr_array]

    def slab(self, values: Level, *, first: int, stop: int) -> Level:
        """The voxels of slices ``[first, stop)`` of the box, as float32 (slices, Y, X).

        Sparse products, because they add in one order on any number of threads; the thin axes
        come first, so that the large result is written once.
        """
        weights_z, weights_y, weights_x = self.weights_zyx
        _, ly, lx = values.shape
        slices = stop - first
        rows = weights_z[first:stop] @ values.reshape(len(values), ly * lx)
        columns = rows.reshape(slices * ly, lx).T
        wide = (weights_x @ columns).reshape(-1, slices, ly)
        nx = len(wide)
        lines = wide.transpose(2, 1, 0).reshape(ly, slices * nx)
        voxels: Level = (weights_y @ lines).reshape(-1, slices, nx).transpose(1, 0, 2)
        return voxels


def _cubic_weights(at: NDArray[np.float64], part: slice) -> tuple[slice, csr_array]:
    """Catmull-Rom weights from some of an axis' lattice points; exact for parabolas.

    Args:
        at: voxel positions along the axis, in lattice steps; rising or falling.
        part: which lattice points there are.

    Returns:
        The voxels with two points on either side, and their weights (voxels, points).
    """
    cell = np.floor(at).astype(np.int64)
    inside = np.flatnonzero((cell - 1 >= part.start) & (cell + 2 < part.stop))
    if not len(inside):
        return slice(0, 0), csr_array((0, part.stop - part.start), dtype=np.float32)
    voxels = slice(int(inside[0]), int(inside[-1]) + 1)
    cell = cell[voxels]
    t = at[voxels] - cell
    weights = 0.5 * np.stack(
        [
            ((2 - t) * t - 1) * t,
            (3 * t - 5) * t * t + 2,
            ((4 - 3 * t) * t + 1) * t,
            (t - 1) * t * t,
        ],
        axis=1,
    )
    columns = (cell - 1 - part.start)[:, None] + np.arange(4)
    return voxels, csr_array(
        (weights.ravel().astype(np.float32), columns.ravel(), 4 * np.arange(len(t) + 1)),
        shape=(len(t), part.stop - part.start),
    )
