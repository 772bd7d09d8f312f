"""Scans that show no liver, kept on purpose: prepared, shown, trained on, scored."""

import csv
import json

import numpy as np
import pytest

from cache.reader import CaseStore
from conftest import CASE_SHAPE_ZYX, body_hu, liver_label
from pipeline.evaluate import main as evaluate
from pipeline.preprocess import main as preprocess
from pipeline.train import main as train
from stages.preprocess.inspect import inspect_case
from stages.preprocess.ledger import Ledger
from tiny import TRAIN, one_thread

KEEP = {"rules.liver_empty": "keep"}
EMPTY = ("2", "4", "6")


@pytest.fixture
def prepare(write_case, run_command, params_file, tmp_path):
    """Prepare six cases, three of them without a liver; gives how it ended and the store."""

    def run(changes):
        for case_id in "123456":
            label = np.zeros(CASE_SHAPE_ZYX, np.uint8) if case_id in EMPTY else liver_label()
            write_case(case_id, ct=body_hu(int(case_id)), label=label)
        places = ("--src", tmp_path / "src", "--out", tmp_path / "cases", "--workers", 1)
        ended = run_command(preprocess, *places, "--params", params_file(changes))
        return ended, CaseStore(tmp_path / "cases")

    return run


def test_cases_without_a_liver_are_left_out_unless_they_are_meant(prepare):
    ended, store = prepare({})
    assert ended.exit_code == 0
    assert store.case_ids == ["1", "3", "5"]


@pytest.mark.parametrize("crop", ["none", "body", "label"])
def test_a_case_without_a_liver_is_kept_with_an_empty_mask_and_told(prepare, tmp_path, crop):
    ended, store = prepare({**KEEP, "preprocess.crop": crop})
    assert ended.exit_code == 0, ended.output
    assert store.case_ids == list("123456")
    assert store.info("2").liver_ml == 0
    assert not store.mask("2").any()
    assert store.foreground_zyx("2").shape == (0, 3)
    problems = json.loads((tmp_path / "problems.json").read_text())["problems"]
    found = {(p["case_id"], p["severity"], p["rule"]) for p in problems}
    assert found == {(case_id, "warning", "liver_empty") for case_id in EMPTY}
    assert "liver 0.0 ml" in (tmp_path / "qc.html").read_text(encoding="utf-8")


def test_a_kept_case_is_left_out_again_when_it_is_no_longer_meant(prepare):
    prepare(KEEP)
    ended, store = prepare({})
    assert "0 prepared now, 3 kept" in ended.output
    assert store.case_ids == ["1", "3", "5"]


@pytest.mark.parametrize("moved", [{"spacing_xyz_mm": (1.0, 1.0, 1.0)}, {"shape": 12}])
def test_an_empty_label_on_another_grid_is_kept_too(write_case, write_volume, rules, moved):
    files = write_case(label=np.zeros(CASE_SHAPE_ZYX, np.uint8))
    shape = (moved.get("shape", 14), *CASE_SHAPE_ZYX[1:])
    spacing = moved.get("spacing_xyz_mm", (9.0, 10.0, 11.0))
    write_volume(files.label, np.zeros(shape, np.uint8), spacing_xyz_mm=spacing)
    ledger = Ledger("1", rules(liver_empty="keep"))
    inspected = inspect_case(files, "any", ledger)
    assert inspected is not None
    assert inspected.mask.shape == CASE_SHAPE_ZYX
    assert not inspected.mask.any()


@pytest.mark.slow
def test_training_and_scoring_go_through_with_cases_that_have_no_liver(
    prepare, run_command, params_file, tmp_path
):
    prepare({**KEEP, "preprocess.grid": "keep"})
    split = {"train": ["1", "2"], "validation": ["3", "4"], "test": ["5", "6"]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    changes = {f"train.{name}": value for name, value in TRAIN.items()}
    changes |= {"train.foreground_share": 1.0, "train.epochs": 1, "train.validate_every": 1}
    changes |= {"data.split_file": str(tmp_path / "split.json"), "evaluate.cases": "all"}
    params = params_file({**changes, **KEEP, "preprocess.grid": "keep"}, name="train.yaml")
    places = ("--cases", tmp_path / "cases", "--params", params, "--device", "cpu")
    with one_thread():
        models = tmp_path / "models"
        ended = run_command(train, *places, "--out", models, "--curves", tmp_path / "training")
        assert ended.exit_code == 0, ended.output
        ended = run_command(evaluate, *places, "--models", models, "--out", tmp_path / "reports")
        assert ended.exit_code == 0, ended.output
    with (tmp_path / "reports" / "cases.csv").open(encoding="utf-8") as file:
        rows = {row["case_id"]: row for row in csv.DictReader(file)}
    assert set(rows) == set("123456")
    for case_id in EMPTY:
        row = rows[case_id]
        assert float(row["reference_volume_ml"]) == 0
        # nothing predicted has no Dice, and anything predicted has a Dice of 0
        assert row["dice"] == ("" if float(row["volume_ml"]) == 0 else "0.0000")
