"""What survives a kill, Ctrl-C, a second run, a full disk and files that change meanwhile."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest

from cache.errors import StoreError
from cache.files import PARTIAL
from cache.reader import CaseStore
from cache.state import STATE
from pipeline.params import read_params
from pipeline.preprocess import end_badly, main
from stages.preprocess.case import work
from stages.preprocess.journal import only_writer
from stages.preprocess.outcome import Job
from stages.preprocess.tell import Summary

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits are POSIX")
PATIENCE_S = 60.0


@pytest.fixture
def command(params_file, repo, tmp_path):
    """The command line of a run with two workers, and how to start it in a session of its own."""

    def start(src, *flags, out="cases", changes=None, script=None, workers=2):
        places = ("--src", src, "--out", tmp_path / out, "--params", params_file(changes))
        code = ["-c", script] if script else ["-m", "pipeline.preprocess"]
        return subprocess.Popen(
            [sys.executable, *code, *map(str, (*places, "--workers", workers, *flags))],
            cwd=repo,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def preprocess(run_command, params_file, tmp_path):
    """Run the command to its end in this process, with one worker."""

    def run(src, out="cases", changes=None):
        places = ("--src", src, "--out", tmp_path / out, "--params", params_file(changes))
        return run_command(main, *places, "--workers", 1)

    return run


@pytest.fixture
def job_of(params_file, tmp_path):
    """What a worker is given for a case."""

    def make(files):
        params = read_params(params_file())
        out = tmp_path / "cases"
        return Job(files, out, tmp_path / "pictures", params.preprocess, params.rules, None, False)

    return make


def bytes_of(root):
    """Every file of a store with its bytes, by its path from there."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def wait_until(is_so):
    """Wait for something that happens soon."""
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.005)


def journal_lines(tmp_path):
    """How many cases a run's journal names."""
    path = tmp_path / STATE / "cases" / "journal.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def session_of(process):
    """All processes that a run started, and itself, as far as they live."""
    found = []
    for one in psutil.process_iter(["pid", "status"]):
        try:
            if os.getsid(one.pid) == process.pid and one.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(one.pid)
        except (ProcessLookupError, PermissionError):
            continue
    return found


