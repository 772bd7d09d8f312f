"""One batch of training: forward, loss, backward, and with a group's last one the update."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from stages.evaluate.overlap import Overlap
from stages.train.augment.apply import network_input
from stages.train.average import Average
from stages.train.device import autocast
from stages.train.losses import Loss
from stages.train.optimizer import Rate, set_rate
from stages.train.params import TrainParams
from stages.train.ranks import Ranks, summed
from stages.train.sample import Batch
from stages.train.tune import Engine

SMALLEST_SCALE = 1.0  # of fp16's gradients; below it they are no longer enlarged but lost


@dataclass(frozen=True)
class Trainer:
    """What a training step needs, made once; what changes in it is what a checkpoint carries.

    Attributes:
        network: as it is saved.
        forward: the same network as a step calls it, perhaps compiled, perhaps joined to others.
        loss: what is minimised.
        optimizer: of the network's weights.
        rate: learning rate of a step.
        scaler: of fp16's gradients, which else vanish; None in other precisions.
        average: of the weights; None where they are not averaged.
        params: the ``train`` section.
        device: where all of it is.
        ranks: the processes that train together.
        engine: how the network computes.
    """

    network: nn.Module
    forward: nn.Module
    loss: Loss
    optimizer: Optimizer
    rate: Rate
    scaler: GradScaler | None
    average: Average | None
    params: TrainParams
    device: torch.device
    ranks: Ranks
    engine: Engine

    @property
    def model(self) -> nn.Module:
        """The network to validate and to keep: the averaged one where there is one."""
        return self.network if self.average is None else self.average.network


@dataclass(frozen=True)
class Group:
    """A batch's place among those whose gradients make one step of the optimizer.

    Attributes:
        size: batches of the group.
        is_last: whether the step follows this batch.
        step: steps done before it.
    """

    size: int
    is_last: bool
    step: int


@dataclass(frozen=True)
class News:
    """What one process tells the others with every batch; added up, it holds for all of them.

    Attributes:
        elapsed_s: seconds trained by the first process' clock, 0 from the others.
        is_asked_to_stop: whether a signal came.
    """

    elapsed_s: float = 0.0
    is_asked_to_stop: bool = False


@dataclass(frozen=True)
class Learnt:
    """What is known after a batch, of the patches of all processes.

    Attributes:
        loss: of the batch.
        gradient_norm: before clipping, where a step followed; else None.
        patches: of the batch.
        counts: of its voxels.
        news: of all processes.
    """

    loss: float
    gradient_norm: float | None
    patches: int
    counts: Overlap
    news: News


class NotFinite(Exception):  # noqa: N818 - the loop names the cases and raises what people read
    """The loss or the gradient is not finite; the weights are as they were before the step."""


def train_batch(trainer: Trainer, batch: Batch, group: Group, news: News) -> Learnt:
    """Learn from one batch.

    The loss is of the whole batch, of which this process may hold some patches alone, and so are
    the figures. With an accumulating group the gradient is the mean of its batches'.

    Raises:
        NotFinite: before the weights are changed.
    """
    inputs, mask = network_input(batch, trainer.params.hu_window)
    with _joined_at(trainer, is_last=group.is_last):
        with autocast(trainer.params, trainer.device):
            logits = trainer.forward(inputs)
        own = trainer.loss.sums(logits.float(), mask)
        told = _told(own, logits.detach(), mask, news)
        total = summed(told, trainer.ranks)
        # the others' patches count in the loss, but their gradient is their own business
        others = (total[: len(own)] - own.detach()).to(own.dtype) if trainer.ranks.count > 1 else 0
        loss = trainer.loss.value(own + others)
        # the processes' gradients will be averaged, where their sum is wanted
        scaled = loss * (trainer.ranks.count / group.size)
        (trainer.scaler.scale(scaled) if trainer.scaler else scaled).backward()  # type: ignore[no-untyped-call]
    norm = _gradient_norm(trainer) if group.is_last else None
    learnt = _learnt(loss, norm, total[len(own) :])
    _require_finite(learnt, trainer.scaler)
    if norm is not None:
        set_rate(trainer.optimizer, trainer.rate(group.step, _time_share(trainer, learnt.news)))
        _update(trainer, norm)
        if trainer.average:
            trainer.average.add(trainer.network, group.step)
    return learnt


def _told(own: Tensor, logits: Tensor, mask: Tensor, news: News) -> Tensor:
    """All that the processes add up for a batch, in one vector."""
    liver, truth = logits[:, 1] > logits[:, 0], mask.bool()
    counts = torch.stack([(liver & truth).sum(), liver.sum(), truth.sum()])
    known = [mask.numel(), len(mask), news.elapsed_s, news.is_asked_to_stop]
    rest = torch.tensor(known, dtype=torch.float64).to(own.device, non_blocking=True)
    return torch.cat([own.detach().double(), counts.double(), rest])


def _learnt(loss: Tensor, norm: Tensor | None, told: Tensor) -> Learnt:
    """Everything as numbers, with one transfer from the device."""
    figures = [loss.detach().double(), *([] if norm is None else [norm.double()])]
    numbers = torch.cat([told, torch.stack(figures)]).tolist()
    both, predicted, true, voxels, patches = map(int, numbers[:5])
    return Learnt(
        loss=numbers[7],
        gradient_norm=None if norm is None else numbers[8],
        patches=patches,
        counts=Overlap(both, predicted - both, true - both, voxels - predicted - true + both),
        news=News(numbers[5], numbers[6] > 0),
    )


def _gradient_norm(trainer: Trainer) -> Tensor:
    """The norm of the whole gradient, which is brought to its true size before."""
    if trainer.scaler:
        trainer.scaler.unscale_(trainer.optimizer)
    weights = trainer.network.parameters()
    return get_total_norm([weight.grad for weight in weights if weight.grad is not None])


def _require_finite(learnt: Learnt, scaler: GradScaler | None) -> None:
    if not math.isfinite(learnt.loss):
        raise NotFinite(f"the loss became {learnt.loss}")
    if learnt.gradient_norm is None or math.isfinite(learnt.gradient_norm):
        return
    # fp16 overflows now and then: the scaler leaves that step out and takes a smaller scale
    if scaler is None or scaler.get_scale() < SMALLEST_SCALE:
        raise NotFinite(f"the gradient became {learnt.gradient_norm}")


def _update(trainer: Trainer, norm: Tensor) -> None:
    """Move the weights."""
    if trainer.params.clip_norm is not None:
        clip_grads_with_norm_(trainer.network.parameters(), trainer.params.clip_norm, norm)
    if trainer.scaler:
        trainer.scaler.step(trainer.optimizer)
        trainer.scaler.update()
    else:
        trainer.optimizer.step()
    trainer.optimizer.zero_grad(set_to_none=True)


@contextmanager
def _joined_at(trainer: Trainer, *, is_last: bool) -> Iterator[None]:
    """Exchange gradients with the other processes once for a group, with its last batch."""
    if isinstance(trainer.forward, DistributedDataParallel) and not is_last:
        with trainer.forward.no_sync():
            yield
    else:
        yield


def _time_share(trainer: Trainer, news: News) -> float:
    minutes = trainer.params.max_minutes
    return 0.0 if minutes is None else news.elapsed_s / (60 * minutes)
