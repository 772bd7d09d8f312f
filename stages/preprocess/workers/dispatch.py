"""Giving the cases to workers, here or on a cluster."""

import logging
from collections.abc import Iterator

from tqdm import tqdm
from tqdm.contrib.logging import tqdm_logging_redirect

from stages.machine import free_memory_bytes
from stages.preprocess.case import work
from stages.preprocess.outcome import Job, Outcome
from stages.preprocess.problems import Problem
from stages.preprocess.workers.cluster import run_on_cluster
from stages.preprocess.workers.estimate import announced, need_of
from stages.preprocess.workers.tasks import Killed, Task, run_tasks

LOG = logging.getLogger(__name__)
MEMORY_SHARE = 0.8  # of what is free: estimates err, and the system wants some too


def worked(
    jobs: list[Job], total: int, *, workers: int, scheduler: str | None
) -> Iterator[Outcome]:
    """The outcomes of the cases that need work, as they end.

    Args:
        jobs: these cases.
        total: how many cases there are in all; the others are unchanged.
        workers: processes at a time on this machine.
        scheduler: address of a Dask scheduler whose workers do it instead.
    """
    if not jobs:
        return
    needs = [need_of(job.files, job.params) for job in jobs]
    here = workers if scheduler is None else None  # of a cluster's workers there may be any number
    LOG.info("%s", announced(needs, jobs[0].out, workers=here, kept=total - len(jobs)))
    tasks = [
        Task(job.files.case_id, job, need.memory_bytes)
        for job, need in zip(jobs, needs, strict=True)
    ]
    if scheduler is None:
        budget = int(free_memory_bytes() * MEMORY_SHARE)
        results = run_tasks(work, tasks, workers=workers, budget_bytes=budget)
    else:
        results = run_on_cluster(work, tasks, address=scheduler)
    with tqdm_logging_redirect(
        results, "preprocess", len(tasks), unit="case", disable=None, tqdm_class=tqdm
    ) as bar:
        for result in bar:
            if isinstance(result, Killed):
                free_bytes = free_memory_bytes() if scheduler is None else None
                yield given_up(result, free_bytes)
            else:
                yield result


def given_up(killed: Killed, free_bytes: int | None) -> Outcome:
    """What becomes of a case whose processes were killed.

    Args:
        killed: the case's task and how the last process ended.
        free_bytes: memory of the machine it was prepared on; None where that is another machine.
    """
    task, files = killed.task, killed.task.job.files
    code = "" if killed.exit_code is None else f" (exit code {killed.exit_code})"
    free = "" if free_bytes is None else f", {free_bytes / 1e9:.1f} GB are free"
    fact = (
        f"every process that prepared it was killed, the last one alone with it{code}; "
        f"it needs about {task.need_bytes / 1e9:.1f} GB{free}"
    )
    fix = "prepare it on a machine with more memory, or list the case under data.exclude"
    return Outcome(files, [Problem("skipped", "killed", files.case_id, str(files.ct), fact, fix)])