@posix
class TestKilled:
    CASES = tuple(f"{number:02}" for number in range(24))

    @pytest.mark.slow
    def test_finished_cases_are_kept_and_the_end_is_the_same(
        self, command, preprocess, write_dataset, tmp_path
    ):
        src = write_dataset(self.CASES)
        preprocess(src, out="whole")
        killed = command(src)
        wait_until(lambda: journal_lines(tmp_path) >= 3)
        killed.kill()
        assert killed.wait() == -signal.SIGKILL  # so it had not ended by itself
        finished = journal_lines(tmp_path)
        assert 3 <= finished < len(self.CASES)
        assert not (tmp_path / "cases/manifest.json").exists()
        wait_until(lambda: not session_of(killed))  # its workers see it and end
        ended = preprocess(src)
        assert f"{len(self.CASES) - finished} prepared now, {finished} kept" in ended.output
        assert bytes_of(tmp_path / "cases") == bytes_of(tmp_path / "whole")
        killed.communicate()

    @pytest.mark.slow
    @pytest.mark.parametrize("stored_as", ["zarr", "hdf5"])
    def test_a_run_killed_at_any_moment_again_and_again_loses_no_finished_case(
        self, command, preprocess, write_dataset, tmp_path, stored_as
    ):
        changes = {"preprocess.format": stored_as}
        src = write_dataset(self.CASES)
        preprocess(src, out="whole/cases", changes=changes)
        rng = np.random.default_rng(11)
        for _ in range(8):
            killed = command(src, changes=changes)
            time.sleep(rng.uniform(0.7, 2.5))
            killed.kill()
            killed.communicate()
            wait_until(lambda killed=killed: not session_of(killed))
        assert preprocess(src, changes=changes).exit_code == 0
        assert bytes_of(tmp_path / "cases") == bytes_of(tmp_path / "whole/cases")
        for page in ("problems.json", "qc.html"):
            assert (tmp_path / page).read_bytes() == (tmp_path / "whole" / page).read_bytes()
        for place in (tmp_path / "cases", tmp_path / STATE):
            assert not list(place.rglob(f"{PARTIAL}*"))

    @pytest.mark.slow
    def test_ctrl_c_ends_it_soon_in_one_line_without_orphans(
        self, command, preprocess, write_dataset, tmp_path
    ):
        src = write_dataset(self.CASES)
        stopped = command(src)
        wait_until(lambda: journal_lines(tmp_path) >= 2)
        os.killpg(stopped.pid, signal.SIGINT)  # as a terminal does: workers get it too
        asked = time.monotonic()
        _, told = stopped.communicate(timeout=PATIENCE_S)
        assert time.monotonic() - asked < 10
        assert stopped.returncode == 130
        assert "Traceback" not in told
        assert told.strip().splitlines()[-1] == "stopped; run it again to go on"
        wait_until(lambda: not session_of(stopped))
        assert "kept" in preprocess(src).output
        assert not list(tmp_path.rglob(f"{PARTIAL}*"))
        assert len(CaseStore(tmp_path / "cases").case_ids) == len(self.CASES)

    @pytest.mark.slow
    def test_a_case_whose_workers_are_killed_is_named_and_the_others_stay(
        self, command, write_dataset, write_case, tmp_path
    ):
        src = write_dataset(["1", "3", "4"])
        huge = np.zeros((250, 450, 450), np.int16)
        huge[50:150, 50:350, 50:350] = 100
        write_case("2", ct=huge, label=(huge > 0).astype(np.uint8), spacing_xyz_mm=(1, 1, 1))
        ended, told = ended_under_attack(command(src))
        assert ended == 0, told
        assert CaseStore(tmp_path / "cases").case_ids == ["1", "3", "4"]
        problems = json.loads((tmp_path / "problems.json").read_text())["problems"]
        assert ("skipped", "killed", "2") in {
            (one["severity"], one["rule"], one["case_id"]) for one in problems
        }
        # now it is the only one left to do, and must not take the command and the manifest with it
        ended, told = ended_under_attack(command(src))
        assert ended == 0, told
        assert CaseStore(tmp_path / "cases").case_ids == ["1", "3", "4"]


class Short:
    """Parameters that do not fit into memory, as C++ says it."""

    def __getattr__(self, name):
        raise RuntimeError("std::bad_alloc")


class TestBugs:
    def test_a_library_that_runs_out_of_memory_is_no_bug(self, write_case, job_of):
        outcome = work(replace(job_of(write_case()), params=Short()))
        (problem,) = outcome.problems
        assert (problem.rule, problem.fact) == ("machine", "could not be prepared: std::bad_alloc")
        assert not outcome.bug

    def test_a_bug_that_a_case_brings_to_light_is_in_its_outcome(self, write_case, job_of):
        outcome = work(replace(job_of(write_case()), params=None))
        (problem,) = outcome.problems
        assert (problem.severity, problem.rule, problem.case_id) == ("skipped", "bug", "1")
        assert "Traceback" in outcome.bug
        assert outcome.is_out

    def test_the_command_ends_with_its_traceback(self):
        with pytest.raises(RuntimeError, match="case 7:\nTraceback"):
            end_badly(Summary(["1"], [], 0, None, ["case 7:\nTraceback …"]))

    def test_a_disk_that_refuses_a_case_is_none(self, write_case, job_of, tmp_path):
        (tmp_path / "cases").write_text("a file in the place of the store")
        with pytest.raises(StoreError):
            work(job_of(write_case()))


def ended_under_attack(run):
    """The exit code and messages of a command of which whatever grows too large is killed."""
    stop = threading.Event()
    killer = threading.Thread(target=kill_large, args=(run.pid, stop))
    killer.start()
    _, told = run.communicate(timeout=PATIENCE_S)
    stop.set()
    killer.join()
    return run.returncode, told


