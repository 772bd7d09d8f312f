"""What the workers of test_workers.py do; a worker imports this module, and little with it."""

import errno
import os
import signal
import time
from pathlib import Path

from cache.errors import SourceError
from stages.preprocess.workers.tasks import Task, run_tasks

LONG_S = 60.0  # longer than any test
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has only one way to end a process


def until(condition, limit_s=20.0):
    """Wait for a condition; gives its value, and fails if it does not come true."""
    end = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return value


def twice(number):
    return 2 * number


def process_id(_):
    return os.getpid()


def timed(job):
    """Take a while; the folder then has a file with the beginning and the end, ns."""
    folder, name = job
    began = time.monotonic_ns()
    time.sleep(0.05)
    (folder / name).write_text(f"{began} {time.monotonic_ns()}")
    return name


def meet(job):
    """Leave a file, and wait for those of others."""
    folder, name, others = job
    (folder / name).write_text(str(os.getpid()))
    until(lambda: all((folder / other).exists() for other in others))
    return name


def die(job):
    """Kill this process the first time, or always; the folder has a file from each try."""
    folder, name, deaths = job
    tries = len(list(folder.glob(f"{name}-*")))
    (folder / f"{name}-{tries}").write_text(str(time.monotonic_ns()))
    if tries < deaths:
        os.kill(os.getpid(), KILL)
    (folder / f"{name}-end").write_text(str(time.monotonic_ns()))
    return name


class TwoArguments(Exception):  # noqa: N818
    """It does not survive pickling, which calls it with one argument."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def fail(kind):
    if kind == "data":
        raise SourceError("a.nii.gz", "has no voxels", "export it again", rule="finite")
    if kind == "disk":
        raise OSError(errno.ENOSPC, "No space left on device", "cases")
    if kind == "bug":
        raise ZeroDivisionError("by nothing")
    if kind == "odd":
        raise TwoArguments("one", "two")
    if kind == "answer":
        return lambda: "no pickle of this"
    time.sleep(LONG_S)
    return None


def hold(folder):
    """Say which process this is, and do not end."""
    (folder / str(os.getpid())).touch()
    time.sleep(LONG_S)


def hold_two(folder):
    """What a command does whose workers do not end."""
    tasks = [Task(name, Path(folder), 1) for name in "ab"]
    list(run_tasks(hold, tasks, workers=2, budget_bytes=1000))
