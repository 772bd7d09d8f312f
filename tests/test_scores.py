"""Dice, IoU and HD95 by hand; the grids that must agree; the files that hold the scores."""

import csv
import json
import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cache.errors import StoreError
from cache.grid import Grid
from stages.evaluate.overlap import Overlap, overlap
from stages.evaluate.scores import (
    CaseScores,
    score_case,
    summarise,
    write_cases_csv,
    write_metrics_json,
)
from stages.evaluate.surface import hd95_mm, robust_hausdorff_mm, surface_distances

# unequal on every axis, so that a swapped axis shows
SPACING_ZYX_MM = (3.0, 1.0, 2.0)
SHAPE_ZYX = (10, 12, 14)

small_masks = arrays(bool, (3, 4, 5))
spacings = st.tuples(*[st.floats(0.3, 6.0)] * 3)


def block(*, start=(2, 2, 2), stop=(8, 8, 8), shape=SHAPE_ZYX):
    """A mask of one cuboid."""
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = 1
    return mask


def voxels(*places, shape=SHAPE_ZYX):
    """A mask of single voxels."""
    mask = np.zeros(shape, np.uint8)
    for place in places:
        mask[place] = 1
    return mask


def scores_of(case_id="c1", role="test", **values):
    """Scores of a middling case, with what a test wants changed."""
    usual = {
        "dice": 0.9,
        "iou": 0.8,
        "hd95_mm": 4.0,
        "volume_ml": 1500.0,
        "reference_volume_ml": 1450.0,
        "volume_error_ml": 50.0,
        "volume_error_percent": 3.4,
    }
    return CaseScores(case_id=case_id, patient_id=f"p-{case_id}", role=role, **(usual | values))


class TestOverlap:
    def test_every_voxel_is_counted_once(self):
        prediction = np.array([1, 1, 1, 0, 0, 0, 0], np.uint8)
        truth = np.array([1, 1, 0, 1, 0, 0, 0], np.uint8)
        assert overlap(prediction, truth) == Overlap(2, 1, 1, 3)

    def test_scores_follow_from_the_counts(self):
        counts = Overlap(2, 1, 1, 3)
        assert counts.dice == pytest.approx(4 / 6)
        assert counts.iou == pytest.approx(2 / 4)
        assert counts.accuracy == pytest.approx(5 / 7)

    def test_bool_and_uint8_count_alike(self):
        prediction, truth = block(), block(start=(3, 2, 2))
        assert overlap(prediction.astype(bool), truth) == overlap(prediction, truth)

    def test_dice_of_two_empty_masks_is_nan(self):
        counts = overlap(voxels(), voxels())
        assert math.isnan(counts.dice)
        assert math.isnan(counts.iou)
        assert counts.accuracy == 1.0

    @pytest.mark.parametrize("empty_first", [True, False])
    def test_dice_against_an_empty_mask_is_zero(self, empty_first):
        pair = (voxels(), block()) if empty_first else (block(), voxels())
        assert overlap(*pair).dice == 0.0
        assert overlap(*pair).iou == 0.0

    def test_counts_of_two_cases_add_up(self):
        assert Overlap(1, 2, 3, 4) + Overlap(10, 20, 30, 40) == Overlap(11, 22, 33, 44)

    def test_unequal_shapes_are_refused(self):
        with pytest.raises(ValueError, match=r"prediction is \(2,\) but truth is \(3,\)"):
            overlap(np.zeros(2, np.uint8), np.zeros(3, np.uint8))

    def test_a_label_map_is_refused_as_a_mask(self):
        with pytest.raises(ValueError, match="truth holds the value 2"):
            overlap(np.array([0, 1], np.uint8), np.array([0, 2], np.uint8))

    def test_probabilities_are_refused_as_a_mask(self):
        with pytest.raises(ValueError, match="prediction is float32"):
            overlap(np.zeros(2, np.float32), np.zeros(2, np.uint8))


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
        assert np.sort(ways.prediction_to_truth_mm) == pytest.approx(nearest_mm(ours, theirs))
        assert np.sort(ways.truth_to_prediction_mm) == pytest.approx(nearest_mm(theirs, ours))


def places_mm(mask, spacing):
    """Where 2x2x2 neighbourhoods are partly inside, found one by one."""
    padded = np.pad(mask, 1)
    corners = product(*(range(side - 1) for side in padded.shape))
    mixed = [
        (z, y, x) for z, y, x in corners if 0 < padded[z : z + 2, y : y + 2, x : x + 2].sum() < 8
    ]
    return np.array(mixed, float).reshape(-1, 3) * spacing


def nearest_mm(points, targets):
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


