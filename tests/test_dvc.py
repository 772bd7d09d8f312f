"""DVC as README.md promises it: repro, a repro with nothing to do, experiments, metrics, plots."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
TINY = {
    "phantom": {"count": 6, "shape_zyx": [24, 40, 40]},
    "preprocess": {"spacing_zyx_mm": [12.0, 10.0, 10.0]},
    "train": {"epochs": 2, "patch_zyx": [16, 16, 16], "validate_every": 1},
}
COPIED = ("pipeline", "stages", "cache", "dvc.yaml", "params.yaml", ".dvcignore", ".gitignore")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A clone of the project with tiny parameters, run once by ``dvc repro`` and committed."""
    folder = tmp_path_factory.mktemp("project")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    shutil.copy(ROOT / ".dvc" / ".gitignore", folder / ".dvc" / ".gitignore")
    set_params(folder, TINY)
    git(folder, "init", "--quiet")
    git(folder, "config", "user.name", "Test")
    git(folder, "config", "user.email", "test@example.org")
    commit(folder)
    dvc(folder, "repro")
    commit(folder)
    return folder


def set_params(folder, sections):
    yaml = YAML()
    params = yaml.load((folder / "params.yaml").read_text(encoding="utf-8"))
    for section, values in sections.items():
        params[section].update(values)
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(params, file)


def git(folder, *words):
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


def commit(folder):
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "state")


