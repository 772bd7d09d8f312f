"""Worker processes: what they do at the same time, and what becomes of tasks that kill them."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cache.errors import SourceError
from stages.preprocess.files import CaseFiles
from stages.preprocess.outcome import Job
from stages.preprocess.workers.dispatch import given_up
from stages.preprocess.workers.tasks import OVERTAKINGS, Killed, Queue, Task, WorkFailed, run_tasks
from work_of_workers import (
    die,
    fail,
    meet,
    process_id,
    timed,
    twice,
    until,
)

REPO = Path(__file__).parent.parent
ENOUGH = 1000
KILLED = 15 if sys.platform == "win32" else -9
POSIX_ONLY = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")


def task(name, job=None, need_bytes=1):
    return Task(name, name if job is None else job, need_bytes)


# a module that takes a while to import, of which its importers tell
SLOW_IMPORT = """
import os, pathlib, time
from stages.preprocess.workers.tasks import Task, run_tasks

sign = pathlib.Path(__file__).with_name(str(os.getpid()))
sign.with_suffix(".importing").touch()
time.sleep(0.5)

def work(_):
    sign.with_suffix(".working").touch()
    time.sleep(60)

def main():
    list(run_tasks(work, [Task(name, 0, 1) for name in "ab"], workers=2, budget_bytes=9))
"""


def overlap(folder, one, other):
    """Whether two ``timed`` tasks were done at the same time for a while."""
    spans = [[int(ns) for ns in (folder / name).read_text().split()] for name in (one, other)]
    return max(begin for begin, _ in spans) < min(end for _, end in spans)


def pairs_at_once(folder, names):
    return {a + b for a in names for b in names if a < b and overlap(folder, a, b)}


def my_workers():
    """Child processes that are workers; not multiprocessing's own helper."""
    children = psutil.Process().children()
    return [child for child in children if any("spawn_main" in arg for arg in child.cmdline())]


def is_gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # nobody may collect orphans
    except psutil.NoSuchProcess:
        return True


def held_by(folder):
    """The processes of two tasks that ``hold``, once both are being done."""
    return until(lambda: len(found := [int(path.name) for path in folder.iterdir()]) == 2 and found)


