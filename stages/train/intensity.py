"""From Hounsfield units to what the network is fed, on whatever device the batch is."""

from torch import Tensor


def to_network_input(volume: Tensor, hu_window: tuple[float, float] | None) -> Tensor:
    """HU as float32: clipped to the window and scaled to [-1, 1], or raw without a window.

    Args:
        volume: any shape, int16 or float, HU.
        hu_window: (low, high) in HU, or None.
    """
    floats = volume.float()
    if hu_window is None:
        return floats
    low, high = hu_window
    return floats.clamp(low, high).sub(low).mul(2 / (high - low)).sub(1)
