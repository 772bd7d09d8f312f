"""Smooth shapes as level functions: negative inside, positive outside, roughly mm.

Everything here takes and returns float32 arrays (Z, Y, X); lengths are mm.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Level = NDArray[np.float32]
Triple = tuple[float, float, float]
Pair = tuple[float, float]


@dataclass(frozen=True)
class Points:
    """Anatomical coordinates of lattice points, mm: x to the left, y to the back, z to the head."""

    x: Level
    y: Level
    z: Level

    def __getitem__(self, box: tuple[slice, slice, slice]) -> "Points":
        return Points(self.x[box], self.y[box], self.z[box])

    def scaled(self, centre: Triple, size: float) -> "Points":
        """Where these points lie in an anatomy that is ``size`` times as large about a centre."""
        cx, cy, cz = centre
        return Points(
            (self.x - cx) / size + cx, (self.y - cy) / size + cy, (self.z - cz) / size + cz
        )


def ellipsoid(at: Points, centre: Triple, *, radii: Triple) -> Level:
    """An ellipsoid; the distance is true along the mean radius."""
    squares = [
        ((axis - c) / r) ** 2 for axis, c, r in zip((at.x, at.y, at.z), centre, radii, strict=True)
    ]
    radius: Level = np.sqrt(squares[0] + squares[1] + squares[2])
    return (radius - 1) * (sum(radii) / 3)


def column(at: Points, centre_xy: Pair, *, radii_xy: Pair) -> Level:
    """An elliptic cylinder along z."""
    u = (at.x - centre_xy[0]) / radii_xy[0]
    v = (at.y - centre_xy[1]) / radii_xy[1]
    radius: Level = np.sqrt(u * u + v * v)
    return (radius - 1) * min(radii_xy)


def barrel(at: Points, radii_xy: Pair) -> Level:
    """A cylinder along z between an ellipse and a rounded rectangle, as a trunk is."""
    u, v = (at.x / radii_xy[0]) ** 2, (at.y / radii_xy[1]) ** 2
    # the mean of a circle's and a quartic's radius: like exponent 2.6, without a power
    radius: Level = 0.5 * np.sqrt(u + v) + 0.5 * np.sqrt(np.sqrt(u * u + v * v))
    return (radius - 1) * min(radii_xy)


def tube(at: Points, ends: tuple[Triple, Triple], *, radii: Pair) -> Level:
    """A tapering tube with round ends, from one point to another."""
    start, stop = (np.asarray(end, np.float32) for end in ends)
    along = stop - start
    offsets = [axis - s for axis, s in zip((at.x, at.y, at.z), start, strict=True)]
    share = sum(o * a for o, a in zip(offsets, along, strict=True)) / float(along @ along)
    share = np.clip(share, 0, 1)
    squares = [(o - share * a) ** 2 for o, a in zip(offsets, along, strict=True)]
    radius = radii[0] + (radii[1] - radii[0]) * share
    # squared: a distance has a kink on the axis, and cubic interpolation from a lattice wider than
    # the tube would lose it there
    level: Level = (squares[0] + squares[1] + squares[2] - radius * radius) / (2 * radius)
    return level


def union(first: Level, second: Level, *, blend: float) -> Level:
    """Both shapes, the crease between them rounded over ``blend`` mm."""
    overlap = np.maximum(blend - np.abs(first - second), 0)
    both: Level = np.minimum(first, second) - overlap * overlap / (4 * blend)
    return both


def common(first: Level, second: Level, *, blend: float) -> Level:
    """What two shapes have in common, the edge rounded over ``blend`` mm."""
    return -union(-first, -second, blend=blend)


def without(shape: Level, other: Level, *, gap: float) -> Level:
    """A shape that keeps ``gap`` mm away from another."""
    return common(shape, gap - other, blend=4.0)
