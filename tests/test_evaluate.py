"""``pipeline.evaluate`` and its stage: masks, scores and the report of a store of balls."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everyone uses
import torch
from click.testing import CliRunner

from cache.errors import StoreError
from cache.grid import Box, Grid
from cache.manifest import read_manifest, write_manifest
from cache.reader import CaseStore
from pipeline.evaluate import main
from stages.evaluate.background import Background
from stages.evaluate.one import Model
from stages.evaluate.params import EvaluateParams
from stages.evaluate.run import run
from stages.train.checkpoints.checkpoint import Checkpoint, cpu_state, save_checkpoint
from stages.train.unet import UNet3d
from tiny import PREPROCESS, SHAPE_ZYX, TRAIN, spec_of, write_balls, write_params

ROLES = {"case-0": "test", "case-1": "train", "case-2": "test", "case-3": "validation"}
HISTORY = [{"epoch": 1.0, "train/loss": 1.0}, {"epoch": 2.0, "validation/dice": 0.5}]


def bright_is_liver(hu):
    """A network that needs no weights: logits in favour of liver above 50 HU."""
    return torch.cat([50 - hu, hu - 50], dim=1)


def nothing_is_liver(hu):
    return torch.cat([torch.ones_like(hu), -torch.ones_like(hu)], dim=1)


def model(network=bright_is_liver, *, roles=ROLES, window_zyx=(16, 16, 16)):
    background = Background([("Network", "thresholds")], [], b"curves", None, [])
    return Model(network, window_zyx, (-160.0, 240.0), roles, background)


def evaluated(store, out, of=None, *, cases="test", scope="volume"):
    """Evaluate a store with a model; gives the scores by case id."""
    params = EvaluateParams(cases=cases, scope=scope, overlap=0.5, tolerance_mm=2)
    scores = run(store, out, params, model=of or model(), device=torch.device("cpu"))
    return {score.case_id: score for score in scores}


@pytest.fixture(scope="module")
def balls(tmp_path_factory):
    """A store of four balls, which evaluation only reads."""
    return write_balls(tmp_path_factory.mktemp("balls") / "cases", count=4)


@pytest.fixture
def evaluate(balls, tmp_path):
    """Evaluate the balls with a model, into ``reports``; gives the scores by case id."""
    return lambda of=None, **how: evaluated(balls, tmp_path / "reports", of, **how)


@pytest.fixture(scope="module")
def of_test(balls, tmp_path_factory):
    """What a perfect network scores on the test cases, and the folder of its reports."""
    out = tmp_path_factory.mktemp("test") / "reports"
    return evaluated(balls, out), out


@pytest.fixture(scope="module")
def of_all(balls, tmp_path_factory):
    """What it scores on all cases, and the folder of its reports."""
    out = tmp_path_factory.mktemp("all") / "reports"
    return evaluated(balls, out, cases="all"), out


def test_a_perfect_network_scores_one(of_test):
    scores, _ = of_test
    assert [score.dice for score in scores.values()] == [1.0, 1.0]
    assert [score.hd95_mm for score in scores.values()] == [0.0, 0.0]


def test_a_network_that_finds_nothing_scores_zero_and_no_distance(evaluate, tmp_path):
    scores = evaluate(model(nothing_is_liver))
    assert {score.dice for score in scores.values()} == {0.0}
    metrics = json.loads((tmp_path / "reports/metrics.json").read_text(encoding="utf-8"))
    assert metrics["hd95_mm"]["mean"] is None
    assert metrics["hd95_mm"]["undefined"] == 2


def test_test_cases_alone_are_scored(of_test):
    scores, _ = of_test
    assert set(scores) == {"case-0", "case-2"}


def test_all_cases_are_scored_on_demand_and_keep_their_roles(of_all):
    scores, _ = of_all
    assert {case_id: score.role for case_id, score in scores.items()} == ROLES


def test_the_summary_counts_test_cases_alone_even_when_all_are_scored(of_all):
    _, reports = of_all
    metrics = json.loads((reports / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["cases"] == 2
    with (reports / "cases.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 4


def test_a_case_the_training_never_knew_counts_as_a_test_case(evaluate):
    scores = evaluate(model(roles={"case-1": "train", "case-2": "train", "case-3": "train"}))
    assert {case_id: score.role for case_id, score in scores.items()} == {"case-0": "test"}


def test_a_split_without_test_cases_is_refused_and_names_the_fix(evaluate, tmp_path):
    seen = dict.fromkeys(ROLES, "train")
    with pytest.raises(StoreError, match="no test case") as caught:
        evaluate(model(roles=seen))
    assert "evaluate.cases: all" in caught.value.fix
    assert not (tmp_path / "reports").exists()


def test_without_test_cases_all_can_still_be_scored(tmp_path):
    one = write_balls(tmp_path / "cases", count=1)
    seen = model(roles=dict.fromkeys(ROLES, "train"))
    evaluated(one, tmp_path / "reports", seen, cases="all")
    page = (tmp_path / "reports/report.html").read_text(encoding="utf-8")
    assert "there is no test case" in page


def test_masks_are_written_in_the_source_geometry(of_test, balls):
    _, reports = of_test
    image = sitk.ReadImage(str(reports / "predictions/case-0.nii.gz"))
    info = CaseStore(balls).info("case-0")
    assert image.GetSize() == info.source_grid.shape_zyx[::-1]
    assert image.GetSpacing() == info.source_grid.spacing_zyx_mm[::-1]
    truth = CaseStore(balls).source_mask("case-0")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), truth)


@pytest.mark.parametrize(("evaluation", "pictures"), [("of_test", 2), ("of_all", 4)])
def test_every_scored_case_is_in_the_report_with_a_picture(request, evaluation, pictures):
    _, reports = request.getfixturevalue(evaluation)
    page = (reports / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == 2 + pictures  # distributions, curves, and each case


@pytest.fixture
def half_boxed_store(tmp_path, prepared_case):
    """One case whose liver fills the source, of which the box is the upper half."""

    def write(write_store):
        shape = (10, 20, 18)
        case = prepared_case(
            "case-0",
            shape_zyx=(5, 20, 18),
            source_grid=Grid(shape, (2.5, 0.8, 0.7)),
            box=Box((5, 0, 0), shape),
        )
        case.volume[...], case.mask[...] = 100, 1
        whole = np.ones(shape, np.uint8)
        return write_store(
            [type(case)(case.info, case.volume, case.mask, whole, case.foreground_zyx)]
        )

    return write


@pytest.mark.parametrize(("scope", "dice"), [("volume", 2 / 3), ("box", 1.0)])
def test_outside_the_box_counts_as_missed_unless_the_scope_is_the_box(
    half_boxed_store, write_store, tmp_path, scope, dice
):
    cases = half_boxed_store(write_store)
    params = EvaluateParams(cases="test", scope=scope, overlap=0, tolerance_mm=2)
    whole_volume = model(window_zyx=None)
    device = torch.device("cpu")
    [score] = run(cases, tmp_path / "reports", params, model=whole_volume, device=device)
    assert score.dice == pytest.approx(dice)


@pytest.fixture(scope="module")
def untouched(balls, tmp_path_factory):
    """What ``trained`` copies for each test."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(balls, folder / "cases")
    checkpoint = Checkpoint(
        run_key="k",
        epoch=2,
        best_dice=0.5,
        history=HISTORY,
        seed=1,
        split={"train": ["case-1", "case-3"], "validation": ["case-0"], "test": ["case-2"]},
        spec=spec_of(),
        train=TRAIN,
        preprocess=PREPROCESS,
        data_digest="d" * 64,
        model=cpu_state(UNet3d(1, 2, 8)),
        optimizer={},
    )
    for name in ("best.pt", "last.pt"):
        save_checkpoint(folder / "models" / name, checkpoint)
    write_params(folder / "params.yaml")
    return folder


