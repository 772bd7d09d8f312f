"""The nouns of space: Grid (where voxels lie in the patient) and Box (which of them are meant)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Triple = tuple[int, int, int]
TripleMm = tuple[float, float, float]
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def triple(values: Iterable[Any]) -> Triple:
    """Three whole numbers as a tuple of ints; ValueError if there are not three."""
    first, second, third = (int(value) for value in values)
    return first, second, third


def triple_mm(values: Iterable[Any]) -> TripleMm:
    """Three lengths as a tuple of floats; ValueError if there are not three."""
    first, second, third = (float(value) for value in values)
    return first, second, third


@dataclass(frozen=True)
class Box:
    """A half-open box of voxels, ``[start, stop)`` on each axis; it may leave the volume."""

    start_zyx: Triple
    stop_zyx: Triple

    @classmethod
    def whole(cls, shape_zyx: Sequence[int]) -> Self:
        """The box that is the whole volume."""
        return cls((0, 0, 0), triple(shape_zyx))

    @classmethod
    def centred(cls, centre_zyx: Sequence[int], shape_zyx: Sequence[int]) -> Self:
        """The box of this shape around a voxel; an even side has one voxel more before it."""
        start = triple([c - side // 2 for c, side in zip(centre_zyx, shape_zyx, strict=True)])
        return cls(start, triple([a + side for a, side in zip(start, shape_zyx, strict=True)]))

    @property
    def shape_zyx(self) -> Triple:
        """Voxels along each axis."""
        return triple([b - a for a, b in zip(self.start_zyx, self.stop_zyx, strict=True)])

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box as an index into a (Z, Y, X) array; only for a box inside the volume."""
        z, y, x = (slice(a, b) for a, b in zip(self.start_zyx, self.stop_zyx, strict=True))
        return z, y, x

    def clipped(self, shape_zyx: Sequence[int]) -> "Box":
        """The part of the box that lies inside a volume of this shape; may be empty."""
        starts = [min(max(a, 0), side) for a, side in zip(self.start_zyx, shape_zyx, strict=True)]
        stops = [
            max(start, min(b, side))
            for start, b, side in zip(starts, self.stop_zyx, shape_zyx, strict=True)
        ]
        return Box(triple(starts), triple(stops))

    def parts(self, shape_zyx: Sequence[int]) -> tuple["Box", "Box"]:
        """The part inside a volume of this shape, in the volume's voxels and in the box's own."""
        inside = self.clipped(shape_zyx)
        start = triple([a - b for a, b in zip(inside.start_zyx, self.start_zyx, strict=True)])
        stop = triple([a + n for a, n in zip(start, inside.shape_zyx, strict=True)])
        return inside, Box(start, stop)

    def grown(self, voxels_zyx: Sequence[int]) -> "Box":
        """The box with this many voxels more on both sides of each axis."""
        starts = [a - more for a, more in zip(self.start_zyx, voxels_zyx, strict=True)]
        stops = [b + more for b, more in zip(self.stop_zyx, voxels_zyx, strict=True)]
        return Box(triple(starts), triple(stops))


def box_of(mask: NDArray[Any]) -> Box | None:
    """The smallest box around all voxels above zero of a (Z, Y, X) mask; None if there is none."""
    start, stop = [0, 0, 0], list(mask.shape)
    for axis in range(3):  # each within what the axes before have left, so the whole is read once
        inside = mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        others = tuple(other for other in range(3) if other != axis)
        (found,) = np.nonzero(inside.any(axis=others))
        if not found.size:
            return None
        start[axis], stop[axis] = start[axis] + int(found[0]), start[axis] + int(found[-1]) + 1
    return Box(triple(start), triple(stop))


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a (Z, Y, X) array lie in the patient, in LPS millimetres as ITK has it.

    Attributes:
        shape_zyx: voxels along each axis of the array.
        spacing_zyx_mm: distance between voxel centres.
        origin_xyz_mm: centre of the first voxel.
        direction: the 3x3 direction cosines row by row; its columns are the x, y and z axes.
    """

    shape_zyx: Triple
    spacing_zyx_mm: TripleMm
    origin_xyz_mm: TripleMm = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = IDENTITY

    @property
    def extent_zyx_mm(self) -> TripleMm:
        """Outer size of the volume: shape times spacing."""
        return triple_mm(np.multiply(self.shape_zyx, self.spacing_zyx_mm))

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.spacing_zyx_mm)) / 1000.0

    def point_xyz_mm(self, index_zyx: Iterable[float]) -> TripleMm:
        """The world point of a (possibly fractional) array index."""
        steps_xyz = np.multiply(list(index_zyx), self.spacing_zyx_mm)[::-1]
        return triple_mm(np.reshape(self.direction, (3, 3)) @ steps_xyz + self.origin_xyz_mm)

    def cropped(self, box: Box) -> "Grid":
        """The grid of the voxels inside a box; every voxel stays where it is."""
        return Grid(
            box.shape_zyx, self.spacing_zyx_mm, self.point_xyz_mm(box.start_zyx), self.direction
        )

    def resized(self, shape_zyx: Sequence[int]) -> "Grid":
        """The grid of another shape over the same extent; the outer corners stay where they are."""
        scale = np.divide(self.shape_zyx, shape_zyx)
        first = (scale - 1) / 2  # the new first voxel's centre, in old voxels
        spacing = triple_mm(scale * self.spacing_zyx_mm)
        return Grid(triple(shape_zyx), spacing, self.point_xyz_mm(first), self.direction)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        return {
            "shape_zyx": list(self.shape_zyx),
            "spacing_zyx_mm": list(self.spacing_zyx_mm),
            "origin_xyz_mm": list(self.origin_xyz_mm),
            "direction": list(self.direction),
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The inverse of ``to_dict``."""
        return cls(
            triple(fields["shape_zyx"]),
            triple_mm(fields["spacing_zyx_mm"]),
            triple_mm(fields["origin_xyz_mm"]),
            tuple(float(cosine) for cosine in fields["direction"]),
        )
