"""Where each voxel of an augmented patch comes from, and what must be read for it; numpy alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache.grid import Box, Triple, TripleMm, triple

Matrix = tuple[TripleMm, TripleMm, TripleMm]  # 3 x 3, row by row, axes z, y, x
CUT_OFF = 3.0  # standard deviations
# float32 coordinates on the device may differ from the box's by this much, voxels
ROUNDING = 0.01


@dataclass(frozen=True)
class Bend:
    """An elastic displacement, given by the seed of the displacements of a coarse grid's points.

    Attributes:
        seed: of the displacements; a number, since how many there are depends on the box.
        spacing_zyx: of the coarse grid, voxels.
        sd_zyx: standard deviation of the displacement along each axis, voxels; cut off at three.
    """

    seed: int
    spacing_zyx: TripleMm
    sd_zyx: TripleMm

    def points(self, shape_zyx: Triple) -> NDArray[np.float32]:
        """Displacements (3, nz, ny, nx) of the coarse points for a box of this shape, voxels."""
        random = np.random.default_rng(self.seed)
        counts = [row.shape[1] for row in self._weights(shape_zyx, random.random(3))]
        drawn = random.standard_normal((3, *counts)).clip(-CUT_OFF, CUT_OFF)
        drawn *= np.reshape(self.sd_zyx, (3, 1, 1, 1))
        return drawn.astype(np.float32)

    def weights(self, shape_zyx: Triple) -> list[NDArray[np.float32]]:
        """For each axis the weights (voxels, points) with which points move the box's voxels.

        None is negative and each row adds up to 1, so no voxel moves further than any point. The
        weight falls from 1 at a point to 0 at the next as ``1 - 3 d^2 + 2 d^3``: smooth, and at a
        point the displacement is the one drawn for it.
        """
        return self._weights(shape_zyx, np.random.default_rng(self.seed).random(3))

    def _weights(self, shape_zyx: Triple, phases: NDArray[np.float64]) -> list[NDArray[np.float32]]:
        """A random phase, or the same voxels of every patch would be moved the most."""
        matrices = []
        for side, step, phase in zip(shape_zyx, self.spacing_zyx, phases, strict=True):
            places = phase + np.arange(side) / step
            near = 1 - np.abs(places[:, None] - np.arange(int(places[-1]) + 2)).clip(0, 1)
            matrices.append((near * near * (3 - 2 * near)).astype(np.float32))
        return matrices


@dataclass(frozen=True)
class Warp:
    """From an output voxel to the point of the volume it shows, in voxels about the box's centre.

    An output voxel at ``p`` from the centre shows what lies at
    ``matrix @ (flips * p) - shift + bend(p)`` from it.

    Attributes:
        flips_zyx: which axes are mirrored.
        matrix: the inverse of rotation and scaling, in voxels; None for the identity.
        shift_zyx: by which the patient is moved, whole voxels.
        bend: an elastic displacement, or None.
    """

    flips_zyx: tuple[bool, bool, bool] = (False, False, False)
    matrix: Matrix | None = None
    shift_zyx: Triple = (0, 0, 0)
    bend: Bend | None = None

    @property
    def is_copy(self) -> bool:
        """Whether voxels land on voxels, so that nothing is interpolated."""
        return self.matrix is None and self.bend is None

    @property
    def linear(self) -> NDArray[np.float64]:
        """The (3, 3) matrix, flips included."""
        matrix = np.array(np.eye(3) if self.matrix is None else self.matrix, np.float64)
        matrix[:, list(self.flips_zyx)] *= -1
        return matrix

    def source_box(self, box: Box) -> Box:
        """What must be read so that no point of the output box lies outside what was read."""
        if self.is_copy:
            return _moved(box, self.shift_zyx)
        reach = np.abs(self.linear) @ ((np.array(box.shape_zyx) - 1) / 2) + ROUNDING
        if self.bend is not None:
            reach += np.abs(self.bend.points(box.shape_zyx)).max(axis=(1, 2, 3))
        centre = _centre(box) - self.shift_zyx
        # the neighbour after the last point takes part in its interpolation
        return Box(triple(np.floor(centre - reach)), triple(np.floor(centre + reach) + 2))

    def origin(self, box: Box) -> NDArray[np.float64]:
        """The point that the output's first voxel shows, unbent, as an index of the source box."""
        first = _centre(box) - self.shift_zyx
        first -= self.linear @ ((np.array(box.shape_zyx) - 1) / 2)
        first -= self.source_box(box).start_zyx
        return first


def _centre(box: Box) -> NDArray[np.float64]:
    centre: NDArray[np.float64] = (np.array(box.start_zyx) + np.array(box.stop_zyx) - 1) / 2
    return centre


def _moved(box: Box, shift_zyx: Triple) -> Box:
    """The box whose content a shift brings into this one."""
    return Box(
        triple(np.subtract(box.start_zyx, shift_zyx)),
        triple(np.subtract(box.stop_zyx, shift_zyx)),
    )