@pytest.fixture
def trained(untouched, tmp_path):
    """A store of four balls, a model of it that was never trained, and a parameter file."""
    return shutil.copytree(untouched, tmp_path / "trained")


def evaluation_of(folder):
    """The command's arguments, of which all is in one folder."""
    places = {"cases": "cases", "models": "models", "out": "reports", "params": "params.yaml"}
    flags = [word for flag, place in places.items() for word in (f"--{flag}", str(folder / place))]
    return [*flags, "--device", "cpu"]


def evaluate_command(run_command, folder):
    return run_command(main, *evaluation_of(folder))


@pytest.fixture(scope="module")
def commanded(untouched, tmp_path_factory):
    """A folder evaluated by the command after another run began there, and how it ended."""
    folder = shutil.copytree(untouched, tmp_path_factory.mktemp("commanded") / "trained")
    roles = {"train": ["case-2"], "validation": ["case-0"], "test": ["case-1", "case-3"]}
    (folder / "models" / "split.json").write_text(json.dumps(roles), encoding="utf-8")
    return folder, CliRunner().invoke(main, evaluation_of(folder), catch_exceptions=False)


def test_the_command_prints_a_table_and_where_the_report_is(commanded):
    folder, ended = commanded
    assert ended.exit_code == 0
    assert "case-2" in ended.output
    assert str(folder / "reports" / "report.html") in ended.output


