"""A signal in the midst of training: all is saved, exit code 75, and it goes on from there."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from cache.reader import CaseStore
from pipeline.command import STOPPED
from project import Project, assert_same
from stages.train.checkpoints.checkpoint import load_checkpoint
from stages.train.params import TrainParams
from stages.train.ranks import Ranks
from stages.train.stop import Stop, listening
from stages.train.validate import Validation
from tiny import one_thread, python, write_balls

REPO = Path(__file__).parent.parent
PATIENCE_S = 60.0
NAMES = ["SIGTERM", "SIGUSR1", "SIGINT"]
EVERY_STEP = {"save_minutes": 1e-6}
ENDLESS = EVERY_STEP | {"epochs": 1000, "steps_per_epoch": 1000}
# one process, its torch imported once, that trains whenever it reads arguments
SCRIPT = """
import json, signal, sys
from click.testing import CliRunner
from pipeline.train import main
signal.signal(signal.SIGINT, signal.default_int_handler)
for line in sys.stdin:
    ended = CliRunner().invoke(main, json.loads(line))
    print(json.dumps([ended.exit_code, ended.output]), flush=True)
"""

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture
def handlers():
    """The usual handlers, whatever started the tests; they are put back in the end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Trainee:
    """A process that trains by the command, one project after the other."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-B", "-c", SCRIPT],
            cwd=REPO,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def train(self, project, **changes):
        self.process.stdin.write(json.dumps(project.arguments(**changes)) + "\n")
        self.process.stdin.flush()

    def interrupt(self, name):
        self.process.send_signal(getattr(signal, name))

    def ended(self):
        """The exit code, and all that was printed."""
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def trainee():
    trainee = Trainee()
    yield trainee
    trainee.process.kill()
    trainee.process.communicate()


def wait_for(is_there):
    deadline = time.monotonic() + PATIENCE_S
    while not is_there():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def assert_ends_as(stopped, never, **changes):
    """The command again, to the end, and a run that nobody stopped give the same."""
    for project in (stopped, never):
        assert project.train(**changes).exit_code == 0
    for name in ("last.pt", "best.pt"):
        assert_same(*(vars(load_checkpoint(one.models / name)) for one in (stopped, never)))


@pytest.fixture
def never(cases, tmp_path):
    """A project that nobody stops."""
    (tmp_path / "never").mkdir()
    return Project(tmp_path / "never", cases)


@pytest.mark.slow
@posix
class TestASignal:
    @pytest.mark.parametrize("name", NAMES)
    def test_a_signal_saves_in_the_middle_of_the_epoch_and_says_where(self, trainee, project, name):
        trainee.train(project, **ENDLESS)
        wait_for((project.models / "last.pt").is_file)
        trainee.interrupt(name)
        code, output = trainee.ended()
        last = project.last
        assert code == STOPPED
        assert last.epoch == 0
        assert 0 < last.batch < 1000
        assert (
            f"stopped by {name} after epoch 0 and {last.batch} of 1000 batches;"
            " the same command goes on from there"
        ) in output

    def test_going_on_after_it_equals_never_stopped(self, trainee, project, never):
        changes = EVERY_STEP | {"epochs": 2, "steps_per_epoch": 8}
        trainee.train(project, **changes)
        wait_for((project.models / "last.pt").is_file)
        trainee.interrupt("SIGTERM")
        code, _ = trainee.ended()
        assert code == STOPPED
        assert_ends_as(project, never, **changes)

    def test_a_signal_ends_validation_too_which_is_done_again(self, trainee, project, never):
        changes = EVERY_STEP | {"epochs": 2, "steps_per_epoch": 1, "validation_share": 0.6}
        trainee.train(project, **changes)
        wait_for((project.models / "last.pt").is_file)  # after the epoch's only step
        trainee.interrupt("SIGTERM")
        code, output = trainee.ended()
        assert code == STOPPED
        assert "after epoch 0 and 1 of 1 batches" in output
        assert project.last.validations == []
        assert_ends_as(project, never, **changes)

    def test_validation_does_not_begin_another_case_after_it(self, cases, trained):
        stop = Stop()
        stop.ask("SIGTERM")
        validation = Validation(
            CaseStore(cases),
            ["no case"],
            TrainParams(**trained.last.train),
            torch.device("cpu"),
            Ranks(),
            stop,
        )
        assert validation.scores(trained.last.network()) is None

    @pytest.mark.slow
    @pytest.mark.parametrize("name", NAMES)
    def test_a_signal_gives_the_exit_code_of_the_command(self, project, name):
        arguments = project.arguments(**ENDLESS)
        process = python("-m", "pipeline.train", *arguments, cwd=project.root, wait=False)
        try:
            wait_for((project.models / "last.pt").is_file)
            process.send_signal(getattr(signal, name))
            assert process.wait(PATIENCE_S) == STOPPED
        finally:
            process.kill()
            process.wait()


@posix
class TestASecondOne:
    def test_ctrl_c_twice_ends_at_once(self, handlers, tmp_path):
        large = write_balls(tmp_path / "cases", count=2, shapes_zyx=((48, 80, 80),))
        project = Project(tmp_path, large)
        split = {"train": ["case-0"], "validation": ["case-1"], "test": []}
        (tmp_path / "mine.json").write_text(json.dumps(split), encoding="utf-8")
        last, is_over = project.models / "last.pt", threading.Event()

        def interrupt():
            wait_for(last.is_file)  # now one large case is validated
            signal.raise_signal(signal.SIGINT)
            wait_for(lambda: signal.getsignal(signal.SIGINT) is signal.default_int_handler)
            if not is_over.is_set():  # else it would end the tests
                signal.raise_signal(signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        ended = project.train(
            split_file=tmp_path / "mine.json", epochs=1, steps_per_epoch=1, **EVERY_STEP
        )
        is_over.set()
        thread.join()
        assert ended.exit_code == 130
        assert "stopped; run it again to go on" in ended.output
        assert (project.last.epoch, project.last.batch) == (0, 1)
        assert sorted(path.name for path in project.models.iterdir()) == ["last.pt", "split.json"]

    def test_a_scheduler_may_tell_twice(self, handlers):
        with listening() as stop:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        assert stop.signal == "SIGTERM"

    def test_ctrl_c_twice_is_an_interrupt(self, handlers):
        with listening() as stop:
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert stop.signal == "SIGINT"


@posix
class TestListening:
    def test_nobody_asked_before_a_signal_came(self):
        with listening() as stop:
            assert not stop.is_asked

    @pytest.mark.parametrize("is_asked", [False, True])
    def test_handlers_are_put_back(self, handlers, is_asked):
        before = signal.getsignal(signal.SIGTERM)
        with listening():
            assert signal.getsignal(signal.SIGTERM) is not before
            if is_asked:
                signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is before
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_handlers_are_put_back_after_a_fault(self, handlers):
        with pytest.raises(ZeroDivisionError), listening():
            _ = 1 / 0
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_what_is_ignored_stays_ignored(self, handlers):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with listening() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop.is_asked
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN

    def test_outside_the_main_thread_nothing_is_changed(self, handlers):
        found = []

        def listen():
            with listening() as stop:
                found.append((signal.getsignal(signal.SIGINT), stop.is_asked))

        thread = threading.Thread(target=listen)
        thread.start()
        thread.join()
        assert found == [(signal.default_int_handler, False)]
