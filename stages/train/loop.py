"""The training loop, in the order things happen."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from cache.errors import ModelError
from cache.reader import CaseStore
from stages.evaluate.overlap import Overlap, overlap
from stages.evaluate.window import liver_probability
from stages.train.augment.apply import network_input
from stages.train.checkpoint import Row
from stages.train.device import autocast, network_on_hu
from stages.train.loader.meter import Meter
from stages.train.losses import Loss
from stages.train.params import TrainParams
from stages.train.sample import Batch

VALIDATION_OVERLAP = 0.25  # of the window; evaluation has its own
NOTHING = Overlap(0, 0, 0, 0)


@dataclass(frozen=True)
class Trainer:
    """What a training step needs, made once."""

    network: nn.Module
    loss: Loss
    optimizer: Optimizer
    schedule: LRScheduler
    params: TrainParams
    device: torch.device


def train_epoch(
    trainer: Trainer, batches: Iterable[Batch], meter: Meter, progress: "tqdm[Any]"
) -> Row:
    """One pass over the plan's batches, whose loader's waiting the meter knows.

    Returns:
        ``train/loss`` (mean over patches), ``train/accuracy`` and ``train/iou`` of the liver,
        both from the voxel counts of the whole epoch.

    Raises:
        ModelError: the loss is no longer a number.
    """
    trainer.network.train()
    loss_sum, patches, counts = 0.0, 0, NOTHING
    for batch in batches:
        loss, logits, mask = train_step(trainer, batch)
        value = loss.item()
        if not math.isfinite(value):
            raise _diverged(value, batch)
        loss_sum += value * len(batch.case_ids)
        patches += len(batch.case_ids)
        counts += _counts(logits, mask)
        progress.set_postfix(
            loss=f"{loss_sum / patches:.4f}",
            acc=f"{counts.accuracy:.4f}",
            iou=f"{counts.iou:.3f}",
            wait=f"{meter.waiting_share:.1%}",
            refresh=False,
        )
        progress.update()
    mean_loss = loss_sum / patches
    return {"train/loss": mean_loss, "train/accuracy": counts.accuracy, "train/iou": counts.iou}


def train_step(trainer: Trainer, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """One optimizer update. Returns the loss, the detached logits, and the mask they are for."""
    inputs, mask = network_input(batch, trainer.params.hu_window)
    trainer.optimizer.zero_grad(set_to_none=True)
    with autocast(trainer.params, trainer.device):
        logits = trainer.network(inputs)
        loss = trainer.loss(logits.float(), mask)
    loss.backward()  # type: ignore[no-untyped-call]
    trainer.optimizer.step()
    trainer.schedule.step()
    return loss.detach(), logits.detach(), mask


def validate(
    network: nn.Module,
    store: CaseStore,
    case_ids: list[str],
    *,
    params: TrainParams,
    device: torch.device,
) -> Row:
    """Mean Dice and IoU over whole cases, on the prepared grid.

    A case in which there is no liver and none is found does not count; liver found where there
    is none counts as 0.

    Returns:
        ``validation/dice`` and ``validation/iou``; NaN if no case counts.
    """
    network.eval()
    on_hu = network_on_hu(network, params, device)
    scores = []
    for case_id in case_ids:
        probability = liver_probability(
            on_hu,
            store.image(case_id),
            window_zyx=params.patch_zyx,
            overlap=VALIDATION_OVERLAP,
            device=device,
        )
        scores.append(overlap(probability > 0.5, store.mask(case_id)))
    return {
        "validation/dice": _mean([score.dice for score in scores]),
        "validation/iou": _mean([score.iou for score in scores]),
    }


def _counts(logits: Tensor, mask: Tensor) -> Overlap:
    """Voxel counts of a batch, with one transfer from the device."""
    liver, truth = logits.argmax(dim=1).bool(), mask.bool()
    both, predicted, true = torch.stack([(liver & truth).sum(), liver.sum(), truth.sum()]).tolist()
    return Overlap(both, predicted - both, true - both, mask.numel() - predicted - true + both)


def _mean(values: list[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _diverged(value: float, batch: Batch) -> ModelError:
    cases = ", ".join(sorted(set(batch.case_ids)))
    return ModelError(
        "train.lr",
        f"the loss became {value} on a batch of {cases}",
        "lower train.lr, set train.hu_window, or look at these cases",
    )
