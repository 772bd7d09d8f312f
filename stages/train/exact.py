"""Pooling and upsampling whose gradients a GPU computes in the same order every time.

torch's own add up what several threads bring, in the order they come, and refuse to work under
``torch.use_deterministic_algorithms(True)``. These take their place there, and there alone.
"""

import torch
from torch import Tensor


def is_needed(features: Tensor) -> bool:
    """Whether torch would refuse its own operations for these."""
    return features.is_cuda and torch.are_deterministic_algorithms_enabled()


def halve(features: Tensor) -> Tensor:
    """Max pooling over 2x2x2: (B, C, D, H, W) -> (B, C, D//2, H//2, W//2).

    Where a window's largest values are equal, they share the gradient; torch's pooling gives it to
    the first one.
    """
    for axis in (-3, -2, -1):
        pairs = features.shape[axis] // 2
        # axis first, so that a plain slice takes every second one
        even = features.narrow(axis, 0, 2 * pairs).movedim(axis, 0)
        features = torch.maximum(even[0::2], even[1::2]).movedim(0, axis)
    return features


def double(features: Tensor) -> Tensor:
    """Trilinear upsampling by two, corners aligned: (B, C, D, H, W) -> (B, C, 2D, 2H, 2W).

    Interpolation along an axis is a product with a fixed matrix, in float32 as torch's own.
    """
    out = features.float()
    # autocast would round the weights and the result to half precision
    with torch.autocast(features.device.type, enabled=False):
        for axis in (-3, -2, -1):
            matrix = _interpolation(features.shape[axis], features.device)
            out = (out.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return out.to(features.dtype)


def _interpolation(side: int, device: torch.device) -> Tensor:
    """(2 side, side): row i has the weights of the samples around i · (side - 1) / (2 side - 1)."""
    places = torch.linspace(0, side - 1, 2 * side, device=device, dtype=torch.float64)
    samples = torch.arange(side, device=device, dtype=torch.float64)
    weights = (1 - (places[:, None] - samples).abs()).clamp(min=0)
    return weights.float()
