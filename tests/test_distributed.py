"""Several processes that torchrun starts train as one does, stop as one, and fail as one."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

import psutil
import pytest
import torch

from project import Project, all_files, assert_same
from stages.train.unet import UNet3d
from tiny import REPO, one_thread

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="torch has no Gloo for all of it")

PATIENCE_S = 120.0
PRINTED = ("out.txt", "err.txt")
# three cases to train on and three to validate; 15 patches an epoch are five batches of three, of
# which one process has two and the other one, in steps of two, two and one batch
SHARED = {
    "validation_share": 0.4,
    "patches_per_case": 5,
    "batch_size": 3,
    "accumulate": 2,
    "ema": 0.9,
    # of Adam, the smallest rounding of a gradient near zero would move a weight by all of lr
    "optimizer": "sgd",
    "lr": 0.02,
}
FIGURES = {"train/loss", "train/accuracy", "train/iou", "train/gradient_norm", "train/lr"}
LONGER = SHARED | {"epochs": 12}
OTHER_BATCHES = {"batch_size": 4, "accumulate": 1, "ema": None, "clip_norm": 1.0}


@dataclass(frozen=True)
class Ended:
    """How torchrun ended, and what it and all its processes printed."""

    exit_code: int
    out: str
    err: str


class Torchrun:
    """Training in several processes, running."""

    def __init__(self, project, *flags, ranks=2, launch=("--standalone",), **changes):
        words = (*launch, f"--nproc-per-node={ranks}", "-m", "pipeline.train")
        self._texts = [project.root / name for name in PRINTED]
        with contextlib.ExitStack() as files:
            out, err = (files.enter_context(path.open("w")) for path in self._texts)
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-B", "-m", "torch.distributed.run", *words),
                    *project.arguments(*flags, **changes),
                ],
                cwd=project.root,
                env={**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
                stdout=out,
                stderr=err,
            )

    def signal(self, number, *, rank=None):
        """Send a signal to torchrun, or to one of its processes."""
        os.kill(self._process.pid if rank is None else self._pid(rank), number)

    def wait_for(self, path):
        """Wait for a file, while training goes on."""
        end = time.monotonic() + PATIENCE_S
        while not path.is_file():
            assert self._process.poll() is None, self._texts[1].read_text()
            assert time.monotonic() < end
            time.sleep(0.002)

    def ended(self):
        """Wait for the end."""
        try:
            code = self._process.wait(PATIENCE_S)
        finally:
            self._kill()
        return Ended(code, *(path.read_text() for path in self._texts))

    def _pid(self, rank):
        for child in psutil.Process(self._process.pid).children():
            if child.environ().get("RANK") == str(rank):
                return child.pid
        raise AssertionError(f"there is no rank {rank}")

    def _kill(self):
        if self._process.poll() is None:
            for child in psutil.Process(self._process.pid).children(recursive=True):
                child.kill()
            self._process.kill()


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def one(cases, tmp_path_factory):
    """A project trained by one process."""
    project = Project(tmp_path_factory.mktemp("one"), cases)
    assert project.train(**SHARED).exit_code == 0
    return project


@pytest.fixture(scope="module")
def two(cases, tmp_path_factory):
    """The same trained by two, and what they printed."""
    project = Project(tmp_path_factory.mktemp("two"), cases)
    ended = Torchrun(project, **SHARED).ended()
    assert ended.exit_code == 0, ended.err
    return project, ended


@pytest.fixture(scope="module")
def never(cases, tmp_path_factory):
    """A project trained for longer by two, never stopped."""
    project = Project(tmp_path_factory.mktemp("never"), cases)
    assert Torchrun(project, **LONGER).ended().exit_code == 0
    return project


def assert_close(several, one, most=5e-3):
    """The same run but for rounding, which grows with the steps, to this share at most."""
    for ours, theirs in zip(several.last.history, one.last.history, strict=True):
        assert ours.keys() == theirs.keys()
        for name in FIGURES:
            assert ours[name] == pytest.approx(theirs[name], rel=most), name
    assert distance(several.last.model, one.last.model) < most
    expected = {key: pytest.approx(dice, abs=most) for key, dice in scores(one).items()}
    assert scores(several) == expected


def distance(weights, others):
    """How far apart two trained networks are, as a share of the way that training went."""
    torch.manual_seed(2026)
    began = UNet3d(1, 2, 8).state_dict()
    apart, way = (
        sum(float((one[name] - other[name]).square().sum()) for name in one) ** 0.5
        for one, other in ((weights, others), (others, began))
    )
    return apart / way


def scores(project):
    """The Dice of every case of every validation."""
    found = project.last.validations
    by_case = {(one["epoch"], one["case"]): one["dice"] for one in found}
    assert len(by_case) == len(found)
    return by_case


def told(ended):
    """The lines on stderr but for those of torchrun itself."""
    lines = ended.err.splitlines()
    return [line for line in lines if re.match(r"(error: |  fix: |stopped by )", line)]


def assert_failed_once(ended, message):
    """One message, and no traceback of ours."""
    assert ended.exit_code == 1  # torchrun has no other, whatever its processes end with
    (error, _) = told(ended)
    assert message in error
    assert str(REPO) not in ended.err
    assert "RuntimeError" not in ended.err


@pytest.mark.slow
class TestTwoAreAsOne:
    def test_losses_norms_scores_and_weights_are_those_of_one(self, one, two):
        assert_close(two[0], one)

    def test_the_averaged_weights_are_too(self, one, two):
        assert distance(two[0].last.average, one.last.average) < 5e-3

    def test_every_case_is_validated_once_in_every_epoch(self, one, two):
        assert len(scores(two[0])) == 6
        assert scores(two[0]).keys() == scores(one).keys()

    def test_two_processes_write_the_files_that_one_writes(self, one, two):
        written = set(all_files(two[0].root)) - set(PRINTED)
        assert written == set(all_files(one.root))

    def test_the_first_alone_prints_and_logs(self, two):
        _, ended = two
        assert len(ended.out.splitlines()) == 1
        assert ended.err.count("training set: ") == 1
        assert ended.err.count("epoch 1, train/loss ") == 1
        assert "Warning" not in ended.err

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("ranks", "changes"), [(2, OTHER_BATCHES), (3, {}), (3, OTHER_BATCHES)]
    )
    def test_several_processes_with_other_batches_train_as_one_does(
        self, cases, tmp_path, ranks, changes
    ):
        several, one = (make_project(tmp_path / name, cases) for name in ("several", "one"))
        assert Torchrun(several, ranks=ranks, **SHARED | changes).ended().exit_code == 0
        assert one.train(**SHARED | changes).exit_code == 0
        assert_close(several, one)

    @pytest.mark.slow
    def test_two_machines_share_no_disk_and_the_second_writes_nothing(self, one, tmp_path):
        machines = []
        for name in ("first", "second"):
            shutil.copytree(one.cases, tmp_path / name / "cases")
            machines.append(Project(tmp_path / name, tmp_path / name / "cases"))
        meeting = ("--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{free_port()}")
        # one of them hosts the meeting
        hosts = [(*meeting, f"--rdzv-conf=is_host={number}") for number in (1, 0)]
        running = [
            Torchrun(project, ranks=1, launch=launch, **SHARED)
            for project, launch in zip(machines, hosts, strict=True)
        ]
        assert [each.ended().exit_code for each in running] == [0, 0]
        written = [
            {path for path in all_files(project.root) if not path.startswith("cases/")}
            for project in machines
        ]
        written.sort(key=len)  # which of the two torchrun takes for the first is its affair
        assert written[0] == {*PRINTED, "params.yaml"}
        assert written[1] == {*PRINTED, *all_files(one.root)}


@pytest.mark.slow
class TestTheyFailAsOne:
    def test_a_fault_that_all_meet_is_told_once(self, project):
        ended = Torchrun(project, "--resume").ended()
        assert_failed_once(ended, "there is nothing to resume")
        assert not project.models.exists()

    def test_a_fault_of_the_parameters_is_told_once(self, project):
        ended = Torchrun(project, "--fold", "3").ended()
        assert_failed_once(ended, "fold is 3, but there are no folds")

    def test_a_batch_too_small_for_all_is_refused_by_name(self, project):
        ended = Torchrun(project, ranks=3, batch_size=2).ended()
        assert_failed_once(ended, "train.batch_size: is 2, fewer than the 3 processes")

    def test_a_case_found_damaged_by_one_ends_all(self, one, tmp_path):
        project = Project(tmp_path, tmp_path / "cases")
        shutil.copytree(one.cases, project.cases)
        victim = one.last.split["train"][1]
        shutil.rmtree(project.cases / f"{victim}.zarr" / "image")
        # read from the disk when its turn comes, by the process that has it in its share
        ended = Torchrun(project, **SHARED, residency="disk").ended()
        assert_failed_once(ended, f"case {victim} is damaged")


@pytest.mark.slow
class TestTheyStopAsOne:
    @pytest.fixture
    def stopped(self, project):
        """Train in two processes, send a signal after the first epoch and wait for the end."""

        def stop(number, rank):
            running = Torchrun(project, **LONGER)
            running.wait_for(project.models / "last.pt")
            running.signal(number, rank=rank)
            ended = running.ended()
            assert ended.exit_code == 1
            (line,) = told(ended)
            last = project.last
            assert 1 <= last.epoch < 12
            assert f"after epoch {last.epoch} and {last.batch} of 5 batches" in line
            return line

        return stop

    def test_a_signal_to_torchrun_stops_all_and_one_process_goes_on(self, stopped, project, never):
        assert stopped(signal.SIGTERM, None).startswith("stopped by SIGTERM")
        assert project.train("--resume", **LONGER).exit_code == 0
        assert_close(project, never, most=5e-2)

    @pytest.mark.parametrize(("rank", "name"), [(0, "SIGUSR1"), (1, "another process")])
    def test_a_signal_to_one_stops_all_and_two_go_on(self, stopped, project, never, rank, name):
        assert stopped(signal.SIGUSR1, rank).startswith(f"stopped by {name}")
        assert Torchrun(project, "--resume", **LONGER).ended().exit_code == 0
        assert_same(vars(project.last), vars(never.last))


def free_port():
    """A port of this machine that nobody listens to."""
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


def make_project(folder, cases):
    """A project in a new folder."""
    folder.mkdir()
    return Project(folder, cases)
