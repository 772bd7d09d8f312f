"""Building a network from its description, and whether weights fit one."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stages.network import NetworkSpec
from stages.train.unet import UNet3d

BUILDERS: dict[str, Callable[[NetworkSpec], nn.Module]] = {
    "unet3d": lambda spec: UNet3d(1, len(spec.classes), spec.n_channels, spec.upsampling)
}
NAMED = 3  # weights that a message names


def make_network(spec: NetworkSpec) -> nn.Module:
    """The network of a description, with random weights.

    It takes (B, 1, D, H, W) and gives a logit for each class.
    """
    return BUILDERS[spec.structure](spec)


def misfit(spec: NetworkSpec, weights: Mapping[str, Any]) -> str | None:
    """What keeps weights from being those of a network, in words; None if nothing does.

    Memory for the network is not taken: a description may ask for more than the machine has.
    """
    with torch.device("meta"):
        expected = make_network(spec).state_dict()
    if missing := expected.keys() - weights.keys():
        return f"weights are missing: {_some(missing)}"
    if unknown := weights.keys() - expected.keys():
        return f"there are weights that the network does not have: {_some(unknown)}"
    faults = (_fault(weights[name], wanted) for name, wanted in expected.items())
    named = (f"{name} {fault}" for name, fault in zip(expected, faults, strict=True) if fault)
    return next(named, None)


def _fault(weight: Any, wanted: Tensor) -> str | None:
    if not isinstance(weight, Tensor) or weight.layout != torch.strided:
        return "does not hold numbers"
    if weight.dtype != wanted.dtype:
        return f"holds {weight.dtype}, not {wanted.dtype}"
    if weight.shape != wanted.shape:
        return f"has the shape {list(weight.shape)}, not {list(wanted.shape)}"
    return None if torch.isfinite(weight).all() else "holds values that are not numbers"


def _some(names: set[str]) -> str:
    more = ", …" if len(names) > NAMED else ""
    return ", ".join(sorted(map(str, names))[:NAMED]) + more
