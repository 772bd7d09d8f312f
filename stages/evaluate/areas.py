"""The area of a mask's surface within a 2x2x2 neighbourhood of voxels, for all 256 of them.

The surface is that of marching cubes (Lorensen and Cline, SIGGRAPH 1987): an edge of the cube whose
voxels differ is cut in its middle, and the cuts are joined by triangles. At most four voxels are
taken for the inside, else the outside is, whose surface is the same; inside voxels that share no
edge of the cube are cut off separately. So six shapes make up all neighbourhoods:

    corner   one voxel: a triangle
    pair     two along an edge: a rectangle
    bend     three in a face
    square   a whole face
    tripod   a voxel and its three neighbours: a hexagon
    chain    four, one after the other along three axes

Their triangles are those of Google DeepMind's surface-distance package
(https://github.com/google-deepmind/surface-distance, Apache 2.0), which the tests compare with,
triangle by triangle.
"""

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cache.grid import Triple, TripleMm, triple

Corners = frozenset[Triple]  # of the cube, each 0 or 1 along z, y, x
Vectors = list[Triple]

MOST_TRIANGLES = 4
# The corners inside; and of each triangle its projection along z, y and x, in eighths of the cube's
# face: for cubic voxels the vector's length is the triangle's area. Signs do not matter.
SHAPES: tuple[tuple[tuple[Triple, ...], Vectors], ...] = (
    (((0, 0, 0),), [(1, 1, 1)]),
    (((0, 0, 0), (0, 0, 1)), [(2, 2, 0), (2, 2, 0)]),
    (((0, 0, 0), (0, 0, 1), (0, 1, 0)), [(4, 0, 0), (2, 2, 2), (1, 1, 1)]),
    (((0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)), [(4, 0, 0), (4, 0, 0)]),
    (
        ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)),
        [(1, 1, 1), (2, 2, 2), (2, 2, 2), (1, 1, 1)],
    ),
    (
        ((1, 0, 0), (1, 1, 0), (1, 1, 1), (0, 1, 1)),
        [(0, 2, 2), (1, 1, 1), (2, 0, 2), (3, 3, 3)],
    ),
)


def areas_mm2(spacing_zyx_mm: TripleMm) -> NDArray[np.float64]:
    """The area for each of the 256 neighbourhoods, mm²; 0 where all or none is inside.

    Args:
        spacing_zyx_mm: distance between voxel centres, positive.

    Returns:
        float64, by code: bit 7 is the voxel (0, 0, 0), bit 6 (0, 0, 1), and so on to bit 0, which
        is (1, 1, 1), in z, y, x.
    """
    z, y, x = spacing_zyx_mm
    sides = np.array([y * x, z * x, z * y], np.float64)
    return np.asarray(np.linalg.norm(TRIANGLES / 8 * sides, axis=-1).sum(axis=-1))


def _triangles() -> NDArray[np.float64]:
    """Of each code, the vectors of its triangles: (256, 4, 3); what is not needed is zero."""
    placed = dict(_placed())
    table = np.zeros((256, MOST_TRIANGLES, 3))
    for code in range(256):
        inside = [place for bit, place in enumerate(CUBE) if code & (128 >> bit)]
        smaller = inside if len(inside) <= 4 else [one for one in CUBE if one not in inside]
        vectors = [vector for piece in _pieces(smaller) for vector in placed[piece]]
        table[code, : len(vectors)] = np.reshape(vectors, (-1, 3))
    return table


def _placed() -> Iterator[tuple[Corners, Vectors]]:
    """Every shape in every of the cube's 48 positions, mirrored ones among them."""
    for (corners, vectors), axes, flips in itertools.product(
        SHAPES, itertools.permutations(range(3)), itertools.product((0, 1), repeat=3)
    ):
        moved = frozenset(
            triple(corner[axis] ^ flip for axis, flip in zip(axes, flips, strict=True))
            for corner in corners
        )
        yield moved, [triple(vector[axis] for axis in axes) for vector in vectors]


def _pieces(corners: list[Triple]) -> Iterator[Corners]:
    """Corners, apart where no edge of the cube joins them."""
    left = set(corners)
    while left:
        piece, reached = set(), {min(left)}
        while reached:
            piece |= reached
            left -= reached
            reached = {one for one in left if any(_share_an_edge(one, other) for other in piece)}
        yield frozenset(piece)


def _share_an_edge(one: Triple, other: Triple) -> bool:
    return sum(a != b for a, b in zip(one, other, strict=True)) == 1


CUBE = [triple(corner) for corner in itertools.product((0, 1), repeat=3)]
TRIANGLES = _triangles()