@pytest.fixture
def command():
    """Start a call, by default of ``hold_two(folder)``, in a process group of its own."""
    started = []

    def start(folder, call="work_of_workers.hold_two(sys.argv[1])", imports="work_of_workers"):
        path = os.pathsep.join([str(REPO), str(REPO / "tests"), str(folder)])
        process = subprocess.Popen(
            [sys.executable, "-c", f"import sys, {imports}; {call}", str(folder)],
            env={**os.environ, "PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


class TestResults:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_every_task_has_its_result_once(self, workers):
        tasks = [task(str(number), number) for number in range(7)]
        results = run_tasks(twice, tasks, workers=workers, budget_bytes=ENOUGH)
        assert sorted(results) == [0, 2, 4, 6, 8, 10, 12]

    def test_no_tasks_have_no_results(self):
        assert list(run_tasks(twice, [], workers=2, budget_bytes=ENOUGH)) == []

    def test_one_worker_needs_no_other_process(self):
        tasks = [task(str(number)) for number in range(2)]
        results = list(run_tasks(process_id, tasks, workers=1, budget_bytes=ENOUGH))
        assert results == [os.getpid()] * 2

    def test_a_single_task_for_several_workers_cannot_take_this_process_with_it(self):
        (result,) = run_tasks(process_id, [task("a")], workers=8, budget_bytes=ENOUGH)
        assert result != os.getpid()

    def test_a_result_comes_while_others_are_being_done(self, tmp_path):
        tasks = [task("a", (tmp_path, "a", ["c"])), task("b", (tmp_path, "b", []))]
        results = run_tasks(meet, tasks, workers=2, budget_bytes=ENOUGH)
        assert next(results) == "b"
        (tmp_path / "c").touch()
        assert list(results) == ["a"]


class TestAdmission:
    def test_tasks_that_fit_are_done_at_once_in_processes_of_their_own(self, tmp_path):
        tasks = [task("a", (tmp_path, "a", "b"), 50), task("b", (tmp_path, "b", "a"), 50)]
        assert sorted(run_tasks(meet, tasks, workers=2, budget_bytes=100)) == ["a", "b"]
        processes = {(tmp_path / name).read_text() for name in "ab"}
        assert len(processes | {str(os.getpid())}) == 3

    def test_tasks_that_do_not_fit_together_are_not_done_together(self, tmp_path):
        tasks = [task(name, (tmp_path, name), 51) for name in "abcd"]
        assert sorted(run_tasks(timed, tasks, workers=2, budget_bytes=100)) == list("abcd")
        assert pairs_at_once(tmp_path, "abcd") == set()

    def test_a_task_larger_than_the_budget_is_done_alone(self, tmp_path):
        tasks = [task(name, (tmp_path, name), 1000 if name == "b" else 0) for name in "abcd"]
        assert sorted(run_tasks(timed, tasks, workers=3, budget_bytes=100)) == list("abcd")
        assert [pair for pair in pairs_at_once(tmp_path, "abcd") if "b" in pair] == []

    def test_a_small_task_overtakes_one_that_does_not_fit(self, tmp_path):
        tasks = [
            task("a", (tmp_path, "a", ["c"]), 60),
            task("b", (tmp_path, "b", []), 60),
            task("c", (tmp_path, "c", []), 30),
        ]
        results = list(run_tasks(meet, tasks, workers=2, budget_bytes=100))
        assert sorted(results) == ["a", "b", "c"]
        assert results[-1] == "b"

    def test_a_task_is_overtaken_so_many_times_and_no_more(self):
        small = [task(str(number), need_bytes=10) for number in range(1000)]
        large = [task(name, need_bytes=60) for name in ("large", "larger")]
        queue = Queue([*large, *small], budget_bytes=100)
        taken = []
        while (one := queue.take([50])) is not None:
            taken.append(one.name)
        assert taken == [str(number) for number in range(OVERTAKINGS)]
        assert queue.take([40]).name == "large"
        assert queue.take([50]).name == str(OVERTAKINGS)


class TestKilledWorkers:
    def test_a_task_whose_process_is_killed_is_named_and_tried_again(self, tmp_path, caplog):
        tasks = [task(name, (tmp_path, name, int(name == "b"))) for name in "abcde"]
        results = list(run_tasks(die, tasks, workers=2, budget_bytes=ENOUGH))
        assert sorted(results) == list("abcde")
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert caplog.messages[0].startswith(f"b: its process was killed ({KILLED}); it is tried")

    def test_the_other_cases_of_a_killed_worker_are_done_once_and_before_the_second_try(
        self, tmp_path
    ):
        tasks = [task(name, (tmp_path, name, int(name == "a"))) for name in "abcde"]
        assert list(run_tasks(die, tasks, workers=2, budget_bytes=ENOUGH))[-1] == "a"
        ends = [int((tmp_path / f"{name}-end").read_text()) for name in "bcde"]
        assert int((tmp_path / "a-1").read_text()) > max(ends)
        assert [name for name in "bcde" if (tmp_path / f"{name}-1").exists()] == []

    def test_a_task_that_kills_twice_is_given_up_and_named(self, tmp_path):
        tasks = [task(name, (tmp_path, name, 9 if name in "bd" else 0)) for name in "abcde"]
        results = list(run_tasks(die, tasks, workers=2, budget_bytes=ENOUGH))
        assert sorted(results[:3]) == ["a", "c", "e"]
        assert sorted(results[3:], key=lambda one: one.task.name) == [
            Killed(tasks[1], KILLED),
            Killed(tasks[3], KILLED),
        ]
        assert sorted(path.name for path in tmp_path.glob("[bd]-*")) == ["b-0", "b-1", "d-0", "d-1"]


class TestGivenUpCases:
    """What is said of a case whose processes were killed."""

    @pytest.fixture
    def given_up_on(self, rules, tmp_path):
        """The problem of a case that needs 12.3 GB."""

        def problem(exit_code, free_bytes):
            files = CaseFiles("7", "7", tmp_path / "ct.nii", tmp_path / "label.nii", None, tmp_path)
            job = Job(files, tmp_path, tmp_path, None, rules(), None, False)
            killed = Killed(Task("7", job, 12_300_000_000), exit_code)
            (found,) = given_up(killed, free_bytes).problems
            return found

        return problem

    def test_a_case_whose_processes_were_killed_is_skipped_under_the_name_of_its_ct(
        self, given_up_on, tmp_path
    ):
        found = given_up_on(-9, 1)
        assert (found.severity, found.rule, found.case_id) == ("skipped", "killed", "7")
        assert found.path == str(tmp_path / "ct.nii")

    def test_how_it_ended_and_the_memory_here_are_told(self, given_up_on):
        fact = given_up_on(-9, 8_000_000_000).fact
        assert fact.endswith("(exit code -9); it needs about 12.3 GB, 8.0 GB are free")

    def test_neither_exit_code_nor_free_memory_is_given_of_a_case_killed_on_a_cluster(
        self, given_up_on
    ):
        fact = given_up_on(None, None).fact
        assert fact.endswith("the last one alone with it; it needs about 12.3 GB")


class TestExceptions:
    def do(self, kind):
        tasks = [task("other", "wait"), task("failing", kind)]
        return list(run_tasks(fail, tasks, workers=2, budget_bytes=ENOUGH))

    def test_a_fault_of_the_data_arrives_as_it_is(self):
        with pytest.raises(SourceError) as caught:
            self.do("data")
        error = caught.value
        assert (error.where, error.rule) == ("a.nii.gz", "finite")

    def test_a_fault_of_the_disk_arrives_as_it_is(self):
        with pytest.raises(OSError, match="No space left") as caught:
            self.do("disk")
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "cases")

    def test_a_bug_arrives_with_the_task_and_the_workers_traceback(self):
        with pytest.raises(WorkFailed, match=r"^failing: ") as caught:
            self.do("bug")
        assert 'raise ZeroDivisionError("by nothing")' in str(caught.value)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)

    def test_an_exception_that_does_not_pickle_arrives_as_text(self):
        with pytest.raises(WorkFailed, match="TwoArguments: one and two") as caught:
            self.do("odd")
        assert caught.value.__cause__ is None

    def test_a_result_that_does_not_pickle_is_a_bug(self):
        with pytest.raises(WorkFailed, match="pickle"):
            self.do("answer")

    def test_an_exception_leaves_no_worker_behind(self):
        with pytest.raises(SourceError):
            self.do("data")
        assert my_workers() == []