def test_roles_come_from_the_model_not_from_a_split_of_a_run_begun_since(commanded):
    _, ended = commanded
    assert ended.exit_code == 0
    assert "case-2" in ended.output
    assert "case-1" not in ended.output


def test_masks_of_cases_no_longer_scored_are_removed(evaluate, of_all, tmp_path):
    shutil.copytree(of_all[1], tmp_path / "reports")
    evaluate(cases="test")
    left = {path.name for path in (tmp_path / "reports/predictions").iterdir()}
    assert left == {"case-0.nii.gz", "case-2.nii.gz"}


def test_masks_of_no_case_of_the_store_are_named_and_left(evaluate, of_test, tmp_path, caplog):
    shutil.copytree(of_test[1], tmp_path / "reports")
    masks = tmp_path / "reports" / "predictions"
    for number in range(7):
        shutil.copy(masks / "case-0.nii.gz", masks / f"gone-{number}.nii.gz")
    evaluate()
    (line,) = [one for one in caplog.messages if "no case of the store" in one]
    assert "gone-0.nii.gz, gone-1.nii.gz" in line
    assert "gone-4.nii.gz, … and 2 more" in line
    assert "case-0" not in line
    assert len(list(masks.iterdir())) == 9


def test_a_report_that_cannot_be_written_ends_with_2_and_its_name(trained, run_command):
    (trained / "reports" / "report.html").mkdir(parents=True)  # nothing can be written over it
    ended = evaluate_command(run_command, trained)
    assert ended.exit_code == 2
    assert "report.html" in ended.output
    assert "fix:" in ended.output


def test_a_missing_model_ends_with_2_and_names_the_command_that_makes_one(trained, run_command):
    (trained / "models" / "best.pt").unlink()
    ended = evaluate_command(run_command, trained)
    assert ended.exit_code == 2
    assert "pipeline.train" in ended.output


def test_a_store_prepared_otherwise_than_the_models_is_refused(trained, run_command):
    manifest = read_manifest(trained / "cases")
    other = {**manifest.params, "margin_mm": 7.0}
    write_manifest(trained / "cases", replace(manifest, params=other))
    ended = evaluate_command(run_command, trained)
    assert ended.exit_code == 2
    assert "other parameters" in ended.output
    assert not (trained / "reports").exists()


def test_a_damaged_case_ends_with_2_and_its_name(trained, run_command):
    for chunk in (trained / "cases" / "case-2.zarr" / "image").rglob("0"):
        if chunk.is_file():
            data = bytearray(chunk.read_bytes())
            data[len(data) // 3] ^= 1
            chunk.write_bytes(bytes(data))
    ended = evaluate_command(run_command, trained)
    assert ended.exit_code == 2
    assert "case-2" in ended.output


def test_shape_of_balls_is_larger_than_the_window():
    """The tests above slide the window, since no axis of the balls fits into it."""
    assert min(SHAPE_ZYX) > 16
