"""A batch as the network gets it: windowed, stacked, and augmented as was drawn."""

import torch
from torch import Tensor

from stages.train.augment.intensity import change_intensities
from stages.train.augment.spatial import warp_into
from stages.train.intensity import window_in_place
from stages.train.sample import Batch


def network_input(batch: Batch, hu_window: tuple[float, float] | None) -> tuple[Tensor, Tensor]:
    """The network's input and the mask it is compared with, on the device of the batch.

    A sample's result depends on its own voxels and draw alone, not on the batch it is in. With no
    draw it is exactly ``to_network_input`` of the volume, and the mask is unchanged.

    Args:
        batch: at least one sample; their boxes have one shape (D, H, W).
        hu_window: (low, high) in HU, or None.

    Returns:
        float32 (B, 1, D, H, W), [-1, 1] before intensities are changed, raw HU without a window;
        and uint8 0/1 (B, D, H, W).
    """
    device = batch.volumes[0].device
    shape = (len(batch.samples), *batch.samples[0].box.shape_zyx)
    volumes = torch.empty(shape, device=device)
    masks = torch.empty(shape, dtype=torch.uint8, device=device)
    # whoever trains in half precision still resamples in full
    with torch.autocast(device.type, enabled=False):
        for index, sample in enumerate(batch.samples):
            volume, mask = batch.volumes[index], batch.masks[index]
            if sample.draw is None:
                volumes[index].copy_(volume)
                masks[index].copy_(mask)
                window_in_place(volumes[index], hu_window)
                continue
            warp = sample.draw.warp
            warp_into(volumes[index], masks[index], volume, mask, warp=warp, box=sample.box)
            window_in_place(volumes[index], hu_window)
            change_intensities(volumes[index], sample.draw)
    return volumes[:, None], masks