class TestEnd:
    def test_closing_leaves_no_worker_behind(self, tmp_path):
        tasks = [task("a", (tmp_path, "a", ["never"])), task("b", (tmp_path, "b", []))]
        results = run_tasks(meet, tasks, workers=2, budget_bytes=ENOUGH)
        next(results)
        assert len(my_workers()) == 2
        results.close()
        assert my_workers() == []

    @POSIX_ONLY
    @pytest.mark.slow
    def test_a_worker_that_does_not_listen_is_killed(self, tmp_path):
        tasks = [task("a", (tmp_path, "a", ["never"])), task("b", (tmp_path, "b", ["a"]))]
        results = run_tasks(meet, tasks, workers=2, budget_bytes=ENOUGH)
        next(results)
        process = psutil.Process(until(lambda: int((tmp_path / "a").read_text() or 0)))
        process.suspend()
        until(lambda: process.status() == psutil.STATUS_STOPPED)
        results.close()
        assert my_workers() == []

    def test_an_exception_in_the_consumer_leaves_no_worker_behind(self, tmp_path):
        tasks = [task("a", (tmp_path, "a", ["never"])), task("b", (tmp_path, "b", []))]
        results = (1 // 0 for _ in run_tasks(meet, tasks, workers=2, budget_bytes=ENOUGH))
        with pytest.raises(ZeroDivisionError):
            next(results)
        assert my_workers() == []

    def test_workers_end_when_their_parent_is_killed(self, tmp_path, command):
        process = command(tmp_path)
        workers = held_by(tmp_path)
        process.kill()
        until(lambda: all(map(is_gone, workers)))

    @POSIX_ONLY
    def test_ctrl_c_ends_all_and_only_the_parent_speaks(self, tmp_path, command):
        process = command(tmp_path)
        workers = held_by(tmp_path)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=20)[1]
        assert said.count("Traceback") == 1
        assert said.endswith("KeyboardInterrupt\n")
        assert [pid for pid in workers if not is_gone(pid)] == []

    @POSIX_ONLY
    def test_ctrl_c_does_not_reach_workers_that_still_import(self, tmp_path, command):
        (tmp_path / "slow.py").write_text(SLOW_IMPORT)
        process = command(tmp_path, "slow.main()", imports="slow")
        until(lambda: len(list(tmp_path.glob("*.importing"))) == 3)
        for worker in {int(path.stem) for path in tmp_path.glob("*.importing")} - {process.pid}:
            os.kill(worker, signal.SIGINT)
        until(lambda: len(list(tmp_path.glob("*.working"))) == 2)

    def test_a_script_that_starts_itself_again_in_its_workers_is_told(self, tmp_path):
        script = tmp_path / "unguarded.py"
        script.write_text(
            "import math\n"
            "from stages.preprocess.workers.tasks import Task, run_tasks\n"
            "tasks = [Task(name, 4, 1) for name in 'ab']\n"
            "list(run_tasks(math.sqrt, tasks, workers=2, budget_bytes=9))\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(REPO)}
        ended = subprocess.run(
            [sys.executable, str(script)], env=environment, capture_output=True, text=True
        )
        assert ended.returncode == 1
        assert "RuntimeError: a worker process could not start" in ended.stderr
