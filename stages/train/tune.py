"""How the network computes on a device: chosen where it was measured, else measured now."""

import importlib.util
import logging
import math
import time
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from stages.train.device import Layout, autocast, place
from stages.train.params import TrainParams

LOG = logging.getLogger(__name__)
LAYOUTS: tuple[Layout, ...] = ("contiguous", "channels last")
WARM_UP, TIMED = 2, 3  # batches of a trial
WORTH_S = 600.0  # of training; a shorter one would be over before compiling has paid
Shape = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Engine:
    """How the network computes.

    Attributes:
        layout: of weights and feature maps in memory.
        is_compiled: whether ``torch.compile`` makes kernels of its own for it.
    """

    layout: Layout
    is_compiled: bool = False

    def __str__(self) -> str:
        return f"{self.layout}, {'compiled' if self.is_compiled else 'eager'}"


def choose_engine(
    network: nn.Module, shape: Shape, params: TrainParams, device: torch.device, *, steps: int
) -> Engine:
    """The fastest way to compute a training step.

    On a CPU that is known: channels last, not compiled (docs/decisions/0013-training.md). On a GPU
    a few batches are tried in both layouts, and in the better one compiled, where training takes
    more than ten minutes and patches have one shape. ``train.compile`` decides instead if it is not
    ``auto``; with ``train.deterministic`` nothing is tried, since the clock would decide.

    Args:
        network: on the device; its weights are left alone.
        shape: of a batch, (B, 1, D, H, W).
        params: the ``train`` section.
        device: where to compute.
        steps: of the optimizer in the whole run.
    """
    is_compiled = params.compile == "always"
    if device.type != "cuda":
        return Engine("channels last", is_compiled)
    if params.deterministic:
        return Engine("contiguous", is_compiled)
    seconds = eager_seconds(network, shape, params, device)
    best = min(seconds, key=lambda engine: seconds[engine])
    if is_compiled:
        best = Engine(best.layout, is_compiled)
    elif _is_worth_compiling(params, steps * params.accumulate * seconds[best]):
        seconds |= compiled_seconds(network, best.layout, shape, params, device)
        best = min(seconds, key=lambda engine: seconds[engine])
    told = "; ".join(f"{engine} {1e3 * value:.0f} ms" for engine, value in seconds.items())
    LOG.info("a batch forward and back: %s; taken: %s", told, best)
    return best


def eager_seconds(
    network: nn.Module, shape: Shape, params: TrainParams, device: torch.device
) -> dict[Engine, float]:
    """``step_seconds`` of the network in each memory layout that fits; it is left in the last one.

    Raises:
        torch.OutOfMemoryError: none does.
    """
    seconds = {}
    for layout in LAYOUTS:
        try:
            placed = place(network, device, layout)
            seconds[Engine(layout)] = step_seconds(placed, shape, params, device)
        except torch.OutOfMemoryError:
            network.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            if layout == LAYOUTS[-1] and not seconds:
                raise
    return seconds


def compiled_seconds(
    network: nn.Module, layout: Layout, shape: Shape, params: TrainParams, device: torch.device
) -> dict[Engine, float]:
    """``step_seconds`` of the network compiled in this layout; nothing where compiling fails."""
    forward = cast(nn.Module, torch.compile(place(network, device, layout)))
    try:
        seconds = step_seconds(forward, shape, params, device)
    except Exception as error:  # a compiler fails in many ways, and none of them is a fault
        reason = str(error).strip().partition("\n")[0]
        LOG.warning("torch.compile failed (%s: %s)", type(error).__name__, reason)
        network.zero_grad(set_to_none=True)
        return {}
    return {Engine(layout, is_compiled=True): seconds}


def step_seconds(
    forward: nn.Module, shape: Shape, params: TrainParams, device: torch.device
) -> float:
    """Seconds that a batch of random numbers takes forward and back, the fastest of three.

    No weight is moved, and no gradient is left.
    """
    random = torch.Generator(device).manual_seed(0)
    inputs = torch.randn(shape, device=device, generator=random)
    best = float("inf")
    for step in range(WARM_UP + TIMED):
        began = time.perf_counter()
        with autocast(params, device):
            logits = forward(inputs)
        logits.float().square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if step >= WARM_UP:
            best = min(best, time.perf_counter() - began)
        forward.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return best


def _is_worth_compiling(params: TrainParams, eager_s: float) -> bool:
    """Whether to try: kernels are made by Triton, and for each shape anew."""
    has_triton = importlib.util.find_spec("triton") is not None
    is_wanted = params.compile == "auto" and params.patch_zyx is not None
    limit_s = math.inf if params.max_minutes is None else 60 * params.max_minutes
    return is_wanted and has_triton and min(eager_s, limit_s) > WORTH_S
