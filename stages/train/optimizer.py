"""How the weights are moved, and how fast at which step."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.optim import Optimizer

from stages.train.params import TrainParams

POLY_POWER = 0.9  # nnU-Net's
Rate = Callable[[int, float], float]


def make_optimizer(weights: Iterable[nn.Parameter], params: TrainParams) -> Optimizer:
    """The optimizer that ``train.optimizer`` names.

    Weight decay is added to the gradient by ``adam`` and ``sgd``, and applied apart from it by
    ``adamw`` (Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019).
    """
    if params.optimizer == "sgd":
        return torch.optim.SGD(
            weights,
            lr=params.lr,
            momentum=params.momentum,
            nesterov=params.momentum > 0,
            weight_decay=params.weight_decay,
        )
    kind = torch.optim.AdamW if params.optimizer == "adamw" else torch.optim.Adam
    return kind(weights, lr=params.lr, weight_decay=params.weight_decay)


def make_rate(params: TrainParams, steps: int) -> Rate:
    """The learning rate of a step, a pure function: there is no scheduler to save or to restore.

    Args:
        params: the ``train`` section.
        steps: of the optimizer, in the whole run.

    Returns:
        A function of the number of steps done before, and of the share of ``max_minutes`` that
        has passed (0 without that limit); whichever is further decides how far the schedule is.
    """

    def rate(step: int, time_share: float) -> float:
        if step < params.warmup_steps:
            return params.lr * ((step + 1) / params.warmup_steps)
        left = max(1, steps - params.warmup_steps)
        done = min(1.0, max((step - params.warmup_steps) / left, time_share))
        return params.lr * _factor(params.schedule, done)

    return rate


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Let the next step be of this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def _factor(schedule: str, done: float) -> float:
    """Of the learning rate, when this share of the run is done."""
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return float((1 - done) ** POLY_POWER) if schedule == "poly" else 1.0
