"""Predicting a whole volume: by overlapping patches, or at once. Imports no SimpleITK."""

from collections.abc import Callable

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from numpy.typing import NDArray
from torch import Tensor

from cache.case import AIR_HU, Volume
from cache.grid import Triple

Network = Callable[[Tensor], Tensor]
Probability = NDArray[np.float32]

SMALLEST_SIDE = 16  # UNet3d's; smaller volumes are padded with air


@torch.inference_mode()
def liver_probability(
    network: Network,
    volume: Volume,
    *,
    window_zyx: Triple | None,
    overlap: float,
    device: torch.device,
) -> Probability:
    """The probability of liver at every voxel of a prepared volume.

    Args:
        network: HU as float32 (B, 1, D, H, W) -> logits (B, 2, D, H, W); windowing is its own
            business, so that padding with air happens in HU.
        volume: int16 HU, (Z, Y, X).
        window_zyx: shape of the patches; None predicts the volume at once.
        overlap: of neighbouring patches, as a share of their side; they are blended with
            Gaussian weights.
        device: where the network is.

    Returns:
        float32 in [0, 1], (Z, Y, X).
    """
    whole = torch.from_numpy(volume)[None, None].to(device=device, dtype=torch.float32)
    window = window_zyx or tuple(max(SMALLEST_SIDE, side) for side in volume.shape)
    probability = sliding_window_inference(
        whole,
        roi_size=window,
        sw_batch_size=1,
        predictor=lambda patch: network(patch).float().softmax(dim=1)[:, 1:],
        overlap=overlap,
        mode="gaussian" if window_zyx else "constant",
        cval=AIR_HU,
    )
    return np.asarray(probability[0, 0].cpu().numpy(), np.float32)
