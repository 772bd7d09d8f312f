"""Tasks done by worker processes, of which any may be killed without harm to the others.

A ``ProcessPoolExecutor`` loses what all its workers hold when one of them is killed, and cannot
say which of the tasks it was that did not fit into the memory. Here each worker has a pipe of its
own and one task at a time, so a pipe that ends names the task.
"""

import logging
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any, Generic, TypeVar

from cache.errors import DataError
from stages.preprocess.workers.process import Raised, Worker, WorkerEnded, interrupt_held

J = TypeVar("J")  # a job: what the work is called with
R = TypeVar("R")  # what it returns

LOG = logging.getLogger(__name__)
MOST_ON_WINDOWS = 61  # ProcessPoolExecutor's limit: Windows waits for 63 things at once
OVERTAKINGS = 32  # how many smaller tasks may start before one that is waiting for memory


@dataclass(frozen=True)
class Task(Generic[J]):
    """One piece of work.

    Attributes:
        name: what messages call it; for a case, its id.
        job: what the work is called with. It travels to another process by pickle.
        need_bytes: memory it takes at its peak.
    """

    name: str
    job: J
    need_bytes: int


@dataclass(frozen=True)
class Killed:
    """A task without a result, because every process that did it was killed.

    Attributes:
        task: the task.
        exit_code: how the last process ended, as ``multiprocessing`` says it: the negative number
            of a signal, -9 where the system ran out of memory; None where nobody can tell.
    """

    task: Task[Any]
    exit_code: int | None


class WorkFailed(Exception):  # noqa: N818 - it is named by what happened
    """An exception in a worker that is not a fault of the data; it has the worker's traceback."""


@dataclass(frozen=True)
class Done(Generic[J]):
    """A task that was done, and the work's result or what it ``Raised``."""

    task: Task[J]
    answer: Any


def run_tasks(
    work: Callable[[J], R], tasks: Iterable[Task[J]], *, workers: int, budget_bytes: int
) -> Iterator[R | Killed]:
    """Do the work for every task; give the results as they come.

    With one worker the work is done in this process, in the order of the tasks. Otherwise a task
    whose process is killed is tried once more, alone, when all others are done; also a single task,
    which may be the very one that was killed in the run before. When the iterator is closed, by
    ``close()`` or by an exception that ends its consumer, the
    workers are terminated at once. When this process is killed, they end by themselves.

    Args:
        work: a function that can be imported by its name, since each worker does that.
        tasks: what to do; a small task may overtake one that does not fit yet.
        workers: processes at a time.
        budget_bytes: what the tasks being done at the same time may need together. A task that
            needs more is done while no other is.

    Yields:
        Each task's result, or how the second process that did it was killed.

    Raises:
        DataError, OSError: raised by the work, as they are.
        WorkFailed: any other exception of the work in a worker; its cause is the original.
        RuntimeError: the workers cannot start.
    """
    waiting = list(tasks)
    most = MOST_ON_WINDOWS if sys.platform == "win32" else len(waiting)
    if workers <= 1 or not waiting:
        yield from (work(task.job) for task in waiting)
        return
    with closing(Crew(work, min(workers, len(waiting), most))) as crew:
        lost = yield from _together(crew, Queue(waiting, budget_bytes))
    for task in lost:
        yield _alone(work, task)


@dataclass
class Queue(Generic[J]):
    """Tasks that wait for memory, the first come first.

    Attributes:
        waiting: the tasks, in their order.
        budget_bytes: what the tasks being done may need together.
        overtaken: how many tasks have started before the first of ``waiting``.
    """

    waiting: list[Task[J]]
    budget_bytes: int
    overtaken: int = 0

    def take(self, needed_bytes: list[int]) -> Task[J] | None:
        """The next task that may start beside those that need so much; None if none may yet.

        A task that does not fit lets others pass only so many times. Then nothing starts until
        enough of those being done have ended, so that no task waits for ever.
        """
        left = self.budget_bytes - sum(needed_bytes)
        reach = len(self.waiting) if self.overtaken < OVERTAKINGS else 1
        for place, task in enumerate(self.waiting[:reach]):
            if task.need_bytes <= left or not needed_bytes:
                self.overtaken = self.overtaken + 1 if place else 0
                return self.waiting.pop(place)
        return None


@dataclass
class Crew(Generic[J]):
    """Up to ``most`` workers that do the same work; one is started when it is first needed."""

    work: Callable[[J], Any]
    most: int
    idle: list[Worker] = field(default_factory=list)
    busy: dict[Worker, Task[J]] = field(default_factory=dict)

    def give_out(self, queue: Queue[J]) -> None:
        """Let workers do tasks, as many as the memory and the number of workers allow."""
        while len(self.busy) < self.most:
            task = queue.take([task.need_bytes for task in self.busy.values()])
            if task is None:
                return
            if not self.idle:
                with interrupt_held():  # none is started but not listed
                    self.idle.append(Worker.start(self.work))
            worker = self.idle.pop()
            self.busy[worker] = task
            worker.give(task.job)

    def ended(self) -> list[Done[J] | Killed]:
        """Wait for messages from workers; the tasks that have ended, of which there may be none.

        Raises:
            RuntimeError: a worker cannot start.
        """
        ready = wait([worker.pipe for worker in self.busy])
        return [
            one for worker in list(self.busy) if worker.pipe in ready for one in self._ended(worker)
        ]

    def close(self) -> None:
        """Terminate all workers, whatever they do, and wait until they are gone."""
        workers = [*self.idle, *self.busy]
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.close()

    def _ended(self, worker: Worker) -> list[Done[J] | Killed]:
        task = self.busy[worker]
        try:
            answers = worker.answer()
        except WorkerEnded as end:
            del self.busy[worker]
            return [Killed(task, end.exit_code)]
        if answers:
            del self.busy[worker]
            self.idle.append(worker)
        return [Done(task, answer) for answer in answers]


def _together(crew: Crew[J], queue: Queue[J]) -> Generator[Any, None, list[Task[J]]]:
    """The results of the tasks, as they come; returns those whose process was killed."""
    done: list[Done[J]] = []
    lost: list[Task[J]] = []
    while True:
        crew.give_out(queue)
        yield from map(_result, done)  # only now, so that no worker waits for the consumer
        if not crew.busy:
            return lost
        done = []
        for one in crew.ended():
            if isinstance(one, Done):
                done.append(one)
                continue
            lost.append(one.task)
            again = "it is tried again when all others are done, alone"
            LOG.warning("%s: its process was killed (%s); %s", one.task.name, one.exit_code, again)


def _alone(work: Callable[[J], R], task: Task[J]) -> R | Killed:
    """The result of a task in a process of its own, or how that was killed too."""
    with closing(Crew(work, 1)) as crew:
        crew.give_out(Queue([task], task.need_bytes))
        ended: list[Done[J] | Killed] = []
        while not ended:
            ended = crew.ended()
    (one,) = ended
    return one if isinstance(one, Killed) else _result(one)


def _result(done: Done[Any]) -> Any:
    """What the work returned, or raised."""
    raised = done.answer
    if not isinstance(raised, Raised):
        return raised
    if isinstance(raised.error, (DataError, OSError)):
        raise raised.error
    raise WorkFailed(f"{done.task.name}: in a worker:\n{raised.text}") from raised.error
