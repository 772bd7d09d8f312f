"""One worker process, and the pipe over which it is given jobs and answers them."""

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from stages.reuse import LARGEST, keep_freed_memory

SPAWN = get_context("spawn")  # on every system: forked children of a process with threads may hang
PATIENCE_S = 2.0  # for a terminated worker to end, before it is killed
STARTED = b"started"  # a worker's first message; no pickle begins with a letter


class WorkerEnded(Exception):  # noqa: N818 - it is named by what happened
    """A worker's process is no more.

    Attributes:
        exit_code: how it ended, as ``multiprocessing`` says it.
    """

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Raised:
    """What a worker sends in the place of a result; ``error`` is None if it does not pickle."""

    error: Exception | None
    text: str


@dataclass(eq=False)
class Worker:
    """A process and the pipe to it. ``answer`` is to be called when the pipe has something."""

    process: SpawnProcess
    pipe: Connection
    has_started: bool = False

    @classmethod
    def start(cls, work: Callable[[Any], Any]) -> "Worker":
        """Start a process that does this work, which it imports by its name."""
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(target=_serve, args=(work, theirs), daemon=True)
        process.start()
        theirs.close()  # else the pipe would not end when the worker does
        return cls(process, ours)

    def give(self, job: Any) -> None:
        """Let it do a job; the answer comes through the pipe."""
        pickled = pickle.dumps(job)
        with suppress(OSError):  # it was killed meanwhile: that shows when its answer is read
            self.pipe.send_bytes(pickled)

    def answer(self) -> list[Any]:
        """The next message: what the work returned or ``Raised``; nothing if it only started.

        Raises:
            WorkerEnded: it ended, before a message or in the middle of one.
            RuntimeError: it could not start.
        """
        try:
            message = self.pipe.recv_bytes()
        except (EOFError, OSError):
            raise WorkerEnded(self._exit_code()) from None
        if message == STARTED:
            self.has_started = True
            return []
        return [pickle.loads(message)]

    def close(self) -> int | None:
        """Terminate it, or kill it if that takes too long; its exit code."""
        self.process.terminate()
        self.process.join(PATIENCE_S)
        if self.process.is_alive():  # it is stopped, or a library holds signals back
            self.process.kill()
            self.process.join()
        self.pipe.close()
        return self.process.exitcode

    def _exit_code(self) -> int | None:
        self.process.join(PATIENCE_S)  # its pipe ends a little earlier than it does
        exit_code = self.close()
        if exit_code == 1 and not self.has_started:  # as Python ends after an exception
            raise RuntimeError(
                "a worker process could not start; what it printed says why. A script that has"
                ' workers must be a file that starts them under `if __name__ == "__main__":`'
            )
        return exit_code


@contextmanager
def interrupt_held() -> Iterator[None]:
    """Hold Ctrl-C back until the end of the block, and in a process that is started in it.

    So a worker is not interrupted while it still imports, and none is started but not listed.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # starting the first process would start it, and let go
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(work: Callable[[Any], Any], pipe: Connection) -> None:
    """What a worker does: one task after another, as long as its parent lives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    keep_freed_memory(most_bytes=LARGEST, one_arena=True)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        pipe.send_bytes(STARTED)
        while True:
            pipe.send_bytes(_answer(work, pipe.recv_bytes()))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None  # a worker has one
    parent.join()
    os._exit(1)  # the main thread may be deep in a case, which nobody wants any more


def _answer(work: Callable[[Any], Any], job: bytes) -> bytes:
    try:
        return pickle.dumps(work(pickle.loads(job)))
    except Exception as error:
        return pickle.dumps(Raised(_picklable(error), traceback.format_exc()))


def _picklable(error: Exception) -> Exception | None:
    """The error if it survives pickling, which one with arguments of its own may not."""
    try:
        return error if isinstance(pickle.loads(pickle.dumps(error)), type(error)) else None
    except Exception:
        return None
