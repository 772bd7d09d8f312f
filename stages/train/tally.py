"""What an epoch's batches add up to, so far; it is saved with a run that stops in their midst."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Self

from stages.evaluate.overlap import Overlap
from stages.train.checkpoints.checkpoint import Row
from stages.train.step import Learnt

NOTHING = Overlap(0, 0, 0, 0)


@dataclass
class Tally:
    """Sums over the batches of an epoch.

    Attributes:
        loss: of every patch its batch's loss.
        patches: how many.
        counts: of their voxels.
        gradient_norm: of every step that moved the weights.
        steps: of the optimizer, those that moved them.
    """

    loss: float = 0.0
    patches: int = 0
    counts: Overlap = NOTHING
    gradient_norm: float = 0.0
    steps: int = 0

    @classmethod
    def of(cls, saved: dict[str, Any]) -> Self:
        """As it was saved; empty for an epoch that begins."""
        if not saved:
            return cls()
        return cls(**{**saved, "counts": Overlap(**saved["counts"])})

    def saved(self) -> dict[str, Any]:
        """As plain numbers."""
        return asdict(self)

    def add(self, learnt: Learnt) -> None:
        """Count a batch."""
        self.loss += learnt.loss * learnt.patches
        self.patches += learnt.patches
        self.counts += learnt.counts
        # a step of fp16 that overflowed was left out
        if learnt.gradient_norm is not None and math.isfinite(learnt.gradient_norm):
            self.gradient_norm += learnt.gradient_norm
            self.steps += 1

    @property
    def mean_loss(self) -> float:
        """Over patches."""
        return self.loss / self.patches

    def row(self) -> Row:
        """The epoch's figures.

        Returns:
            ``train/loss`` (mean over patches), ``train/gradient_norm`` (mean over steps, before
            clipping), and ``train/accuracy`` and ``train/iou`` of the liver, both from the voxel
            counts of the whole epoch.
        """
        return {
            "train/loss": self.mean_loss,
            "train/accuracy": self.counts.accuracy,
            "train/iou": self.counts.iou,
            "train/gradient_norm": self.gradient_norm / max(1, self.steps),
        }