def kill_large(parent, stop, most_bytes=400_000_000):
    """Kill the children of a process that grow too large, as a system short of memory does."""
    while not stop.is_set():
        try:
            children = psutil.Process(parent).children()
        except psutil.NoSuchProcess:
            return
        for child in children:
            try:
                if child.memory_info().rss > most_bytes:
                    child.kill()
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.002)


class TestTwoAtOnce:
    @pytest.mark.slow
    def test_the_second_ends_with_2_and_the_first_completes(
        self, command, preprocess, write_dataset, tmp_path
    ):
        src = write_dataset(TestKilled.CASES)
        first = command(src)
        wait_until(lambda: journal_lines(tmp_path) >= 1)
        second = preprocess(src)
        assert second.exit_code == 2
        assert "another run is writing to this store" in second.output
        assert second.output.count("error: ") == 1
        out, told = first.communicate(timeout=PATIENCE_S)
        assert first.returncode == 0, told
        assert "24 prepared now, 0 kept" in out

    def test_a_run_does_not_lock_another_store_beside_its_own(
        self, preprocess, write_dataset, tmp_path
    ):
        src = write_dataset(["1"])
        with only_writer(tmp_path / "cases"):
            assert preprocess(src).exit_code == 2
            assert preprocess(src, out="other").exit_code == 0
        assert preprocess(src).exit_code == 0


LIMITED = (
    "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0})); "
    "from pipeline.preprocess import main; main()"
)


@posix
class TestFullDisk:
    WHOLE = {"preprocess.crop": "none", "preprocess.grid": "keep"}  # noqa: RUF012 - not changed

    @pytest.mark.parametrize("stored_as", ["zarr", "hdf5"])
    def test_a_full_disk_ends_with_2_leaves_no_half_a_case_and_the_next_run_completes(
        self, command, preprocess, write_dataset, write_case, tmp_path, stored_as
    ):
        changes = {**self.WHOLE, "preprocess.format": stored_as}
        src = write_dataset(["1"])
        large = np.random.default_rng(0).integers(-999, 999, (40, 80, 90)).astype(np.int16)
        label = np.zeros(large.shape, np.uint8)
        label[8:30, 10:60, 12:70] = 1
        large[label > 0] //= 10  # of about 0 HU
        write_case("2", ct=large, label=label, spacing_xyz_mm=(3.0, 3.1, 3.2))
        run = command(src, changes=changes, script=LIMITED.format(200_000), workers=1)
        _, told = run.communicate(timeout=PATIENCE_S)
        assert run.returncode == 2, told
        assert "cannot be written" in told
        assert "Traceback" not in told
        assert [path.stem for path in (tmp_path / "cases").iterdir()] == ["1"]
        assert "1 prepared now, 1 kept" in preprocess(src, changes=changes).output

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
    def test_a_folder_one_may_not_write_to(self, preprocess, write_dataset, tmp_path):
        (tmp_path / "mine").mkdir(mode=0o500)
        ended = preprocess(write_dataset(["1"]), out="mine/cases")
        assert ended.exit_code == 2
        assert ended.output.count("error: ") == 1


class TestSourcesThatChange:
    def test_a_file_that_vanished_since_the_scan_leaves_its_case_out(self, job_of, write_case):
        files = write_case()
        files.label.unlink()
        outcome = work(job_of(files))
        (problem,) = outcome.problems
        assert outcome.is_out
        assert (problem.severity, problem.case_id) == ("skipped", "1")
        assert str(files.label) in problem.path + problem.fact

    def test_a_file_that_is_written_to_while_it_is_read_leaves_its_case_out(
        self, job_of, write_case
    ):
        files = write_case()
        busy = subprocess.Popen([sys.executable, "-c", TOUCH, str(files.ct)])
        first = files.ct.stat().st_mtime_ns
        wait_until(lambda: files.ct.stat().st_mtime_ns != first)
        outcome = work(job_of(files))
        busy.kill()
        busy.wait()
        (problem,) = outcome.problems
        assert outcome.is_out
        assert "was changed while it was read" in problem.fact
        assert problem.path == str(files.ct)
        assert not job_of(files).path.exists()


TOUCH = "import os, sys, time\nwhile True: os.utime(sys.argv[1], ns=(time.time_ns(),) * 2)"
