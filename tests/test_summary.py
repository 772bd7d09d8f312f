"""What is said of many cases: middle, spread, interval of the mean; and the files it goes to."""

import csv
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.evaluate.scores import CaseScores
from stages.evaluate.summary import mean_interval, summarise
from stages.evaluate.tables import case_lines, mean_line, write_cases_csv, write_metrics_json

FIGURES = ["mean", "median", "sd", "ci95_low", "ci95_high", "ci95_missing", "undefined"]
TOO_FEW = "patients with a value, fewer than 10"

values = st.lists(st.floats(0, 1), min_size=2, max_size=6)


def scores_of(case_id="c1", role="test", **values):
    """Scores of a middling case, with what a test wants changed."""
    usual = {
        "dice": 0.9,
        "iou": 0.8,
        "sensitivity": 0.85,
        "precision": 0.95,
        "hd95_mm": 4.0,
        "assd_mm": 1.5,
        "surface_dice": 0.7,
        "volume_ml": 1500.0,
        "reference_volume_ml": 1450.0,
        "volume_error_ml": 50.0,
        "volume_error_percent": 3.4,
    }
    return CaseScores(case_id=case_id, patient_id=f"p-{case_id}", role=role, **(usual | values))


class TestSummary:
    def test_the_summary_has_the_mean_and_the_median_of_each_score(self):
        summary = summarise([scores_of(dice=dice) for dice in (0.6, 0.9, 0.96)])
        assert summary["cases"] == 3
        assert summary["dice"]["mean"] == 0.82
        assert summary["dice"]["median"] == 0.9
        assert summary["dice"]["undefined"] == 0

    def test_volume_errors_are_given_with_and_without_their_sign(self):
        summary = summarise([scores_of(volume_error_ml=error) for error in (-30.0, 10.0)])
        assert summary["volume_error_ml"]["mean"] == -10.0
        assert summary["absolute_volume_error_ml"]["mean"] == 20.0

    def test_cases_without_a_finite_value_are_counted_and_left_out(self):
        summary = summarise([scores_of(hd95_mm=mm) for mm in (2.0, 4.0, math.inf, math.nan)])
        assert summary["hd95_mm"]["mean"] == 3.0
        assert summary["hd95_mm"]["undefined"] == 2

    def test_training_cases_count_if_the_caller_gives_them(self):
        cases = [scores_of(role="train", dice=1.0), scores_of(role="test", dice=0.5)]
        assert summarise(cases)["dice"]["mean"] == 0.75

    def test_every_score_has_its_figures(self):
        summary = summarise([scores_of("a"), scores_of("b")])
        names = {"dice", "iou", "sensitivity", "precision", "hd95_mm", "assd_mm", "surface_dice"}
        errors = {"volume_error_ml", "absolute_volume_error_ml", "absolute_volume_error_percent"}
        assert set(summary) == {"cases"} | names | errors
        for name in names | errors:
            assert list(summary[name]) == FIGURES

    def test_the_spread_is_the_samples(self):
        # deviations from 0.8 of -0.1, 0 and 0.1: 0.02 over 3 - 1 is 0.01, whose root is 0.1
        assert summarise([scores_of(dice=dice) for dice in (0.7, 0.8, 0.9)])["dice"]["sd"] == 0.1

    def test_a_percentage_of_an_error_counts_without_its_sign(self):
        summary = summarise([scores_of(volume_error_percent=error) for error in (-3.0, 1.0)])
        assert summary["absolute_volume_error_percent"]["mean"] == 2.0

    @pytest.mark.parametrize("dices", [[], [math.nan], [0.9]])
    def test_what_too_few_values_cannot_tell_is_none(self, dices):
        found = summarise([scores_of(dice=dice) for dice in dices])["dice"]
        mean = 0.9 if 0.9 in dices else None
        unknown = dict.fromkeys(FIGURES) | {"mean": mean, "median": mean}
        patients = len(dices) - dices.count(math.nan)
        missing = f"{patients} {TOO_FEW}".replace("1 patients", "1 patient")
        assert found == unknown | {"ci95_missing": missing, "undefined": dices.count(math.nan)}


