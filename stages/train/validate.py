"""Dice and IoU of whole cases, on the prepared grid, between epochs."""

import math
from dataclasses import asdict, dataclass

import torch
from torch import nn

from cache.reader import CaseStore
from stages.evaluate.overlap import overlap
from stages.evaluate.window import liver_probability
from stages.train.checkpoints.checkpoint import Row
from stages.train.device import network_on_hu
from stages.train.params import TrainParams
from stages.train.ranks import Ranks, everyones
from stages.train.stop import Stop

OVERLAP = 0.25  # of the window; evaluation has its own


@dataclass(frozen=True)
class Score:
    """How well one case was segmented.

    Attributes:
        case: its id.
        dice: NaN where there is no liver and none is found, 0 where only one of the two holds.
        iou: likewise.
    """

    case: str
    dice: float
    iou: float

    def saved(self) -> dict[str, str | float]:
        """As a checkpoint carries it."""
        return asdict(self)


@dataclass(frozen=True)
class Validation:
    """What is validated, and by whom.

    Attributes:
        store: that has the cases.
        case_ids: of all of them.
        params: the ``train`` section.
        device: where the network is.
        ranks: the processes that share the cases.
        stop: whether to leave off.
    """

    store: CaseStore
    case_ids: list[str]
    params: TrainParams
    device: torch.device
    ranks: Ranks
    stop: Stop

    def scores(self, network: nn.Module) -> list[Score] | None:
        """The score of every case, by sliding window; None if it was asked to stop meanwhile.

        All processes must call it, and all have the same result.
        """
        network.eval()
        own = [self._score(network, case_id) for case_id in self._own() if not self.stop.is_asked]
        parts = everyones((own, self.stop.is_asked), self.ranks)
        if any(is_asked for _, is_asked in parts):
            return None
        return sorted((score for part, _ in parts for score in part), key=lambda score: score.case)

    def _own(self) -> list[str]:
        return list(self.ranks.share(self.case_ids))

    def _score(self, network: nn.Module, case_id: str) -> Score:
        spec = self.params.spec
        probability = liver_probability(
            network_on_hu(network, spec, self.device),
            self.store.image(case_id),
            window_zyx=spec.patch_zyx,
            overlap=OVERLAP,
            smallest_side=spec.smallest_side,
            device=self.device,
        )
        counts = overlap(probability > 0.5, self.store.mask(case_id))
        return Score(case_id, counts.dice, counts.iou)


def mean_scores(scores: list[Score]) -> Row:
    """Means over the cases that count: those with liver, or in which some was found.

    Returns:
        ``validation/dice`` and ``validation/iou``; NaN if no case counts.
    """
    return {
        "validation/dice": _mean([score.dice for score in scores]),
        "validation/iou": _mean([score.iou for score in scores]),
    }


def _mean(values: list[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
