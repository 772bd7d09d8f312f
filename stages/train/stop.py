"""Being asked to stop: by a cluster's scheduler, or by the one at the keyboard."""

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

# SIGUSR1 is what Slurm's --signal sends before the time is up; Windows has it not, but SIGBREAK
NAMES = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGBREAK")


class Stopped(Exception):  # noqa: N818 - it is no error
    """Training ended before it was done, all of it saved."""


class Stop:
    """Whether somebody asked.

    Attributes:
        signal: the name of the signal that came; None so far.
    """

    def __init__(self) -> None:
        self.signal: str | None = None

    @property
    def is_asked(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None

    def ask(self, name: str) -> None:
        """Take note of a signal."""
        self.signal = name


@contextmanager
def listening() -> Iterator[Stop]:
    """Meanwhile, a signal to end is taken as a request; a second Ctrl-C has its usual effect.

    A signal that is ignored stays so, as Ctrl-C is by what a shell script runs in the background:
    it is for the program in front. Outside the main thread, where Python takes no signals,
    nothing is changed.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    handlers = {number: signal.getsignal(number) for number in numbers}
    before = {
        number: handler
        for number, handler in handlers.items()
        if handler not in (signal.SIG_IGN, None)  # None: set by other code than Python's
    }

    def take(number: int, _: FrameType | None) -> None:
        stop.ask(signal.Signals(number).name)
        # a scheduler may tell a process twice, once by its parent; a person who insists means it
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])

    for number in before:
        signal.signal(number, take)
    try:
        yield stop
    finally:
        _restore(before)


def _restore(handlers: Mapping[signal.Signals, "signal._HANDLER"]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