class TestInterval:
    def test_the_interval_of_two_patients_is_all_between_them(self):
        # a quarter of the resamples has the one patient twice, a quarter the other
        assert mean_interval([0.2, 0.6], ["a", "b"]) == (0.2, 0.6)

    def test_the_interval_of_equal_values_has_no_width(self):
        assert mean_interval([0.5] * 7, list("abcdefg")) == (0.5, 0.5)

    def test_the_interval_of_many_patients_is_that_of_the_normal_distribution(self):
        values = np.random.default_rng(1).normal(10.0, 2.0, 400)
        low, high = mean_interval(values.tolist(), [f"p{i}" for i in range(400)])
        half = 1.96 * values.std(ddof=1) / 20
        assert low == pytest.approx(values.mean() - half, abs=0.02)
        assert high == pytest.approx(values.mean() + half, abs=0.02)

    def test_one_patient_has_no_interval(self):
        assert mean_interval([0.1, 0.2, 0.3], ["a", "a", "a"]) == (None, None)

    @given(values)
    def test_more_scans_of_the_same_patients_do_not_make_the_interval_narrower(self, values):
        patients = [f"p{index}" for index in range(len(values))]
        once = mean_interval(values, patients)
        assert mean_interval(values * 3, patients * 3) == pytest.approx(once)

    def test_a_patient_brings_all_its_cases(self):
        # of 8 draws of 8 patients, a is among them 3 times or more in 6.7 %, 4 times or more in
        # 1.1 %; so the 2.5th percentile has it 3 times, nine cases of 0 beside five of 1
        low, high = mean_interval([0.0] * 3 + [1.0] * 7, list("aaabcdefgh"))
        assert (low, high) == pytest.approx((5 / 14, 1.0))

    @given(st.permutations(range(6)))
    def test_the_order_of_the_cases_does_not_matter(self, order):
        # in this order, 0.1 + 0.2 + 0.3 is another binary fraction than in the opposite one
        values, patients = [0.1, 0.2, 0.3, 0.94, 0.5, 0.97], ["a", "a", "a", "c", "d", "c"]
        shuffled = [values[i] for i in order], [patients[i] for i in order]
        assert mean_interval(*shuffled) == mean_interval(values, patients)

    def test_an_interval_is_the_same_however_many_patients_are_drawn_at_once(self, monkeypatch):
        values, patients = [0.91, 0.73, 0.88, 0.94], ["a", "b", "c", "d"]
        at_once = mean_interval(values, patients)
        monkeypatch.setattr("stages.evaluate.summary.DRAWN_AT_ONCE", 1000)
        assert mean_interval(values, patients) == at_once

    def test_cases_without_a_value_are_not_drawn(self):
        cases = [scores_of(f"p{index}", dice=index / 20) for index in range(12)]
        dice = summarise([*cases, scores_of("none", dice=math.nan)])["dice"]
        low, high = mean_interval([case.dice for case in cases], [case.case_id for case in cases])
        assert (dice["ci95_low"], dice["ci95_high"]) == (round(low, 4), round(high, 4))
        assert dice["ci95_missing"] is None

    @pytest.mark.parametrize("patients", [1, 3, 9])
    def test_an_interval_of_fewer_than_ten_patients_is_not_given(self, patients):
        cases = [scores_of(f"p{i % patients}", dice=i / 40) for i in range(30)]
        dice = summarise(cases)["dice"]
        assert (dice["ci95_low"], dice["ci95_high"]) == (None, None)
        assert dice["ci95_missing"].startswith(f"{patients} patient")

    def test_nine_finite_values_of_ten_patients_give_no_interval_of_that_score(self):
        cases = [scores_of(f"p{i}", hd95_mm=math.inf if i == 4 else 3.0 + i) for i in range(10)]
        summary = summarise(cases)
        assert summary["hd95_mm"]["ci95_missing"] == f"9 {TOO_FEW}"
        assert summary["dice"]["ci95_missing"] is None


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


class TestConsole:
    def test_the_worst_cases_are_shown_first_and_the_rest_counted(self):
        cases = [scores_of(f"c{index}", dice=index / 20) for index in range(14)]
        lines = case_lines(cases)
        assert [line.split()[0] for line in lines[1:3]] == ["c0", "c1"]
        assert lines[-1] == "… and 2 better ones"

    def test_roles_are_shown_where_they_are_known(self):
        assert "role" in case_lines([scores_of(role="train")])[0]
        assert "role" not in case_lines([scores_of(role="")])[0]

    def test_the_mean_is_told_with_its_interval(self):
        line = mean_line(summarise([scores_of(f"p{index}", dice=0.5) for index in range(10)]))
        assert line == "mean Dice 0.5000 (95 % interval 0.5000 to 0.5000), median 0.5000, 10 cases"

    def test_the_mean_of_few_patients_is_printed_with_the_reason_for_no_interval(self):
        line = mean_line(summarise([scores_of("a", dice=0.2), scores_of("b", dice=0.6)]))
        why = f"no 95 % interval: 2 {TOO_FEW}"
        assert line == f"mean Dice 0.4000 ({why}), median 0.4000, 2 cases"

    def test_cases_without_a_dice_are_told(self):
        cases = [scores_of("a", dice=0.5), scores_of("b", dice=math.nan)]
        assert mean_line(summarise(cases)).endswith("2 cases, 1 of them without liver")
        assert mean_line(summarise(cases[1:])).startswith("no Dice is defined")
