"""Whether training can go on from a checkpoint: what ``last.pt`` alone holds is looked at.

A digest says that a file is as it was written, not that a training wrote it: a copy of ``best.pt``
under the name ``last.pt`` has the same run key and nothing of the optimizer.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cache.errors import ModelError
from stages.evaluate.overlap import Overlap
from stages.train.checkpoints.checkpoint import Checkpoint, load_checkpoint
from stages.train.networks import make_network
from stages.train.params import TrainParams

FIX = "restore it from a copy, or move it away to start afresh"
ADAM = ("exp_avg", "exp_avg_sq")  # and adamw's
SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}
TALLY = {"loss", "patches", "counts", "gradient_norm", "steps"}


def load_unfinished(path: Path, start: Checkpoint) -> Checkpoint:
    """Read a checkpoint; if it is of the run that begins with ``start``, that can go on from it.

    Raises:
        ModelError: there is no whole checkpoint, or it has the run's key and not what the run
            would have left.
        OSError: the disk refused it.
    """
    last = load_checkpoint(path)
    if last.run_key == start.run_key and (fault := next(_faults(last, start), None)) is not None:
        raise ModelError(path, f"is nothing that this run can go on from: {fault}", FIX)
    return last


def require_place(path: Path, last: Checkpoint, *, batches: int, accumulate: int) -> None:
    """Refuse a place in an epoch at which no run was ever saved.

    Args:
        path: of the checkpoint, for the message.
        last: where the run is.
        batches: of an epoch, at most: of several processes a small rest is left out.
        accumulate: batches per step; only after a step is a run saved.

    Raises:
        ModelError: names the batch.
    """
    if last.batch > batches or (last.batch < batches - 1 and last.batch % accumulate):
        fact = f"says that {last.batch} batches of an epoch are done; an epoch has {batches}"
        raise ModelError(path, f"{fact}, and a step takes {accumulate}", FIX)


def _faults(last: Checkpoint, start: Checkpoint) -> Iterator[str]:
    """What keeps a run from going on from there, in words."""
    for name in ("seed", "split", "spec", "preprocess", "data_digest"):
        if getattr(last, name) != getattr(start, name):
            yield f"its {name} is not that of the run whose key it has"
    params = TrainParams.model_validate(start.train)
    yield from _faults_of_place(last, params)
    if last.epoch == last.batch == 0:
        return
    if bool(last.average) != (params.ema is not None):
        yield "averaged weights are missing" if params.ema else "it has averaged weights"
    if last.scaler and not (last.scaler.keys() == SCALER and _are_numbers(last.scaler)):
        yield "the state of the gradient scaler is none"
    yield from _faults_of_optimizer(last, params)


def _faults_of_place(last: Checkpoint, params: TrainParams) -> Iterator[str]:
    if last.epoch > params.epochs:
        yield f"it has {last.epoch} epochs of {params.epochs}"
    if [row["epoch"] for row in last.history] != list(range(1, last.epoch + 1)):
        yield f"it says {last.epoch} epochs, and has curves of {len(last.history)}"
    if not (math.isfinite(last.trained_s) and math.isfinite(last.best_dice or 0.0)):
        yield "its training time or best Dice is not finite"
    if bool(last.tally) != (last.batch > 0) or (last.tally and not _is_tally(last.tally)):
        yield "what the batches of its epoch add up to is missing or makes no sense"


def _is_tally(tally: dict[str, Any]) -> bool:
    counts = tally.get("counts")
    if tally.keys() != TALLY or not isinstance(counts, dict):
        return False
    if counts.keys() != {one.name for one in fields(Overlap)}:
        return False
    numbers = {**tally, **counts}
    del numbers["counts"]
    return _are_numbers(numbers) and tally["patches"] > 0 and min(numbers.values()) >= 0


def _are_numbers(values: Mapping[str, Any]) -> bool:
    return all(type(one) in (int, float) and math.isfinite(one) for one in values.values())


def _faults_of_optimizer(last: Checkpoint, params: TrainParams) -> Iterator[str]:
    state, groups = last.optimizer.get("state"), last.optimizer.get("param_groups")
    if not isinstance(state, dict) or not isinstance(groups, list):
        yield "it has no state of the optimizer, as best.pt has none"
        return
    with torch.device("meta"):
        shapes = [one.shape for one in make_network(params.spec).parameters()]
    if [one.get("params") for one in groups if isinstance(one, dict)] != [list(range(len(shapes)))]:
        yield "the optimizer's weights are not those of the network"
    elif not _are_numbers({"lr": groups[0].get("lr")}) or groups[0]["lr"] < 0:
        yield "the optimizer's learning rate is not finite"
    names = _moments(params)
    # of fp16 every step so far may have been left out
    if names and state.keys() != set(range(len(shapes))) and (state or not last.scaler):
        yield "the optimizer has no state of some weights"
        return
    for number in state if names else ():
        if not _is_state(state[number], names, shapes[number]):
            yield f"the optimizer's state of weight {number} makes no sense"


def _moments(params: TrainParams) -> tuple[str, ...]:
    """What the optimizer remembers of each weight, by torch's names."""
    if params.optimizer == "sgd":
        return ("momentum_buffer",) if params.momentum else ()
    return ADAM


def _is_state(state: Any, names: tuple[str, ...], shape: torch.Size) -> bool:
    """Whether an optimizer could have left this of one weight."""
    if not isinstance(state, dict) or not state.keys() >= set(names):
        return False
    if names == ADAM and not _is_count(state.get("step")):
        return False
    return all(_is_like(state[name], shape) for name in names)


def _is_count(step: Any) -> bool:
    if isinstance(step, Tensor):
        step = step.item() if step.numel() == 1 else None
    return type(step) in (int, float) and math.isfinite(step) and step >= 1


def _is_like(value: Any, shape: torch.Size) -> bool:
    return (
        isinstance(value, Tensor)
        and value.shape == shape
        and value.dtype == torch.float32
        and bool(torch.isfinite(value).all())
    )
