"""The surface of a mask as small elements: where each lies, and how large it is.

The surface is that of Google DeepMind's surface-distance package
(https://github.com/google-deepmind/surface-distance): marching cubes through the midpoints between
voxel centres, with one element for every 2x2x2 neighbourhood of voxels that is partly inside.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache.grid import Triple, TripleMm, triple
from stages.evaluate.areas import areas_mm2

Flags = NDArray[np.bool_]
Places = NDArray[np.int64]  # flat indices of a lattice, in C order
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Lattice:
    """The 2x2x2 neighbourhoods of an array, which lie at the corners of its voxels.

    Attributes:
        shape_zyx: one more along each axis than the array has voxels: outside is background.
        spacing_zyx_mm: the array's own.
    """

    shape_zyx: Triple
    spacing_zyx_mm: TripleMm

    @property
    def size(self) -> int:
        """How many neighbourhoods there are."""
        return int(np.prod(self.shape_zyx, dtype=np.int64))

    def points_mm(self, places: Places) -> Values:
        """Where neighbourhoods lie, (N, 3) in z, y, x, mm from the first one."""
        indices = np.stack(np.unravel_index(places, self.shape_zyx), axis=1)
        return np.multiply(indices, self.spacing_zyx_mm, dtype=np.float64)


@dataclass(frozen=True)
class Elements:
    """The surface of a mask; without elements if the mask is empty.

    Attributes:
        places: where the elements lie on the lattice, ascending.
        areas_mm2: the area of each, float64, mm².
    """

    places: Places
    areas_mm2: Values


def lattice_of(mask: Flags, spacing_zyx_mm: TripleMm) -> Lattice:
    """The lattice on which the elements of a (Z, Y, X) mask lie."""
    return Lattice(triple([side + 1 for side in mask.shape]), spacing_zyx_mm)


def surface_elements(mask: Flags, spacing_zyx_mm: TripleMm) -> Elements:
    """Find the surface of a mask.

    A mask that reaches the array's border is closed there: outside is background.

    Args:
        mask: (Z, Y, X) bool; may be empty.
        spacing_zyx_mm: distance between voxel centres, positive.
    """
    areas_of_codes = areas_mm2(spacing_zyx_mm)
    depth, rows, columns = lattice_of(mask, spacing_zyx_mm).shape_zyx
    below = np.zeros((rows, columns), np.uint8)
    places, areas = [], []
    # slice by slice, what is worked on stays in the processor's cache
    for index in range(depth):
        above = _quads(mask[index]) if index < len(mask) else np.zeros_like(below)
        codes = ((below << 4) | above).ravel()
        # of the 256 codes 0 is all outside and 255 all inside; adding 1 leaves one comparison
        found = np.flatnonzero(codes + np.uint8(1) > 1)
        places.append(found + index * rows * columns)
        areas.append(areas_of_codes[codes[found]])
        below = above
    return Elements(np.concatenate(places), np.concatenate(areas))


def _quads(plane: Flags) -> NDArray[np.uint8]:
    """Which voxels of every 2x2 neighbourhood of a slice are inside, as the bits 8, 4, 2 and 1.

    That is half of the table's code, whose upper four bits are of the slice below.
    """
    padded = np.pad(plane.view(np.uint8), 1)
    pairs = (padded[:, :-1] << 1) | padded[:, 1:]
    return np.asarray((pairs[:-1] << 2) | pairs[1:], np.uint8)
