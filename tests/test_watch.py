"""What one sees of a run: its curves as files and as a picture, and the trackers."""

import csv
import io
import json
import logging
import math

import numpy as np
import pytest
import torch
from PIL import Image

from cache.errors import ParamsError
from project import all_files
from stages.train.watch.bar import Bar
from stages.train.watch.curves import write_curves
from stages.train.watch.picture import COLOURS, curves_picture
from stages.train.watch.trackers import Trackers, open_trackers
from tiny import names

ROWS = [
    {"epoch": 1.0, "time/minutes": 1.0, "train/loss": 0.9, "train/lr": 3e-3},
    {"epoch": 2.0, "time/minutes": 2.0, "train/loss": 0.5, "train/lr": 2e-3},
    {"epoch": 3.0, "time/minutes": 3.0, "train/loss": 0.4, "train/lr": 1e-3},
]
CASES = [
    {"epoch": 2, "case": "liver, left", "dice": 0.5, "iou": 1 / 3},
    {"epoch": 2, "case": "no-liver", "dice": math.nan, "iou": math.nan},
]
RUN_KEY = "0123456789abcdef" * 4


def pixels(history):
    """The picture of the curves as (height, width, 3) integers."""
    return np.asarray(Image.open(io.BytesIO(curves_picture(history))).convert("RGB")).astype(int)


def panels_with(picture, colour):
    """In which of the four panels a colour can be seen, counted as one reads."""
    rgb = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    drawn = np.abs(picture - rgb).max(axis=2) < 12
    y, x = picture.shape[0] // 2, picture.shape[1] // 2
    quarters = [drawn[:y, :x], drawn[:y, x:], drawn[y:, :x], drawn[y:, x:]]
    return [at for at, quarter in enumerate(quarters) if quarter.any()]


class Terminal(io.StringIO):
    """What a bar is drawn on."""

    def isatty(self):
        return True


class TestBar:
    @pytest.fixture
    def terminal(self, monkeypatch):
        """Make a terminal, on which the log is printed too; within a test, which is captured."""

        def make():
            terminal, root = Terminal(), logging.getLogger()
            monkeypatch.setattr("sys.stderr", terminal)
            monkeypatch.setattr(root, "handlers", [logging.StreamHandler(terminal)])
            monkeypatch.setattr(root, "level", logging.INFO)
            return terminal

        return make

    def test_a_line_of_the_log_stands_above_the_bar_and_not_in_it(self, terminal):
        shown = terminal()
        with Bar(steps=10, done=3, device=torch.device("cpu"), is_shown=True):
            logging.getLogger("stages.train").info("epoch 1, train/loss 0.5")
        lines = [line.rpartition("\r")[2] for line in shown.getvalue().split("\n")]
        assert lines[0] == "epoch 1, train/loss 0.5"
        assert lines[1].startswith("train:  30%")

    @pytest.mark.parametrize("is_shown", [True, False])
    def test_the_log_goes_where_it_went_once_the_bar_is_gone(self, terminal, is_shown):
        terminal()
        before = logging.getLogger().handlers
        with Bar(steps=10, done=3, device=torch.device("cpu"), is_shown=is_shown):
            assert (logging.getLogger().handlers is before) is not is_shown
        assert logging.getLogger().handlers is before


class TestPicture:
    def test_every_curve_is_drawn_in_its_panel(self):
        first = {name: 0.1 * (at + 1) for at, name in enumerate(COLOURS)}
        second = {name: value + 0.2 for name, value in first.items()}
        picture = pixels([{"epoch": 1.0, **first}, {"epoch": 2.0, **second}])
        assert {name: panels_with(picture, colour) for name, colour in COLOURS.items()} == {
            "train/loss": [0],
            "train/iou": [1],
            "validation/dice": [1],
            "validation/iou": [1],
            "train/lr": [2],
            "loader/waiting": [3],
        }

    @pytest.mark.parametrize("gap", [{}, {"train/loss": math.nan}, {"train/loss": math.inf}])
    def test_a_line_leads_over_a_gap(self, gap):
        gappy = [ROWS[0], {"epoch": 2.0, **gap}, ROWS[2]]
        assert curves_picture(gappy) == curves_picture([ROWS[0], ROWS[2]])

    def test_no_epoch_still_makes_a_picture(self):
        assert pixels([]).shape == (960, 1600, 3)


