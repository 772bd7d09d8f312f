"""The same work on a Dask cluster of real processes, some of which are killed."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cache.errors import ParamsError, SourceError
from pipeline.preprocess import main as preprocess
from stages.preprocess.workers.cluster import IN_FLIGHT, run_on_cluster
from stages.preprocess.workers.tasks import Killed, Task
from work_of_clusters import KILL, die, fail, hold, note, until

pytest.importorskip("distributed", reason='needs pip install "liver3d[cluster]"')

REPO = Path(__file__).parent.parent
WITH_US = os.pathsep.join([str(REPO), str(REPO / "tests")])


def told(folder, address, work="note"):
    """What such a command writes to the two streams."""
    call = "import sys, work_of_clusters; work_of_clusters.main(*sys.argv[1:])"
    ended = subprocess.run(
        [sys.executable, "-c", call, str(folder), address, work],
        env={**os.environ, "PYTHONPATH": WITH_US},
        capture_output=True,
        text=True,
    )
    return ended.stdout, ended.stderr


class Cluster:
    """A scheduler and its workers, all on this machine."""

    def __init__(self, folder):
        self.folder, self.file, self.processes = folder, folder / "scheduler.json", []
        options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        self.scheduler = self.start("scheduler", *options, "--scheduler-file", self.file)
        self.address = until(self.told_address)

    def told_address(self):
        try:
            return json.loads(self.file.read_text())["address"]
        except (OSError, ValueError):  # not there yet, or half
            return None

    def start(self, what, *options, path=WITH_US):
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", what, *map(str, options)],
            env={**os.environ, "PYTHONPATH": path},
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.processes.append(process)
        return process

    def add_worker(self, path=WITH_US):
        options = ["--nworkers", "1", "--nthreads", "1", "--no-dashboard"]
        here = ["--local-directory", self.folder / "scratch"]
        return self.start("worker", self.address, *options, *here, path=path)

    def worker_count(self):
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            return len(client.scheduler_info()["workers"])

    def wait_for(self, count):
        until(lambda: self.worker_count() == count)

    def stop(self):
        for process in self.processes:  # with the workers that their nannies would start again
            family = [*psutil.Process(process.pid).children(recursive=True), process]
            for one in reversed(family):
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            process.wait(20)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    """A cluster of two workers, which Dask starts again when they are killed."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    cluster.add_worker()
    cluster.add_worker()
    cluster.wait_for(2)
    yield cluster
    cluster.stop()


@pytest.fixture
def cluster(tmp_path):
    """A cluster that a test may ruin; no worker yet."""
    (tmp_path / "dask").mkdir()
    cluster = Cluster(tmp_path / "dask")
    yield cluster
    cluster.stop()


def tasks_of(names, folder):
    return [Task(name, (folder, name), 1) for name in names]


class TestWork:
    def test_every_task_has_its_result_once_from_both_workers(self, two_workers, tmp_path):
        names = [str(number) for number in range(20)]
        results = list(run_on_cluster(note, tasks_of(names, tmp_path), address=two_workers.address))
        assert sorted(name for name, _ in results) == sorted(names)
        processes = {process for _, process in results}
        assert len(processes) == 2
        assert os.getpid() not in processes

    def test_no_tasks_have_no_results(self, two_workers):
        assert list(run_on_cluster(note, [], address=two_workers.address)) == []

    def test_more_tasks_than_may_be_in_flight_are_all_done(self, two_workers):
        tasks = [Task(str(number), (number, False), 1) for number in range(IN_FLIGHT + 30)]
        results = run_on_cluster(die, tasks, address=two_workers.address)
        assert sorted(results) == list(range(IN_FLIGHT + 30))

    def test_a_fault_of_the_data_arrives_as_it_is(self, two_workers):
        with pytest.raises(SourceError) as caught:
            list(run_on_cluster(fail, [Task("a", "a.nii.gz", 1)], address=two_workers.address))
        assert (caught.value.where, caught.value.rule) == ("a.nii.gz", "readable")

    def test_a_normal_run_writes_nothing_to_the_terminal(self, two_workers, tmp_path):
        assert told(tmp_path, two_workers.address) == ("['a', 'b', 'c']", "")

    def test_closing_cancels_what_has_not_begun(self, two_workers, tmp_path):
        names = [f"n{number}" for number in range(20)]
        (tmp_path / "go").touch()
        results = run_on_cluster(hold, tasks_of(names, tmp_path), address=two_workers.address)
        next(results)
        (tmp_path / "go").unlink()
        until(lambda: len(list(tmp_path.glob("n*"))) >= 3)
        results.close()
        begun = len(list(tmp_path.glob("n*")))
        (tmp_path / "go").touch()
        # a task of another run is done after those that were left, if any were
        list(run_on_cluster(die, [Task("x", (0, False), 1)] * 4, address=two_workers.address))
        assert len(list(tmp_path.glob("n*"))) <= begun + 2  # what each worker has at hand


