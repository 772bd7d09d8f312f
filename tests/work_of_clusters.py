"""What the workers of test_cluster.py do; a worker imports this module, and little with it."""

import os
import signal
import sys
import time
from pathlib import Path

from cache.errors import ParamsError, SourceError
from stages.preprocess.workers.cluster import run_on_cluster
from stages.preprocess.workers.tasks import Task

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)


def until(condition, limit_s=30.0):
    """Wait for a condition; gives its value, and fails if it does not come true."""
    end = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return value


def note(job):
    """Say in the folder which process does this; the first two tasks wait for each other."""
    folder, name = job
    (folder / f"{name}.{os.getpid()}").touch()
    if name in ("0", "1"):
        until(lambda: list(folder.glob("0.*")) and list(folder.glob("1.*")))
    return name, os.getpid()


def hold(job):
    """Do not end before the folder has a file ``go``."""
    folder, name = job
    (folder / f"{name}.{os.getpid()}").touch()
    until((folder / "go").exists)
    return name


def die(job):
    """Kill this process if the job says so."""
    name, dies = job
    if dies:
        os.kill(os.getpid(), KILL)
    return name


def fail(job):
    raise SourceError(job, "has no voxels", "export it again")


def main(folder, address, work):
    """What a command does: work on three tasks, then say their names or the error."""
    tasks = [Task(name, (Path(folder), name), 1) for name in "abc"]
    try:
        results = list(run_on_cluster(globals()[work], tasks, address=address))
        sys.stdout.write(str(sorted(name for name, _ in results)))
    except ParamsError as error:
        sys.stdout.write(str(error))
