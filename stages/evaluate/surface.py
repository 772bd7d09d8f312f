"""How far two surfaces lie apart, in mm, weighted by area: HD95, ASSD and surface Dice.

The definitions are those of Google DeepMind's surface-distance package
(https://github.com/google-deepmind/surface-distance), against which the tests hold them;
docs/scores.md says how other tools differ. ``surface_distances`` is the slow step; what is read off
its result is cheap.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cache.grid import Box, TripleMm, box_of, triple_mm
from stages.evaluate.elements import Flags, Values, lattice_of, surface_elements
from stages.evaluate.nearest import nearest_mm
from stages.evaluate.overlap import AnyMask, as_bool

# sums of areas are rounded: 19 of 20 equal elements must count as 95 %
ROUNDING = 1e-9
# distances are rounded, those of a map to float32: one that equals the tolerance is within it
ROUNDING_OF_DISTANCES = 1e-6


@dataclass(frozen=True)
class SurfaceDistances:
    """For every surface element of either mask: the way to the other surface, and its area.

    All arrays are float64 with one axis. A mask that is empty has no elements: its two arrays
    have length 0, and all distances from the other mask are infinite.

    Attributes:
        prediction_to_truth_mm: from each element of the prediction's surface to the truth's.
        prediction_areas_mm2: the areas of those elements, mm².
        truth_to_prediction_mm: from each element of the truth's surface to the prediction's.
        truth_areas_mm2: the areas of those elements, mm².
    """

    prediction_to_truth_mm: Values
    prediction_areas_mm2: Values
    truth_to_prediction_mm: Values
    truth_areas_mm2: Values

    @property
    def both(self) -> tuple[Values, Values]:
        """The ways of both directions in a row, mm, and the areas they belong to, mm²."""
        ways = (self.prediction_to_truth_mm, self.truth_to_prediction_mm)
        areas = (self.prediction_areas_mm2, self.truth_areas_mm2)
        return np.concatenate(ways), np.concatenate(areas)


def surface_distances(
    prediction: AnyMask, truth: AnyMask, spacing_zyx_mm: Sequence[float]
) -> SurfaceDistances:
    """Measure the ways between two surfaces, from each to the other.

    A mask that reaches the volume's border is closed there: outside is background.

    Args:
        prediction: (Z, Y, X), uint8 of 0 and 1, or bool; may be empty.
        truth: the same, of the same shape; may be empty.
        spacing_zyx_mm: distance between voxel centres, positive.

    Raises:
        ValueError: unequal shapes, not three axes, not masks, or an impossible spacing.
    """
    spacing = _checked_spacing(spacing_zyx_mm)
    ours, theirs = _cropped_to_union(prediction, truth)
    lattice = lattice_of(ours, spacing)
    our, their = surface_elements(ours, spacing), surface_elements(theirs, spacing)
    return SurfaceDistances(
        prediction_to_truth_mm=nearest_mm(our.places, their.places, lattice),
        prediction_areas_mm2=our.areas_mm2,
        truth_to_prediction_mm=nearest_mm(their.places, our.places, lattice),
        truth_areas_mm2=their.areas_mm2,
    )


def robust_hausdorff_mm(distances: SurfaceDistances, percent: float) -> float:
    """The distance within which this share of each surface's area lies from the other, mm.

    Args:
        distances: the ways between the two surfaces.
        percent: above 0, at most 100; 95 gives HD95, 100 the Hausdorff distance.

    Returns:
        The larger of the two directions; at least 0, 0 for equal masks. NaN if both masks are
        empty, inf if one is.
    """
    directions = [
        (distances.prediction_to_truth_mm, distances.prediction_areas_mm2),
        (distances.truth_to_prediction_mm, distances.truth_areas_mm2),
    ]
    reached = [_distance_at(ways, areas, percent) for ways, areas in directions if ways.size]
    return max(reached, default=math.nan)


def assd_mm(distances: SurfaceDistances) -> float:
    """The average symmetric surface distance: the mean way over the area of both surfaces, mm.

    Σ d·a / Σ a over the elements of both surfaces together, as the liver challenges SLIVER07 and
    CHAOS have it with voxels for areas. Google's ``compute_average_surface_distance`` gives the
    mean of each direction; this is their mean weighted by the areas of the two surfaces.

    Args:
        distances: the ways between the two surfaces.

    Returns:
        At least 0; 0 for equal masks. NaN if both masks are empty, inf if one is.
    """
    ways, areas = distances.both
    return float(ways @ areas / areas.sum()) if areas.size else math.nan


def surface_dice(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """The share of the area of both surfaces that lies within a tolerance of the other surface.

    Args:
        distances: the ways between the two surfaces.
        tolerance_mm: at least 0; a way just as long is within it.

    Returns:
        0 to 1. NaN if both masks are empty, 0 if one is.
    """
    ways, areas = distances.both
    near = ways <= tolerance_mm * (1.0 + ROUNDING_OF_DISTANCES)
    return float(areas[near].sum() / areas.sum()) if areas.size else math.nan


def _checked_spacing(spacing_zyx_mm: Sequence[float]) -> TripleMm:
    spacing = triple_mm(spacing_zyx_mm)
    if not all(0 < side < math.inf for side in spacing):
        raise ValueError(f"spacing_zyx_mm is {spacing}; it must be positive")
    return spacing


def _cropped_to_union(prediction: AnyMask, truth: AnyMask) -> tuple[Flags, Flags]:
    """Both masks cut to the smallest box that holds them."""
    if prediction.shape != truth.shape or prediction.ndim != 3:
        raise ValueError(
            f"prediction is {prediction.shape} and truth {truth.shape}; both must be one (Z, Y, X)"
        )
    ours, theirs = as_bool(prediction, "prediction"), as_bool(truth, "truth")
    box = box_of(ours | theirs) or Box.whole((0, 0, 0))
    return ours[box.slices], theirs[box.slices]


def _distance_at(distances_mm: Values, areas_mm2: Values, percent: float) -> float:
    """The smallest distance at which the cumulated area reaches a percentage of all of it."""
    order = np.argsort(distances_mm)
    cumulated = np.cumsum(areas_mm2[order])
    wanted = cumulated[-1] * (percent / 100.0) * (1.0 - ROUNDING)
    return float(distances_mm[order][np.searchsorted(cumulated, wanted)])
