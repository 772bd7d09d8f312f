"""How every command ends, and ``python -m pipeline <command>``."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from cache.errors import SourceError
from pipeline.__main__ import main
from pipeline.command import command
from stages.predict.journal import NAME
from stages.train.checkpoints.differing import LONGEST, differing
from tiny import brightness_network, python

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
PATIENCE_S = 120.0


def raising(error):
    """A command that raises."""

    def run():
        raise error

    return command(run)


def test_ctrl_c_ends_a_command_with_130_and_says_how_to_go_on(run_command):
    ended = run_command(raising(KeyboardInterrupt()))
    assert (ended.exit_code, ended.output) == (130, "stopped; run it again to go on\n")


def test_a_fault_of_the_data_ends_a_command_with_2_and_one_message(run_command):
    ended = run_command(raising(SourceError("ct.nii", "is empty", "copy it again")))
    assert (ended.exit_code, ended.output) == (2, "error: ct.nii: is empty\n  fix: copy it again\n")


@posix
@pytest.mark.slow
def test_a_prediction_stopped_by_ctrl_c_goes_on_where_it_was(
    write_volume, write_model, tmp_path, repo
):
    for number in range(12):
        write_volume(f"cts/{number:02}.nii.gz", size_xyz=(40, 42, 44), hu=40)
    model = write_model(brightness_network())
    words = ["--model", model, "--ct", "cts", "--out", "masks", "--device", "cpu", "--any-values"]
    stopped = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "predict", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    journal, end = tmp_path / "masks" / NAME, time.monotonic() + PATIENCE_S
    while not journal.exists():
        assert time.monotonic() < end
        time.sleep(0.005)
    stopped.send_signal(signal.SIGINT)
    _, told = stopped.communicate(timeout=PATIENCE_S)
    assert stopped.returncode == 130
    assert told.endswith("stopped; run it again to go on\n")
    assert "Traceback" not in told
    finished = len(json.loads(journal.read_text(encoding="utf-8"))["predictions"])
    assert 1 <= finished < 12
    ended = python("-m", "pipeline.predict", *words, cwd=tmp_path)
    assert f"{12 - finished} predicted, {finished} left from an earlier run" in ended.stdout


class TestTheListOfCommands:
    def test_without_a_command_all_are_listed(self, capsys):
        main([])
        assert "predict    segment the liver" in capsys.readouterr().out

    def test_a_command_that_is_named_is_run_with_its_options(self, capsys, tmp_path):
        words = ["--predictions", str(tmp_path), "--labels", str(tmp_path), "--out", "scores"]
        with pytest.raises(SystemExit) as ended:
            main(["score", *words])
        assert ended.value.code == 2
        assert "is named for the predictions and for the labels" in capsys.readouterr().err

    def test_the_help_of_a_command_that_is_named_is_its_own(self, capsys):
        with pytest.raises(SystemExit) as ended:
            main(["score", "--help"])
        assert ended.value.code == 0
        assert "Usage: python -m pipeline.score [OPTIONS]" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("word", "fix"),
        [("predcit", "python -m pipeline.predict\n"), ("segment-all", "one of phantom, ")],
    )
    def test_an_unknown_command_ends_with_2_and_names_what_there_is(self, capsys, word, fix):
        with pytest.raises(SystemExit) as ended:
            main([word])
        assert ended.value.code == 2
        assert f"error: {word}: there is no such command\n  fix: {fix}" in capsys.readouterr().err


class TestChangedParameters:
    def test_of_parameters_within_a_parameter_those_that_changed_are_named(self):
        before = {"lr": 0.1, "augmentation": {"flip": {"p": 0.5}, "noise": None}}
        now = {"lr": 0.1, "augmentation": {"flip": {"p": 0.25}, "noise": None}}
        assert differing(before, now, "train") == ["train.augmentation.flip.p was 0.5, is 0.25"]

    def test_a_parameter_that_was_not_there_is_absent(self):
        assert differing({}, {"ema": None}, "train") == ["train.ema was absent, is None"]

    def test_a_long_value_is_cut(self):
        [line] = differing({"a": "x" * 500}, {"a": 1}, "train")
        assert line == f"train.a was {'x' * (LONGEST - 1)}…, is 1"

    def test_of_many_the_first_ones_are_named_and_the_others_counted(self):
        found = differing({f"p{i}": 0 for i in range(9)}, {f"p{i}": 1 for i in range(9)}, "train")
        assert found[3:] == ["train.p3 was 0, is 1", "5 more parameters differ"]
