"""Distances of surfaces, by hand, by a search over all pairs, and against Google's package."""

import math
from itertools import product

import numpy as np
import pytest
import surface_distance as google
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import compute_surface_dice
from scipy import ndimage

from stages.evaluate.elements import Lattice
from stages.evaluate.nearest import map_mm, nearest_mm, tree_mm
from stages.evaluate.surface import (
    assd_mm,
    robust_hausdorff_mm,
    surface_dice,
    surface_distances,
)
from tiny import block, voxels

# unequal on every axis, so that a swapped axis shows
SPACING_ZYX_MM = (3.0, 1.0, 2.0)
SHAPE_ZYX = (10, 12, 14)

small_masks = arrays(bool, (3, 4, 5))
spacings = st.tuples(*[st.floats(0.3, 6.0)] * 3)


def hd95_mm(prediction, truth, spacing):
    """The 95 % Hausdorff distance."""
    return robust_hausdorff_mm(surface_distances(prediction, truth, spacing), 95.0)


class TestSurface:
    def test_the_surface_of_one_voxel_is_an_octahedron(self):
        # its corners lie 1.5, 0.5 and 1 mm from the centre; a face between them has
        # sqrt((1.5*0.5)^2 + (1.5*1)^2 + (0.5*1)^2) / 2 = 1.75 / 2 mm²
        areas = surface_distances(voxels((5, 5, 5)), voxels(), SPACING_ZYX_MM).prediction_areas_mm2
        assert areas == pytest.approx([0.875] * 8)

    def test_a_second_voxel_is_measured_from_both_its_sides(self):
        # 4 voxels of 2 mm apart: its near corners are 6 mm from the first voxel's, its far ones 8
        one, two = voxels((5, 5, 5)), voxels((5, 5, 5), (5, 5, 9))
        ways = surface_distances(two, one, SPACING_ZYX_MM)
        assert sorted(ways.prediction_to_truth_mm) == pytest.approx([0] * 8 + [6] * 4 + [8] * 4)
        assert ways.truth_to_prediction_mm == pytest.approx([0] * 8)

    @pytest.mark.parametrize(("percent", "mm"), [(50, 0.0), (51, 6.0), (75, 6.0), (76, 8.0)])
    def test_the_distance_is_the_first_to_cover_the_share_of_the_area(self, percent, mm):
        one, two = voxels((5, 5, 5)), voxels((5, 5, 5), (5, 5, 9))
        ways = surface_distances(two, one, SPACING_ZYX_MM)
        assert robust_hausdorff_mm(ways, percent) == pytest.approx(mm)

    def test_elements_count_by_their_area_not_their_number(self):
        # a plate of 1x6x6 voxels has 2·7·7 elements: on either side 25 flat ones of 2 mm², 10 edges
        # of sqrt(1.5² + 0.5²)·2 mm², 10 of sqrt(1.5² + 1²)·1 mm², 4 corners of 0.875: 206.3 mm².
        # The voxel beside it has 8 of the 106 elements, 7.5 %, and 7 of the 213.3 mm², 3.3 %
        plate = block(start=(4, 2, 1), stop=(5, 8, 7))
        ways = surface_distances(plate, plate | voxels((4, 4, 11)), SPACING_ZYX_MM)
        assert ways.truth_to_prediction_mm.size == 106
        assert np.count_nonzero(ways.truth_to_prediction_mm) == 8
        assert ways.truth_areas_mm2.sum() == pytest.approx(213.3, abs=0.05)
        assert robust_hausdorff_mm(ways, 95) == 0.0

    def test_empty_masks_have_no_elements(self):
        ways = surface_distances(voxels(), voxels((5, 5, 5)), SPACING_ZYX_MM)
        assert ways.prediction_to_truth_mm.size == ways.prediction_areas_mm2.size == 0
        assert ways.truth_to_prediction_mm.tolist() == [math.inf] * 8

    @settings(max_examples=40, deadline=None)
    @given(small_masks, small_masks, spacings)
    def test_distances_are_those_of_a_search_over_all_pairs(self, prediction, truth, spacing):
        ways = surface_distances(prediction, truth, spacing)
        ours, theirs = places_mm(prediction, spacing), places_mm(truth, spacing)
        assert np.sort(ways.prediction_to_truth_mm) == pytest.approx(searched_mm(ours, theirs))
        assert np.sort(ways.truth_to_prediction_mm) == pytest.approx(searched_mm(theirs, ours))