@pytest.mark.slow
class TestLostWorkers:
    def test_the_tasks_of_a_killed_worker_are_done_by_others(self, two_workers, tmp_path):
        names = [f"n{number}" for number in range(8)]
        results = run_on_cluster(hold, tasks_of(names, tmp_path), address=two_workers.address)
        done = []
        consumer = threading.Thread(target=lambda: done.extend(results))
        consumer.start()
        until(lambda: len(list(tmp_path.glob("n*"))) == 2)
        victim = next(tmp_path.glob("n*"))
        os.kill(int(victim.suffix[1:]), KILL)
        (tmp_path / "go").touch()
        consumer.join(30)
        assert sorted(done) == names
        tries = Counter(path.stem for path in tmp_path.glob("n*"))
        assert tries[victim.stem] == 2

    def test_a_task_that_kills_every_worker_is_named_and_the_others_arrive(self, two_workers):
        tasks = [Task(name, (name, name == "c"), 1) for name in "abcdefgh"]
        results = list(run_on_cluster(die, tasks, address=two_workers.address))
        # a neighbour that was lost with it may be tried again after it, so it need not come last
        assert [one for one in results if isinstance(one, Killed)] == [Killed(tasks[2], None)]
        assert sorted(one for one in results if isinstance(one, str)) == list("abdefgh")
        assert len(results) == len(tasks)


@pytest.mark.slow
class TestClusterErrors:
    def refused(self, address, work=note):
        with pytest.raises(ParamsError) as caught:
            list(run_on_cluster(work, [Task("a", ("a", False), 1)], address=address))
        return str(caught.value)

    @pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nowhere", "carrier://pigeon:8786"])
    def test_an_address_where_no_scheduler_answers_is_named(self, address):
        message = self.refused(address)
        assert message.startswith(f"--scheduler: no Dask scheduler answers at {address} (")
        assert "fix: start one with 'dask scheduler'" in message

    def test_a_missing_distributed_is_named_with_how_to_install_it(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "distributed", None)  # Python's way to say not installed
        message = self.refused("tcp://127.0.0.1:1")
        assert message.startswith("--scheduler: needs dask.distributed")
        assert 'fix: pip install "liver3d[cluster]"' in message

    def test_a_scheduler_that_cannot_import_the_work_is_named(self, tmp_path, monkeypatch, cluster):
        (tmp_path / "only_here.py").write_text("def work(job): return job\n")
        monkeypatch.syspath_prepend(tmp_path)
        from only_here import work

        message = self.refused(cluster.address, work)
        assert f"the scheduler at {cluster.address} cannot import what it is to do" in message
        assert "No module named 'only_here'" in message

    def test_a_worker_that_cannot_import_the_work_is_named(self, cluster):
        cluster.add_worker(path="")
        cluster.wait_for(1)
        message = self.refused(cluster.address)
        assert "--scheduler: the worker at tcp://127.0.0.1:" in message
        assert "fix: install there the liver3d that is installed here" in message

    def test_nothing_but_the_error_is_written_when_no_scheduler_answers(self, tmp_path):
        said, noise = told(tmp_path, "tcp://127.0.0.1:1")
        assert said.startswith("--scheduler: no Dask scheduler answers at tcp://127.0.0.1:1 (")
        assert noise == ""

    def test_a_scheduler_that_dies_is_named_and_nothing_else_is_written(self, cluster, tmp_path):
        cluster.add_worker()
        cluster.wait_for(1)
        jobs = tmp_path / "jobs"
        jobs.mkdir()
        killer = threading.Thread(
            target=lambda: (until(lambda: list(jobs.iterdir())), cluster.scheduler.kill())
        )
        killer.start()
        said, noise = told(jobs, cluster.address, work="hold")
        killer.join()
        assert said.startswith(f"--scheduler: the scheduler at {cluster.address} stopped answering")
        assert noise == ""

    def test_a_scheduler_without_workers_is_waited_for_and_said(self, cluster, tmp_path, caplog):
        results = []
        tasks = tasks_of("ab", tmp_path)
        consumer = threading.Thread(
            target=lambda: results.extend(run_on_cluster(note, tasks, address=cluster.address))
        )
        consumer.start()
        until(lambda: caplog.messages)
        assert caplog.messages == [
            f"the scheduler at {cluster.address} has no workers yet; waiting for them"
        ]
        cluster.add_worker()
        consumer.join(30)
        assert sorted(name for name, _ in results) == ["a", "b"]


def contents(folder):
    """The bytes of every file of a folder, by its path in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


class TestPreprocessing:
    """The command itself, as a user starts it."""

    @pytest.fixture
    def prepare(self, write_dataset, params_file, run_command, tmp_path):
        src, params = write_dataset([str(number) for number in range(8)]), params_file()

        def run(out, *more):
            return run_command(preprocess, "--src", src, "--out", out, "--params", params, *more)

        return run

    @pytest.mark.slow
    def test_a_worker_killed_midway_costs_no_case_and_changes_no_byte(
        self, two_workers, prepare, tmp_path
    ):
        out = tmp_path / "cluster" / "cases"

        def kill_one():
            until(lambda: list(out.glob("*.zarr")))
            nanny = psutil.Process(two_workers.processes[-1].pid)
            for worker in nanny.children(recursive=True):
                worker.kill()

        killer = threading.Thread(target=kill_one)
        killer.start()
        ended = prepare(out, "--scheduler", two_workers.address)
        killer.join()
        assert ended.exit_code == 0, ended.output
        assert "8 cases in " in ended.output
        assert prepare(tmp_path / "here" / "cases", "--workers", 1).exit_code == 0
        assert contents(out) == contents(tmp_path / "here" / "cases")

    @pytest.mark.slow
    def test_a_scheduler_that_does_not_answer_ends_with_2_and_its_address(self, prepare, tmp_path):
        ended = prepare(tmp_path / "cases", "--scheduler", "tcp://127.0.0.1:1")
        assert ended.exit_code == 2
        assert "127.0.0.1:1" in ended.output
