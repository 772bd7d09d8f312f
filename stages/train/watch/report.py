"""How a run goes, told to whoever looks: the bar, the log, the curves, the trackers."""

import logging
import time
from pathlib import Path

import torch

from stages.train.checkpoints.checkpoint import Checkpoint, Row
from stages.train.ranks import Ranks
from stages.train.watch.bar import Bar
from stages.train.watch.curves import write_curves
from stages.train.watch.trackers import Trackers

LOG = logging.getLogger(__name__)
REDRAW_S = 10  # between two pictures, each of which takes a quarter of a second
QUIET = ("loader/", "time/")  # groups for the curves alone, but for waiting


class Reporter:
    """Tells the state after every epoch; of several processes only the first one does."""

    def __init__(self, curves: Path, trackers: Trackers, ranks: Ranks) -> None:
        """Say where the curves go and who else is told."""
        self._curves = curves
        self._trackers = trackers
        self._is_first = ranks.rank == 0
        self._drawn = 0.0

    def bar(self, steps: int | None, done: int, device: torch.device) -> Bar:
        """The progress bar; ``steps`` is None where the clock ends the run."""
        return Bar(steps=steps, done=done, device=device, is_shown=self._is_first)

    def begin(self, state: Checkpoint) -> None:
        """Tell what was done before: a resumed run has no gap and no doubled row."""
        if self._is_first:
            self._write(state, picture=True)
            self._trackers.begin(state.history)

    def tell(self, state: Checkpoint) -> None:
        """Tell what the last epoch brought."""
        if not self._is_first:
            return
        self._write(state, picture=time.monotonic() - self._drawn >= REDRAW_S)
        self._trackers.tell(state.history[-1])
        LOG.info("%s", _line(state.history[-1]))

    def end(self, state: Checkpoint) -> None:
        """Draw what the last epochs brought."""
        if self._is_first:
            self._write(state, picture=True)

    def _write(self, state: Checkpoint, *, picture: bool) -> None:
        write_curves(self._curves, state.history, state.validations, picture=picture)
        if picture:
            self._drawn = time.monotonic()


def _line(row: Row) -> str:
    told = {name: value for name, value in row.items() if not name.startswith(QUIET)}
    told["waiting"] = row["loader/waiting"]
    return ", ".join(f"{name} {value:.4g}" for name, value in told.items())