class TestNearest:
    @settings(max_examples=40, deadline=None)
    @given(small_masks, small_masks, spacings)
    def test_tree_and_map_agree_with_a_search_over_all_pairs(self, places, targets, spacing):
        assume(targets.any())
        lattice = Lattice((3, 4, 5), spacing)
        ours, theirs = np.flatnonzero(places), np.flatnonzero(targets)
        wanted = [
            np.linalg.norm((np.argwhere(targets) - place) * spacing, axis=1).min()
            for place in np.argwhere(places)
        ]
        for way in (nearest_mm, tree_mm, map_mm):
            assert way(ours, theirs, lattice) == pytest.approx(wanted)

    # 3000 places and 4000 targets at the two ends of a lattice, as when the body is predicted
    def test_many_far_places_are_left_to_the_map(self):
        lattice = Lattice((40, 50, 60), (1.3, 0.7, 1.1))
        rng = np.random.default_rng(0)
        ours = np.sort(rng.choice(9000, 3000, replace=False))
        theirs = 120_000 - 1 - np.sort(rng.choice(9000, 4000, replace=False))[::-1]
        ways = tree_mm(ours, theirs, lattice)
        # the map's values are float32, a tree's are not
        assert np.array_equal(ways, ways.astype(np.float32))
        few = ours[::100]
        exact = tree_mm(few, theirs, lattice)
        assert not np.array_equal(exact, exact.astype(np.float32))
        assert ways[::100] == pytest.approx(exact)


def places_mm(mask, spacing):
    """Where 2x2x2 neighbourhoods are partly inside, found one by one."""
    padded = np.pad(mask, 1)
    corners = product(*(range(side - 1) for side in padded.shape))
    mixed = [
        (z, y, x) for z, y, x in corners if 0 < padded[z : z + 2, y : y + 2, x : x + 2].sum() < 8
    ]
    return np.array(mixed, float).reshape(-1, 3) * spacing


def searched_mm(points, targets):
    """The distance from each point to the nearest target, sorted."""
    if not len(targets):
        return np.full(len(points), np.inf)
    ways = np.linalg.norm(points[:, None] - targets[None], axis=2)
    return np.sort(ways.min(axis=1)) if len(points) else np.zeros(0)


