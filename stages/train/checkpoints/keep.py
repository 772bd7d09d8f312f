"""What is written of a run, and when: ``last.pt``, ``best.pt``, and what the notebook kept."""

import math
import time
from dataclasses import replace
from pathlib import Path

from stages.train.checkpoints.checkpoint import Checkpoint, Row, cpu_state, save_checkpoint
from stages.train.checkpoints.earlier import BEST, LAST, PREVIOUS, SPLIT, put_aside
from stages.train.split import Split, write_split
from stages.train.step import Trainer


class Keeper:
    """Writes the checkpoints of a run; of several processes only the first one does."""

    def __init__(self, models: Path, trainer: Trainer, *, is_fresh: bool) -> None:
        """Say where to write; nothing is touched before the first checkpoint.

        Args:
            models: the folder.
            trainer: whose weights and states are saved.
            is_fresh: whether this run has no checkpoint there yet, but another run may have.
        """
        self._models = models
        self._trainer = trainer
        self._is_fresh = is_fresh
        self._is_writer = trainer.ranks.rank == 0
        self._saved = time.monotonic()

    def is_due(self) -> bool:
        """Whether ``save_minutes`` have passed since the last checkpoint."""
        passed = time.monotonic() - self._saved
        return self._is_writer and passed >= 60 * self._trainer.params.save_minutes

    def save(self, state: Checkpoint) -> None:
        """Write ``last.pt``; the one before stays as ``previous.pt``.

        Raises:
            ModelError: the disk refused it.
        """
        if not self._is_writer:
            return
        self._begin(state)
        save_checkpoint(self._models / LAST, self._full(state), previous=self._models / PREVIOUS)
        self._saved = time.monotonic()

    def keep(self, state: Checkpoint) -> None:
        """Write what an epoch leaves: ``best.pt`` and the notebook's file if due, then ``last.pt``.

        Raises:
            ModelError: the disk refused it.
        """
        if not self._is_writer:
            return
        self._begin(state)
        row = state.history[-1]
        # last.pt comes last: a crash before it repeats the epoch and writes the same files again
        if _is_best(state):
            save_checkpoint(self._models / BEST, self._full(state).to_keep())
        least = self._trainer.params.keep_above_iou
        if least is not None and row.get("validation/iou", math.nan) > least:
            save_checkpoint(self._models / notebook_name(row), self._full(state).to_keep())
        self.save(state)

    def _full(self, state: Checkpoint) -> Checkpoint:
        """The state with all weights and what belongs to them."""
        average = self._trainer.average
        return replace(
            state,
            model=cpu_state(self._trainer.network),
            average={} if average is None else cpu_state(average.network),
            optimizer=self._trainer.optimizer.state_dict(),
            scaler=self._trainer.scaler.state_dict() if self._trainer.scaler else {},
        )

    def _begin(self, state: Checkpoint) -> None:
        """Before a fresh run's first file: put aside what another run left, and say who trains."""
        if not self._is_fresh:
            return
        put_aside(self._models)
        write_split(self._models / SPLIT, Split(**state.split))
        self._is_fresh = False


def _is_best(state: Checkpoint) -> bool:
    """Whether the last epoch is the first with the best Dice so far; or none has had a Dice."""
    if state.best_dice is None:
        return True
    equals = (row for row in state.history if row.get("validation/dice") == state.best_dice)
    return next(equals, None) is state.history[-1]


def notebook_name(row: Row) -> str:
    """The name under which the notebook kept an epoch; what it called test is validation here."""
    return (
        f"{row['epoch']:.0f}_trainIOU_{row['train/iou']:.3f}"
        f"_testIOU_{row['validation/iou']:.3f}.pth"
    )
