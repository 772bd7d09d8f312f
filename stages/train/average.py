"""Averaged weights: what the steps have in common, without what each of them overdid."""

import copy

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """An exponential moving average of a network's weights.

    Attributes:
        network: with the averaged weights; it is the one to validate and to keep.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Begin with the network's present weights.

        Args:
            network: whose weights are averaged; it is left alone.
            decay: share of the average that a step leaves, below one.
        """
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._decay = decay

    def add(self, network: nn.Module, step: int) -> None:
        """Take in the weights after a step.

        Args:
            network: with the new weights.
            step: steps done before this one. The first ones count for more, so that the average
                soon forgets the weights it began with: decay is at most (1 + step) / (10 + step).
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        averaged, new = list(self.network.parameters()), list(network.parameters())
        get_ema_multi_avg_fn(decay)(averaged, new, None)  # type: ignore[no-untyped-call]
