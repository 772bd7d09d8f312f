"""How far places of a lattice lie from the nearest of others: the slow step of scoring.

Two ways lead to the same distances. A k-d tree's time depends on how many places there are and how
far they are off: it is the faster one for a liver and its prediction, and took minutes where the
whole body had been predicted. A distance map's time depends on the lattice alone. The sizes decide,
so that the worst case stays bounded; docs/decisions/0014-scores.md has the figures.
"""

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone uses
from scipy.spatial import KDTree

from stages.evaluate.elements import Lattice, Places, Values

NEAR_MM = 20.0  # most errors of a prediction are smaller; what is farther off costs the tree more
NEAR_COST = 30  # the map passes so many places of the lattice while the tree looks for a near one
# while the map passes one, the tree looks at so many targets, and for a far place perhaps at all
LOOKS = 70
LEAF = 32  # points in a leaf of the tree, which is built for one question


def nearest_mm(places: Places, targets: Places, lattice: Lattice) -> Values:
    """The distance from each place to the nearest target, mm; infinite if there is no target.

    Args:
        places: flat indices of the lattice, each once.
        targets: the same.
        lattice: where both lie.
    """
    if not targets.size:
        return np.full(places.size, np.inf)
    is_target = np.zeros(lattice.size, bool)
    is_target[targets] = True
    apart = np.flatnonzero(~is_target[places])
    ways = np.zeros(places.size)
    ways[apart] = _apart_mm(places[apart], targets, lattice)
    return ways


def tree_mm(places: Places, targets: Places, lattice: Lattice) -> Values:
    """The same by a k-d tree; the far places by a map, if they are many."""
    if not places.size:
        return np.zeros(0)
    tree = KDTree(lattice.points_mm(targets), leafsize=LEAF)
    points = lattice.points_mm(places)
    ways = np.asarray(tree.query(points, distance_upper_bound=NEAR_MM)[0], np.float64)
    far = np.flatnonzero(np.isinf(ways))
    if far.size * targets.size > LOOKS * lattice.size:
        ways[far] = map_mm(places[far], targets, lattice)
    elif far.size:
        ways[far] = tree.query(points[far])[0]
    return ways


def map_mm(places: Places, targets: Places, lattice: Lattice) -> Values:
    """The same by ITK's distance map, whose values are float32."""
    is_target = np.zeros(lattice.size, np.uint8)
    is_target[targets] = 1
    image = sitk.GetImageFromArray(is_target.reshape(lattice.shape_zyx))
    image.SetSpacing(lattice.spacing_zyx_mm[::-1])
    distance_map = sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
    ways = sitk.GetArrayViewFromImage(distance_map).reshape(-1)[places].astype(np.float64)
    # amid targets the signed distance is negative: the way out of them
    return np.asarray(np.maximum(ways, 0.0))


def _apart_mm(places: Places, targets: Places, lattice: Lattice) -> Values:
    """By whichever of the two is the faster one for so many places."""
    if places.size * NEAR_COST > lattice.size:
        return map_mm(places, targets, lattice)
    return tree_mm(places, targets, lattice)