def case_rows(folder):
    with (folder / "plots" / "validation_cases.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class TestCurves:
    def test_a_value_that_is_no_number_is_left_out(self, tmp_path):
        history = [{"epoch": 1.0, "a/b": 0.5}, {"epoch": 2.0, "a/b": math.nan}]
        write_curves(tmp_path, history, picture=False)
        assert (tmp_path / "plots" / "metrics" / "a" / "b.tsv").read_text() == "step\tb\n1\t0.5\n"
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        assert metrics == {"step": 2, "a": {"b": 0.5}}

    def test_the_picture_lies_where_dvclive_has_its_images(self, tmp_path):
        write_curves(tmp_path, ROWS)
        image = (tmp_path / "plots" / "images" / "curves.png").read_bytes()
        assert image == curves_picture(ROWS)

    def test_the_picture_that_is_there_stays_until_it_is_asked_for(self, tmp_path):
        image = tmp_path / "plots" / "images" / "curves.png"
        image.parent.mkdir(parents=True)
        image.write_bytes(b"drawn before")
        write_curves(tmp_path, ROWS, picture=False)
        assert image.read_bytes() == b"drawn before"

    def test_every_validated_case_is_a_row_and_nan_an_empty_field(self, tmp_path):
        write_curves(tmp_path, ROWS, CASES, picture=False)
        assert case_rows(tmp_path) == [
            {"epoch": "2", "case": "liver, left", "dice": "0.5", "iou": "0.333333"},
            {"epoch": "2", "case": "no-liver", "dice": "", "iou": ""},
        ]

    @pytest.mark.parametrize("picture", [True, False])
    def test_a_run_without_an_epoch_leaves_no_file_of_an_earlier_one(self, tmp_path, picture):
        write_curves(tmp_path, ROWS, CASES)
        write_curves(tmp_path, [], picture=picture)
        assert all_files(tmp_path) == {}

    def test_nothing_of_an_earlier_run_with_other_curves_stays(self, tmp_path):
        write_curves(tmp_path / "used", [{"epoch": 9.0, "old/curve": 1.0}], CASES, picture=False)
        for folder in ("used", "fresh"):
            write_curves(tmp_path / folder, ROWS, picture=False)
        assert all_files(tmp_path / "used") == all_files(tmp_path / "fresh")


class Faulty:
    """A tracker that fails from some moment on, and counts what it is told."""

    def __init__(self, *, fails_in):
        self.fails_in = fails_in
        self.heard = []

    def _hear(self, what):
        self.heard.append(what)
        if what == self.fails_in:
            raise ConnectionError("no route")

    def begin(self, history):
        self._hear("begin")

    def tell(self, row):
        self._hear("tell")

    def close(self, *, is_finished):
        self._hear("finished" if is_finished else "stopped")


class TestTrackers:
    def test_nothing_is_imported_for_a_run_without_trackers(self, tmp_path):
        with open_trackers([], tmp_path, run_key=RUN_KEY, params={}) as trackers:
            trackers.begin(ROWS)
        assert names(tmp_path) == []

    def test_a_tracker_that_is_not_installed_is_refused_with_the_command_that_installs_it(
        self, tmp_path
    ):
        with pytest.raises(ParamsError, match="which is not installed") as caught:
            open_trackers(["nobody_has_this"], tmp_path, run_key=RUN_KEY, params={})
        assert caught.value.where == "train.trackers"
        assert "pip install nobody_has_this" in caught.value.fix

    def test_a_tracker_that_cannot_begin_is_refused_and_not_used_again(self):
        tracker = Faulty(fails_in="begin")
        with (
            pytest.raises(ParamsError, match=r"names it, which refuses .*no route"),
            Trackers({"it": tracker}) as trackers,
        ):
            trackers.begin([])
        assert tracker.heard == ["begin"]

    def test_a_tracker_that_fails_later_is_left_behind_with_a_warning(self, caplog):
        faulty, sound = Faulty(fails_in="tell"), Faulty(fails_in=None)
        with caplog.at_level(logging.WARNING), Trackers({"a": faulty, "b": sound}) as trackers:
            trackers.begin([])
            trackers.tell(ROWS[0])
            trackers.tell(ROWS[1])
        assert faulty.heard == ["begin", "tell"]
        assert sound.heard == ["begin", "tell", "tell", "finished"]
        assert [record.message for record in caplog.records] == [
            "a fails (ConnectionError: no route); it is told no more until the run resumes"
        ]

    def test_a_run_that_is_stopped_is_not_called_finished(self):
        tracker = Faulty(fails_in=None)
        trackers = Trackers({"it": tracker})
        trackers.begin([])
        with pytest.raises(KeyboardInterrupt), trackers:
            raise KeyboardInterrupt
        assert tracker.heard == ["begin", "stopped"]


def tell(name, folder, *, known, new, run_key=RUN_KEY, params=None):
    """A process that goes on after the known rows and tells the new ones."""
    with open_trackers([name], folder, run_key=run_key, params=params or {"lr": 0.1}) as trackers:
        trackers.begin(known)
        for row in new:
            trackers.tell(row)


class TestTensorBoard:
    @pytest.fixture
    def told(self, tmp_path):
        """What TensorBoard shows of a run: (epoch, value) pairs by curve."""
        pytest.importorskip("tensorboard")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        def read(run_key=RUN_KEY):
            events = EventAccumulator(str(tmp_path / "tensorboard" / run_key[:8])).Reload()
            return {
                name: [(event.step, pytest.approx(event.value)) for event in events.Scalars(name)]
                for name in events.Tags()["scalars"]
            }

        return read

    def test_every_row_is_a_point_of_every_curve(self, told, tmp_path):
        tell("tensorboard", tmp_path, known=[], new=ROWS)
        assert told()["train/loss"] == [(1, 0.9), (2, 0.5), (3, 0.4)]
        assert sorted(told()) == ["time/minutes", "train/loss", "train/lr"]

    def test_a_resumed_run_goes_on_in_the_same_curves_without_doubled_points(self, told, tmp_path):
        tell("tensorboard", tmp_path, known=[], new=ROWS[:2])
        tell("tensorboard", tmp_path, known=ROWS[:1], new=ROWS[1:])  # the second epoch was lost
        assert told()["train/loss"] == [(1, 0.9), (2, 0.5), (3, 0.4)]

    def test_what_was_done_before_it_was_asked_for_is_told_too(self, told, tmp_path):
        tell("tensorboard", tmp_path, known=ROWS[:2], new=ROWS[2:])
        assert told()["train/loss"] == [(1, 0.9), (2, 0.5), (3, 0.4)]

    def test_runs_of_other_parameters_are_shown_apart(self, told, tmp_path):
        tell("tensorboard", tmp_path, known=[], new=ROWS)
        tell("tensorboard", tmp_path, known=[], new=ROWS[:1], run_key="f" * 64)
        assert len(told()["train/loss"]) == 3
        assert len(told("f" * 64)["train/loss"]) == 1

    def test_nan_is_not_logged_to_tensorboard(self, told, tmp_path):
        tell("tensorboard", tmp_path, known=[], new=[{"epoch": 1.0, "a": 1.0, "b": math.nan}])
        assert sorted(told()) == ["a"]


@pytest.mark.slow
class TestMLflow:
    @pytest.fixture
    def runs(self, tmp_path, monkeypatch):
        """The runs of MLflow's experiment, in a database of the test's own."""
        mlflow = pytest.importorskip("mlflow.tracking")
        pytest.importorskip("sqlalchemy")
        address = f"sqlite:///{tmp_path / 'mlflow.db'}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.chdir(tmp_path)

        def read():
            client = mlflow.MlflowClient()
            experiment = client.get_experiment_by_name("liver3d")
            return client, client.search_runs([experiment.experiment_id])

        return read

    def losses(self, runs):
        client, found = runs()
        history = [client.get_metric_history(run.info.run_id, "train/loss") for run in found]
        return [[(metric.step, metric.value) for metric in metrics] for metrics in history]

    def test_every_row_is_a_point_of_every_metric(self, runs, tmp_path):
        tell("mlflow", tmp_path, known=[], new=ROWS)
        assert self.losses(runs) == [[(1, 0.9), (2, 0.5), (3, 0.4)]]

    def test_a_resumed_run_is_found_again_and_no_row_is_logged_twice(self, runs, tmp_path):
        tell("mlflow", tmp_path, known=[], new=ROWS[:1])
        tell("mlflow", tmp_path, known=ROWS[:2], new=ROWS[2:])
        assert self.losses(runs) == [[(1, 0.9), (2, 0.5), (3, 0.4)]]

    def test_a_run_that_is_done_anew_is_another_one(self, runs, tmp_path):
        tell("mlflow", tmp_path, known=[], new=ROWS)
        tell("mlflow", tmp_path, known=[], new=ROWS[:1])
        assert sorted(self.losses(runs)) == [[(1, 0.9)], [(1, 0.9), (2, 0.5), (3, 0.4)]]

    def test_parameters_are_logged_flat_and_nan_is_not_logged(self, runs, tmp_path):
        new = [{"epoch": 1.0, "a": math.nan}]
        tell("mlflow", tmp_path, known=[], new=new, params={"lr": 0.1, "augment": {"p": [1, 2]}})
        [run] = runs()[1]
        assert run.data.params == {"train.lr": "0.1", "train.augment.p": "[1, 2]"}
        assert run.data.metrics == {"epoch": 1.0}

    def test_the_status_in_mlflow_says_whether_the_run_is_finished(self, runs, tmp_path):
        tell("mlflow", tmp_path, known=[], new=ROWS)
        trackers = open_trackers(["mlflow"], tmp_path, run_key="f" * 64, params={})
        trackers.begin([])
        trackers.close(is_finished=False)
        assert sorted(run.info.status for run in runs()[1]) == ["FINISHED", "KILLED"]

    def test_an_address_that_leads_nowhere_is_refused(self, runs, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/mlflow.db")
        with pytest.raises(ParamsError, match="names mlflow, which refuses"):
            tell("mlflow", tmp_path, known=[], new=[])