class TestHd95:
    @pytest.mark.parametrize(("axis", "mm"), [(0, 3.0), (1, 1.0), (2, 2.0)])
    def test_a_shift_by_one_voxel_is_the_spacing_of_its_axis(self, axis, mm):
        assert hd95_mm(np.roll(block(), 1, axis), block(), SPACING_ZYX_MM) == pytest.approx(mm)

    def test_the_95_percent_leave_a_small_island_out(self):
        shape = (20, 20, 30)
        liver = block(stop=(18, 18, 18), shape=shape)
        assert hd95_mm(liver | voxels((5, 5, 28), shape=shape), liver, SPACING_ZYX_MM) == 0.0

    def test_the_worse_direction_counts(self):
        # all of the small one's surface is near the large one's, not the other way round
        thick = block(start=(4, 4, 2), stop=(6, 8, 12))
        thin = block(start=(4, 4, 2), stop=(6, 8, 4))
        ways = surface_distances(thin, thick, SPACING_ZYX_MM)
        assert ways.prediction_to_truth_mm.max() < ways.truth_to_prediction_mm.max()
        assert hd95_mm(thin, thick, SPACING_ZYX_MM) == pytest.approx(16.0)
        assert hd95_mm(thick, thin, SPACING_ZYX_MM) == pytest.approx(16.0)

    def test_equal_masks_are_0_mm_apart(self):
        assert hd95_mm(block(), block(), SPACING_ZYX_MM) == 0.0

    def test_two_empty_masks_have_no_distance(self):
        assert math.isnan(hd95_mm(voxels(), voxels(), SPACING_ZYX_MM))

    def test_an_empty_mask_is_infinitely_far_from_another(self):
        assert hd95_mm(voxels(), block(), SPACING_ZYX_MM) == math.inf
        assert hd95_mm(block(), voxels(), SPACING_ZYX_MM) == math.inf

    def test_a_mask_at_the_border_is_closed_there(self):
        prediction, truth = np.ones((4, 5, 6), bool), np.ones((4, 5, 6), bool)
        truth[-1] = False
        inside = hd95_mm(np.pad(prediction, 3), np.pad(truth, 3), SPACING_ZYX_MM)
        assert inside == 3.0
        assert hd95_mm(prediction, truth, SPACING_ZYX_MM) == inside

    @settings(max_examples=30, deadline=None)
    @given(small_masks, small_masks, st.tuples(*[st.integers(0, 6)] * 3))
    def test_moving_both_masks_changes_nothing(self, prediction, truth, start):
        def moved(mask):
            place = np.zeros((9, 10, 11), bool)
            z, y, x = start
            place[z : z + 3, y : y + 4, x : x + 5] = mask
            return place

        here = hd95_mm(prediction, truth, SPACING_ZYX_MM)
        there = hd95_mm(moved(prediction), moved(truth), SPACING_ZYX_MM)
        assert there == pytest.approx(here, nan_ok=True)

    @settings(max_examples=30, deadline=None)
    @given(small_masks, small_masks, spacings)
    def test_swapping_the_masks_changes_nothing(self, prediction, truth, spacing):
        here, there = (
            hd95_mm(a, b, spacing) for a, b in [(prediction, truth), (truth, prediction)]
        )
        assert there == pytest.approx(here, nan_ok=True)

    def test_doubled_spacing_doubles_the_distance(self):
        prediction, truth = block(start=(2, 4, 3)), block()
        near = hd95_mm(prediction, truth, (3.0, 1.0, 2.0))
        assert hd95_mm(prediction, truth, (6.0, 2.0, 4.0)) == pytest.approx(2 * near)

    @pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, math.nan)])
    def test_an_impossible_spacing_is_refused(self, spacing):
        with pytest.raises(ValueError, match="must be positive"):
            hd95_mm(block(), block(), spacing)

    def test_probabilities_are_refused_as_a_mask(self):
        with pytest.raises(ValueError, match="prediction is float64"):
            hd95_mm(np.zeros(SHAPE_ZYX), block(), SPACING_ZYX_MM)

    def test_unequal_shapes_are_refused(self):
        with pytest.raises(ValueError, match=r"prediction is \(1, 1, 2\) and truth \(1, 1, 3\)"):
            hd95_mm(np.zeros((1, 1, 2), bool), np.zeros((1, 1, 3), bool), SPACING_ZYX_MM)


class TestAssd:
    # one voxel has 8 elements of 0.875 mm², a second one 4 more at 6 mm and 4 at 8 mm
    def test_every_element_of_both_surfaces_counts_by_its_area(self):
        one, two = voxels((5, 5, 5)), voxels((5, 5, 5), (5, 5, 9))
        wanted = 0.875 * (4 * 6 + 4 * 8) / (0.875 * 24)
        assert assd_mm(surface_distances(two, one, SPACING_ZYX_MM)) == pytest.approx(wanted)
        assert assd_mm(surface_distances(one, two, SPACING_ZYX_MM)) == pytest.approx(wanted)

    def test_equal_masks_are_0_mm_apart(self):
        assert assd_mm(surface_distances(block(), block(), SPACING_ZYX_MM)) == 0.0