def dvc(folder, *words):
    """Run DVC as a user whose ``python`` is this one; its output, or a failure that shows it."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_repro_leaves_a_store_a_model_scores_and_a_report(project):
    for made in (
        "data/cases/manifest.json",
        "data/problems.json",
        "models/best.pt",
        "models/split.json",
        "training/plots/metrics/train/loss.tsv",
        "training/plots/metrics/train/lr.tsv",
        "training/plots/images/curves.png",
        "reports/metrics.json",
        "reports/cases.csv",
        "reports/report.html",
    ):
        assert (project / made).is_file(), made
    assert list((project / "reports/predictions").glob("*.nii.gz"))


def test_a_second_repro_does_nothing(project):
    told = dvc(project, "repro")
    assert told.count("didn't change, skipping") == 4
    assert "Running stage" not in told


def test_repro_leaves_nothing_for_git_but_the_lock_and_the_metrics(project):
    listed = subprocess.run(
        ["git", "ls-files"], cwd=project, capture_output=True, text=True, check=True
    ).stdout.split()
    made = [name for name in listed if name.split("/")[0] in ("data", "models", "reports")]
    assert made == ["reports/metrics.json"]
    assert "dvc.lock" in listed


def test_metrics_and_plots_are_shown(project):
    assert "dice.mean" in dvc(project, "metrics", "show")
    dvc(project, "plots", "show")
    page = (project / "dvc_plots" / "index.html").read_text(encoding="utf-8")
    assert "Validation Dice" in page
    assert "Learning rate" in page
    assert "training_plots_images_curves.png" in page
    assert "Dice of each case, source grid" in page
    assert "Volume of each case, ml" in page
    shutil.rmtree(project / "dvc_plots")


def test_the_report_has_the_means_that_dvc_shows(project):
    [told] = json.loads(dvc(project, "metrics", "show", "--json")).values()
    metrics = told["data"]["reports/metrics.json"]["data"]
    report = (project / "reports" / "report.html").read_text(encoding="utf-8")
    values = re.findall(r'<div class="value">([^< ]+)', report)
    assert values[:2] == [f"{metrics[name]['mean']:.3f}" for name in ("dice", "surface_dice")]


def test_the_report_knows_how_long_preparing_took_and_what_was_found(project):
    report = (project / "reports" / "report.html").read_text(encoding="utf-8")
    assert "6 cases prepared" in report
    assert "was not there" not in report


def test_an_experiment_trains_anew_but_prepares_nothing_anew(project):
    told = dvc(project, "exp", "run", "-S", "train.lr=1e-4", "--name", "slower")
    assert "Stage 'preprocess' didn't change, skipping" in told
    assert "train.lr was 0.003, is 0.0001" in told
    table = dvc(project, "exp", "show", "--no-pager", "--md")
    assert "slower" in table
    assert "dice.mean" in dvc(project, "metrics", "diff", "HEAD")
    git(project, "checkout", "--", ".")


def test_another_hu_window_prepares_nothing_anew(project):
    told = dvc(project, "exp", "run", "-S", "train.hu_window=[-100,200]", "--name", "window")
    assert "Stage 'preprocess' didn't change, skipping" in told
    assert "Running stage 'train'" in told
    git(project, "checkout", "--", ".")


def test_a_data_folder_is_never_run_by_a_shell(project, tmp_path):
    src = tmp_path / "a$(touch run-1) `touch run-2` $2020 ${data.layout};touch run-3 'b"
    own = shutil.copytree(project, tmp_path / "own")
    shutil.copytree(project / "data" / "phantoms", src)
    set_params(own, {"data": {"src": str(src), "phantoms": []}})
    told = dvc(own, "repro", "--single-item", "preprocess")
    assert "6 cases in data" in told
    assert list(tmp_path.rglob("run-*")) == []


def test_without_phantoms_the_phantom_stage_is_not_there(project):
    set_params(project, {"data": {"phantoms": []}})
    stages = dvc(project, "stage", "list", "--name-only").split()
    git(project, "checkout", "--", "params.yaml")
    assert stages == ["preprocess", "train", "evaluate"]


def test_without_folds_there_is_no_stage_of_one(project):
    assert "fold" not in dvc(project, "stage", "list", "--name-only")
    assert "fold" not in dvc(project, "dag")


def test_every_fold_of_the_list_is_a_stage_of_its_own(project):
    set_params(project, {"train": {"folds": 3, "cross_validate": [0, 1, 2]}})
    stages = dvc(project, "stage", "list", "--name-only").split()
    graph = dvc(project, "dag")  # refused where the outs of two stages overlap
    git(project, "checkout", "--", "params.yaml")
    folds = ["fold@0", "fold@1", "fold@2"]
    assert stages == ["phantom@phantoms", "preprocess", "train", *folds, "evaluate"]
    assert [fold for fold in folds if fold not in graph] == []


def test_folds_are_trained_into_folders_of_their_own_and_train_as_ever(project):
    set_params(project, {"train": {"folds": 2, "cross_validate": [1]}})
    told = dvc(project, "repro", "--dry", "train", "fold@1")
    git(project, "checkout", "--", "params.yaml")
    commands = [line for line in told.splitlines() if line.startswith("> ")]
    start = "> python -m pipeline.train"
    assert commands == [
        f"{start} --cases data/cases --out models --curves training",
        f"{start} --of-stage --cases data/cases",
    ]


def test_a_fold_depends_on_all_that_train_depends_on():
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert stages["fold"]["do"]["deps"] == stages["train"]["deps"]
    assert stages["fold"]["do"]["params"] == stages["train"]["params"]


def test_each_fold_validates_other_patients_and_leaves_nothing_for_git_but_the_lock(project):
    set_params(project, {"train": {"folds": 2, "cross_validate": [0, 1]}})
    dvc(project, "repro", "fold@0", "fold@1")
    changed = subprocess.run(
        ["git", "status", "--porcelain"], cwd=project, capture_output=True, text=True, check=True
    ).stdout.split()[1::2]
    git(project, "checkout", "--", ".")
    splits = [
        json.loads((project / f"folds/{fold}/models/split.json").read_text(encoding="utf-8"))
        for fold in (0, 1)
    ]
    assert changed == ["dvc.lock", "params.yaml"]
    assert splits[0]["validation"] != splits[1]["validation"]
    assert splits[0]["test"] == splits[1]["test"]


def test_one_more_fold_trains_no_other_fold_anew(project):
    set_params(project, {"train": {"folds": 2, "cross_validate": [0]}})
    dvc(project, "repro", "fold@0")
    set_params(project, {"train": {"cross_validate": [0, 1]}})
    told = dvc(project, "repro", "fold@0")
    git(project, "checkout", "--", ".")
    assert "Running stage 'fold@0'" in told
    assert "going on after epoch 2" in told