class TestScoreCase:
    grid = Grid(SHAPE_ZYX, SPACING_ZYX_MM)

    def score(self, prediction, truth, *, other=None):
        return score_case(
            "c1",
            "p1",
            "test",
            prediction=(prediction, other or self.grid),
            truth=(truth, self.grid),
        )

    def test_a_case_has_its_overlap_its_distance_and_its_volumes(self):
        # 6x6x6 voxels of 6 mm³ are 1.296 ml; one sheet of 6x6 more is 0.216 ml
        score = self.score(block(stop=(9, 8, 8)), block())
        assert score.dice == pytest.approx(2 * 216 / (216 + 252))
        assert score.iou == pytest.approx(216 / 252)
        assert score.hd95_mm == pytest.approx(3.0)
        assert score.volume_ml == pytest.approx(1.512)
        assert score.reference_volume_ml == pytest.approx(1.296)
        assert score.volume_error_ml == pytest.approx(0.216)
        assert score.volume_error_percent == pytest.approx(16.6667, abs=1e-3)

    def test_too_little_liver_is_a_negative_error(self):
        assert self.score(block(), block(stop=(9, 8, 8))).volume_error_ml == pytest.approx(-0.216)

    def test_without_a_reference_the_error_has_no_percentage(self):
        score = self.score(block(), voxels())
        assert score.volume_error_ml == pytest.approx(1.296)
        assert math.isnan(score.volume_error_percent)

    @pytest.mark.parametrize(
        ("other", "named"),
        [
            (Grid(SHAPE_ZYX, (3.0, 1.0, 2.5)), r"\(3.0, 1.0, 2.5\) but of the label \(3.0, 1.0, 2"),
            (Grid((10, 12, 13), SPACING_ZYX_MM), r"\(10, 12, 13\) but of the label \(10, 12, 14\)"),
            (Grid(SHAPE_ZYX, SPACING_ZYX_MM, (0.0, 0.0, 3.0)), "origin_xyz_mm"),
            (Grid(SHAPE_ZYX, SPACING_ZYX_MM, direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1)), "direction"),
        ],
        ids=["spacing", "shape", "origin", "direction"],
    )
    def test_scores_refuse_unequal_grids(self, other, named):
        prediction = np.zeros(other.shape_zyx, np.uint8)
        with pytest.raises(StoreError, match=f"c1: .*{named}"):
            self.score(prediction, block(), other=other)

    def test_the_rounding_of_a_nifti_header_is_no_difference(self):
        rounded = Grid(SHAPE_ZYX, (3.0000001, 0.9999999, 2.0), (1e-5, 0.0, 0.0))
        assert self.score(block(), block(), other=rounded).dice == 1.0

    def test_a_mask_that_is_not_of_its_grid_is_refused(self):
        with pytest.raises(ValueError, match="truth is"):
            self.score(block(), np.zeros((1, 2, 3), np.uint8))


class TestSummary:
    def test_it_has_the_mean_and_the_median_of_each_score(self):
        summary = summarise([scores_of(dice=dice) for dice in (0.6, 0.9, 0.96)])
        assert summary["cases"] == 3
        assert summary["dice"] == {"mean": 0.82, "median": 0.9, "undefined": 0}

    def test_volume_errors_are_given_with_and_without_their_sign(self):
        summary = summarise([scores_of(volume_error_ml=error) for error in (-30.0, 10.0)])
        assert summary["volume_error_ml"]["mean"] == -10.0
        assert summary["absolute_volume_error_ml"]["mean"] == 20.0

    def test_cases_without_a_finite_value_are_counted_and_left_out(self):
        summary = summarise([scores_of(hd95_mm=mm) for mm in (2.0, 4.0, math.inf, math.nan)])
        assert summary["hd95_mm"] == {"mean": 3.0, "median": 3.0, "undefined": 2}

    def test_training_cases_count_if_the_caller_gives_them(self):
        cases = [scores_of(role="train", dice=1.0), scores_of(role="test", dice=0.5)]
        assert summarise(cases)["dice"]["mean"] == 0.75

    def test_without_a_value_mean_and_median_are_none(self):
        nothing = {"mean": None, "median": None, "undefined": 1}
        assert summarise([scores_of(dice=math.nan)])["dice"] == nothing
        assert summarise([])["dice"] == nothing | {"undefined": 0}


class TestFiles:
    def test_json_says_null_where_there_is_no_value(self, tmp_path):
        path = tmp_path / "reports" / "metrics.json"
        write_metrics_json(path, summarise([scores_of(dice=math.nan, hd95_mm=math.inf)]))
        assert "NaN" not in path.read_text()
        assert "Infinity" not in path.read_text()
        assert json.loads(path.read_text())["dice"]["mean"] is None

    def test_csv_has_the_worst_dice_first_and_no_dice_last(self, tmp_path):
        dices = {"b": 0.9, "none": math.nan, "a": 0.9, "worst": 0.1}
        cases = [scores_of(case_id, dice=dice) for case_id, dice in dices.items()]
        write_cases_csv(tmp_path / "cases.csv", cases)
        assert [row["case_id"] for row in rows(tmp_path)] == ["worst", "a", "b", "none"]

    def test_csv_leaves_nan_empty_and_keeps_inf(self, tmp_path):
        case = scores_of(dice=0.0, hd95_mm=math.inf, volume_error_percent=math.nan)
        write_cases_csv(tmp_path / "cases.csv", [case])
        (row,) = rows(tmp_path)
        assert row["hd95_mm"] == "inf"
        assert row["volume_error_percent"] == ""
        assert row["dice"] == "0.0000"

    def test_a_file_that_cannot_be_written_leaves_the_old_one(self, tmp_path):
        path = tmp_path / "metrics.json"
        write_metrics_json(path, {"cases": 1})
        with pytest.raises(ValueError, match="JSON"):
            write_metrics_json(path, {"cases": math.nan})
        assert json.loads(path.read_text()) == {"cases": 1}
        assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


def rows(folder):
    """The rows of the table that was written."""
    with (folder / "cases.csv").open(newline="") as file:
        return list(csv.DictReader(file))
