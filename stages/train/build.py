"""Putting a trainer together: new, or as a checkpoint left it."""

import warnings
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from cache.grid import Triple
from stages.train.average import Average
from stages.train.checkpoints.checkpoint import Checkpoint
from stages.train.device import make_scaler, place
from stages.train.losses import make_loss
from stages.train.networks import make_network
from stages.train.optimizer import make_optimizer, make_rate
from stages.train.params import TrainParams
from stages.train.ranks import Ranks, everyones
from stages.train.step import Trainer
from stages.train.tune import Engine, choose_engine


@dataclass(frozen=True)
class Work:
    """What a trainer is going to do.

    Attributes:
        steps: of the optimizer in the whole run.
        largest_zyx: shape of the patches, or of the largest volume where these are trained whole.
        device: where to compute.
        ranks: the processes that train together.
    """

    steps: int
    largest_zyx: Triple
    device: torch.device
    ranks: Ranks


def build_trainer(params: TrainParams, state: Checkpoint, work: Work) -> Trainer:
    """Everything a step needs, as the state has it.

    Args:
        params: the ``train`` section.
        state: a run at its beginning, with or without weights, or further on.
        work: what is ahead.
    """
    device, ranks = work.device, work.ranks
    torch.manual_seed(state.seed)
    network = make_network(params.spec)
    if state.model:
        network.load_state_dict(state.model)
    engine = _engine(network.to(device), params, work)
    placed = place(network, device, engine.layout)
    average = None if params.ema is None else Average(placed, params.ema)
    if average and state.average:
        average.network.load_state_dict(state.average)
    optimizer = make_optimizer(placed.parameters(), params)
    if state.optimizer:
        optimizer.load_state_dict(_with_own_settings(state.optimizer, optimizer))
    scaler = make_scaler(params, device)
    if scaler and state.scaler:
        scaler.load_state_dict(state.scaler)
    return Trainer(
        network=placed,
        forward=_shared(_compiled(placed, engine), device, ranks),
        loss=make_loss(params.loss),
        optimizer=optimizer,
        rate=make_rate(params, work.steps),
        scaler=scaler,
        average=average,
        params=params,
        device=device,
        ranks=ranks,
        engine=engine,
    )


def _with_own_settings(saved: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """The saved state, of whose settings only the last rate counts: the others are ``train``'s."""
    (group,) = optimizer.state_dict()["param_groups"]
    return {**saved, "param_groups": [{**group, "lr": saved["param_groups"][0]["lr"]}]}


def _engine(network: nn.Module, params: TrainParams, work: Work) -> Engine:
    """The first process' choice: clocks differ."""
    shape = (work.ranks.most_of(params.batch_size), 1, *work.largest_zyx)
    mine = choose_engine(network, shape, params, work.device, steps=work.steps)
    return everyones(mine, work.ranks)[0]


def _compiled(network: nn.Module, engine: Engine) -> nn.Module:
    # the compiled module has the same weights, and the network keeps its own names for them
    return cast(nn.Module, torch.compile(network)) if engine.is_compiled else network


def _shared(network: nn.Module, device: torch.device, ranks: Ranks) -> nn.Module:
    """The network whose gradients are exchanged with the other processes."""
    if ranks.count == 1:
        return network
    # a kernel of one voxel is in both memory layouts at once; torch takes that for a difference
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=devices)
