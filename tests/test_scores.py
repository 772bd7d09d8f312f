"""Overlap and whole cases by hand; empty masks; the grids that must agree."""

import csv
import math
from dataclasses import asdict

import numpy as np
import pytest

from cache.errors import StoreError
from cache.grid import Grid
from stages.evaluate.overlap import Overlap, overlap
from stages.evaluate.scores import score_case
from stages.evaluate.tables import write_cases_csv
from tiny import block, voxels

# unequal on every axis, so that a swapped axis shows
SPACING_ZYX_MM = (3.0, 1.0, 2.0)
SHAPE_ZYX = (10, 12, 14)


class TestOverlap:
    def test_every_voxel_is_counted_once(self):
        prediction = np.array([1, 1, 1, 0, 0, 0, 0], np.uint8)
        truth = np.array([1, 1, 0, 1, 0, 0, 0], np.uint8)
        assert overlap(prediction, truth) == Overlap(2, 1, 1, 3)

    def test_scores_follow_from_the_counts(self):
        counts = Overlap(2, 1, 1, 3)
        assert counts.dice == pytest.approx(4 / 6)
        assert counts.iou == pytest.approx(2 / 4)
        assert Overlap(2, 1, 2, 3).sensitivity == pytest.approx(2 / 4)
        assert Overlap(2, 1, 2, 3).precision == pytest.approx(2 / 3)
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


class TestScoreCase:
    grid = Grid(SHAPE_ZYX, SPACING_ZYX_MM)

    def score(self, prediction, truth, *, other=None):
        return score_case(
            "c1",
            "p1",
            "test",
            prediction=(prediction, other or self.grid),
            truth=(truth, self.grid),
            tolerance_mm=1.0,
        )

    def test_a_case_has_its_overlap_its_distance_and_its_volumes(self):
        # 6x6x6 voxels of 6 mm³ are 1.296 ml; one sheet of 6x6 more is 0.216 ml
        score = self.score(block(stop=(9, 8, 8)), block())
        assert score.dice == pytest.approx(2 * 216 / (216 + 252))
        assert score.iou == pytest.approx(216 / 252)
        assert score.sensitivity == 1.0
        assert score.precision == pytest.approx(216 / 252)
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


NAN, INF = math.nan, math.inf
EMPTY = {  # what is empty -> the scores that then are special
    "both": {
        "dice": NAN,
        "iou": NAN,
        "sensitivity": NAN,
        "precision": NAN,
        "hd95_mm": NAN,
        "assd_mm": NAN,
        "surface_dice": NAN,
        "volume_error_percent": NAN,
    },
    "truth": {
        "dice": 0.0,
        "iou": 0.0,
        "sensitivity": NAN,
        "precision": 0.0,
        "hd95_mm": INF,
        "assd_mm": INF,
        "surface_dice": 0.0,
        "volume_error_percent": NAN,
    },
    "prediction": {
        "dice": 0.0,
        "iou": 0.0,
        "sensitivity": 0.0,
        "precision": NAN,
        "hd95_mm": INF,
        "assd_mm": INF,
        "surface_dice": 0.0,
        "volume_error_percent": -100.0,
    },
}


class TestEmptyMasks:
    @pytest.fixture
    def score(self):
        """Score a case in which this is empty."""

        def made(empty):
            prediction = voxels() if empty in ("both", "prediction") else block()
            truth = voxels() if empty in ("both", "truth") else block()
            grid = Grid(SHAPE_ZYX, SPACING_ZYX_MM)
            pair = {"prediction": (prediction, grid), "truth": (truth, grid)}
            return score_case("c1", "p1", "test", **pair, tolerance_mm=1.0)

        return made

    @pytest.mark.parametrize("empty", EMPTY)
    def test_every_score_is_defined(self, score, empty):
        found = asdict(score(empty))
        assert {name: found[name] for name in EMPTY[empty]} == pytest.approx(
            EMPTY[empty], nan_ok=True
        )

    @pytest.mark.parametrize("empty", EMPTY)
    def test_the_table_says_it_in_the_same_way(self, score, empty, tmp_path):
        write_cases_csv(tmp_path / "cases.csv", [score(empty)])
        with (tmp_path / "cases.csv").open(newline="") as file:
            [row] = csv.DictReader(file)
        texts = {NAN: "", INF: "inf", 0.0: "0.0000", -100.0: "-100.0000"}
        for name, value in EMPTY[empty].items():
            assert row[name] == ("" if math.isnan(value) else texts[value]), name
