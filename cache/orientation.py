"""Turning arrays between their file's axes and the one orientation of the store, LPS.

An orientation is three letters, for the array's x, y and z axis in that order, each the side of
the patient its index grows towards: L or R, P or A, S or I. ``LPS`` is ITK's identity direction.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.grid import Grid, triple, triple_mm

AXIS_OF = {
    "L": 2,
    "R": 2,
    "P": 1,
    "A": 1,
    "S": 0,
    "I": 0,
}  # letter -> axis of an LPS (Z, Y, X) array
REVERSED = frozenset("RAI")


def to_lps(array: NDArray[Any], orientation: str) -> NDArray[Any]:
    """A (Z, Y, X) array of this orientation, turned to LPS; a view wherever possible."""
    turned = np.flip(array, _reversed_axes(orientation))
    return turned.transpose(np.argsort(_axes_zyx(orientation)))


def from_lps(array: NDArray[Any], orientation: str) -> NDArray[Any]:
    """The inverse of ``to_lps``."""
    return np.flip(array.transpose(_axes_zyx(orientation)), _reversed_axes(orientation))


def lps_grid(grid: Grid, orientation: str) -> Grid:
    """The grid of ``to_lps(array, orientation)`` for an array on ``grid``.

    An oblique direction keeps its rotation: axes are swapped and reversed, never resampled.
    """
    reversed_axes = _reversed_axes(orientation)
    first = [side - 1 if axis in reversed_axes else 0 for axis, side in enumerate(grid.shape_zyx)]
    columns_zyx = np.reshape(grid.direction, (3, 3)).T[::-1].copy()
    columns_zyx[list(reversed_axes)] *= -1
    order = np.argsort(_axes_zyx(orientation))
    direction = columns_zyx[order][::-1].T
    return Grid(
        triple(np.take(grid.shape_zyx, order)),
        triple_mm(np.take(grid.spacing_zyx_mm, order)),
        grid.point_xyz_mm(first),
        # adding zero turns -0.0 into 0.0, which would otherwise be written as such
        tuple(float(cosine) + 0.0 for cosine in direction.ravel()),
    )


def _axes_zyx(orientation: str) -> list[int]:
    return [AXIS_OF[letter] for letter in reversed(orientation)]


def _reversed_axes(orientation: str) -> tuple[int, ...]:
    return tuple(axis for axis, letter in enumerate(reversed(orientation)) if letter in REVERSED)
