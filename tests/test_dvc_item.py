"""How a command learns which folder or fold DVC runs it for, without a shell in between."""

import click
import pytest

from cache.errors import ParamsError
from pipeline.dvc_item import item_of, number_of
from pipeline.params import read_params
from pipeline.phantom import main as phantom
from pipeline.train import main as train

SMALL = ("--count", 1, "--shape-zyx", 20, 24, 28)


@pytest.mark.parametrize("stage", ["phantom@b", "dvc.yaml:phantom@b", "../dvc.yaml:phantom@b"])
def test_the_item_of_a_stage_is_found_wherever_dvc_was_started(monkeypatch, stage):
    monkeypatch.setenv("DVC_STAGE", stage)
    assert item_of("phantom") == "b"


@pytest.mark.parametrize("stage", [None, "", "phantom", "phantom@", "fold@b", "x-phantom@b"])
def test_a_command_that_dvc_does_not_run_for_an_item_is_refused(monkeypatch, stage):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    if stage is not None:
        monkeypatch.setenv("DVC_STAGE", stage)
    with pytest.raises(click.UsageError, match="run by dvc repro"):
        item_of("phantom")


@pytest.mark.parametrize("item", ["-1", "1.0", "x", "٣", "01", "1;touch x", "9" * 5000])
def test_a_fold_that_is_not_a_whole_number_is_refused(monkeypatch, item):
    monkeypatch.setenv("DVC_STAGE", f"fold@{item}")
    with pytest.raises(ParamsError, match="is not a whole number"):
        number_of("fold")


def test_the_phantoms_of_a_stage_go_to_its_folder(monkeypatch, tmp_path, run_command, params_file):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "phantom@more")
    ended = run_command(phantom, "--of-stage", *SMALL, "--params", params_file())
    assert ended.exit_code == 0
    assert [path.name for path in tmp_path.glob("data/*")] == ["more"]


def test_phantoms_without_a_stage_go_to_the_default_folder(
    monkeypatch, tmp_path, run_command, params_file
):
    monkeypatch.chdir(tmp_path)
    run_command(phantom, *SMALL, "--params", params_file())
    assert [path.name for path in tmp_path.glob("data/*")] == ["phantoms"]


def test_the_fold_of_a_stage_is_the_one_that_is_trained(
    monkeypatch, tmp_path, run_command, params_file
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "fold@7")
    ended = run_command(train, "--of-stage", "--params", params_file({"train.folds": 3}))
    assert ended.exit_code == 2
    assert "fold is 7, but there are 3 folds" in ended.output


@pytest.mark.parametrize("name", ["../x", "a/b", "a b", "$(x)", "", "a;b", "a@b"])
def test_a_folder_of_phantoms_has_a_plain_name(params_file, name):
    with pytest.raises(ParamsError, match="not a plain name of a folder"):
        read_params(params_file({"data.phantoms": [name]}))
