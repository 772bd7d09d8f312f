"""From Hounsfield units to what the network is fed, on whatever device the batch is."""

import torch
from torch import Tensor


def to_network_input(volume: Tensor, hu_window: tuple[float, float] | None) -> Tensor:
    """HU as float32: clipped to the window and scaled to [-1, 1], or raw without a window.

    Args:
        volume: any shape, int16 or float, HU.
        hu_window: (low, high) in HU, or None.
    """
    floats = volume.to(torch.float32, copy=True)
    window_in_place(floats, hu_window)
    return floats


def window_in_place(volume: Tensor, hu_window: tuple[float, float] | None) -> None:
    """``to_network_input`` for HU that are floats already and not needed any more."""
    if hu_window is not None:
        low, high = hu_window
        volume.clamp_(low, high).sub_(low).mul_(2 / (high - low)).sub_(1)