class TestSurfaceDice:
    @pytest.mark.parametrize(
        ("tolerance_mm", "near"), [(5.9, 8 + 8), (6.0, 12 + 8), (7.9, 12 + 8), (8.0, 24)]
    )
    def test_surface_dice_is_the_share_of_the_area_that_is_near(self, tolerance_mm, near):
        one, two = voxels((5, 5, 5)), voxels((5, 5, 5), (5, 5, 9))
        ways = surface_distances(two, one, SPACING_ZYX_MM)
        assert surface_dice(ways, tolerance_mm) == pytest.approx(near / 24)

    def test_a_way_as_long_as_the_tolerance_is_within_it(self):
        # in binary fractions, three times 0.1 is more than 0.3
        ways = surface_distances(np.roll(block(), 3, axis=2), block(), (5.0, 5.0, 0.1))
        assert surface_dice(ways, 0.3) == 1.0
        assert surface_dice(ways, 0.29) < 1.0

    def test_equal_masks_agree_at_any_tolerance(self):
        assert surface_dice(surface_distances(block(), block(), SPACING_ZYX_MM), 1e-9) == 1.0


@st.composite
def blobs(draw):
    """Two smooth masks that reach the border here and there; neither is empty."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    field, error = (
        ndimage.gaussian_filter(rng.standard_normal((9, 12, 14)), 1.5) for _ in range(2)
    )
    return field + 0.5 * error > 0, field > 0


pairs = st.one_of(st.tuples(small_masks, small_masks), blobs())


# its module asks for names that scipy 2 will no longer have
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestAgainstGoogle:
    """Its sums are rounded too, so a share of the area is asked for a little below and above."""

    @settings(max_examples=60, deadline=None)
    @given(pairs, spacings, st.sampled_from([50.0, 95.0, 100.0]))
    def test_the_hausdorff_distance_is_the_same(self, pair, spacing, percent):
        ours, theirs = both(pair, spacing)
        low, high = (
            google.compute_robust_hausdorff(theirs, percent + step) for step in (-1e-6, 1e-6)
        )
        assert low - 1e-4 <= robust_hausdorff_mm(ours, percent) <= high + 1e-4

    @settings(max_examples=60, deadline=None)
    @given(pairs, spacings, st.floats(0.1, 10.0))
    def test_surface_dice_is_the_same(self, pair, spacing, tolerance_mm):
        ours, theirs = both(pair, spacing)
        low, high = (
            google.compute_surface_dice_at_tolerance(theirs, tolerance_mm * (1 + step))
            for step in (-1e-5, 1e-5)
        )
        assert low - 1e-4 <= surface_dice(ours, tolerance_mm) <= high + 1e-4

    @settings(max_examples=60, deadline=None)
    @given(pairs, spacings)
    def test_assd_is_the_mean_of_its_two_means_by_area(self, pair, spacing):
        ours, theirs = both(pair, spacing)
        to_prediction, to_truth = google.compute_average_surface_distance(theirs)
        areas = theirs["surfel_areas_gt"].sum(), theirs["surfel_areas_pred"].sum()
        wanted = np.average([to_prediction, to_truth], weights=areas)
        assert assd_mm(ours) == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def both(pair, spacing):
    """The distances of two masks, ours and Google's; Google's divides by zero if one is empty."""
    prediction, truth = pair
    assume(prediction.any() and truth.any())
    theirs = google.compute_surface_distances(truth, prediction, spacing)
    return surface_distances(prediction, truth, spacing), theirs


def test_monais_surface_dice_with_subvoxels_is_the_same():
    rng = np.random.default_rng(5)
    truth = ndimage.gaussian_filter(rng.standard_normal(SHAPE_ZYX), 1.5) > 0
    prediction = np.roll(truth, 1, axis=2) | truth[::-1]
    theirs = compute_surface_dice(
        *(torch.from_numpy(mask)[None, None].float() for mask in (prediction, truth)),
        [1.7],
        include_background=True,
        spacing=SPACING_ZYX_MM,
        use_subvoxels=True,
    )
    ours = surface_dice(surface_distances(prediction, truth, SPACING_ZYX_MM), 1.7)
    assert 0.1 < ours < 0.9
    assert ours == pytest.approx(float(theirs))
