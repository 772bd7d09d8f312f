"""What changes a voxel's value and not its place; all in place, on the network's input.

Definitions and order are those of nnU-Net's default pipeline, so that its probabilities and
ranges can be taken over as they are.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.train.augment.draw import Draw

TRUNCATE = 3.0  # standard deviations, of a Gaussian's kernel; 0.3 % lie beyond
TINY = 1e-7  # in place of a range or deviation of zero


def change_intensities(volume: Tensor, draw: Draw) -> None:
    """Do to a volume what was drawn for it, in nnU-Net's order.

    Args:
        volume: float32 (D, H, W), the network's input; changed.
        draw: what is None in it is skipped.
    """
    if draw.noise_sd is not None:
        add_noise(volume, draw.noise_sd, draw.noise_seed)
    if draw.blur_sigma is not None:
        blur(volume, draw.blur_sigma)
    if draw.brightness is not None:
        volume.mul_(draw.brightness)
    if draw.contrast is not None:
        change_contrast(volume, draw.contrast)
    if draw.low_resolution is not None:
        lower_resolution(volume, draw.low_resolution)
    if draw.gamma_inverted is not None:
        change_gamma(volume.neg_(), draw.gamma_inverted)
        volume.neg_()
    if draw.gamma is not None:
        change_gamma(volume, draw.gamma)


def add_noise(volume: Tensor, sd: float, seed: int) -> None:
    """Add Gaussian noise from a generator of the volume's device: a GPU's is not a processor's."""
    random = torch.Generator(volume.device).manual_seed(seed)
    volume.add_(torch.randn(volume.shape, generator=random, device=volume.device), alpha=sd)


def blur(volume: Tensor, sigma_voxels: float) -> None:
    """Smooth with a Gaussian; beyond the edge the edge goes on.

    Sums of the shifted volume: a convolution takes four to fifteen times as long on a processor.
    """
    reach = math.ceil(TRUNCATE * sigma_voxels)
    weights = [math.exp(-0.5 * (step / sigma_voxels) ** 2) for step in range(reach + 1)]
    whole = weights[0] + 2 * sum(weights[1:])
    blurred = F.pad(volume[None, None], (reach,) * 6, mode="replicate")[0, 0]
    for axis, side in enumerate(volume.shape):
        summed = blurred.narrow(axis, reach, side) * (weights[0] / whole)
        for step in range(1, reach + 1):
            for start in (reach - step, reach + step):
                summed.add_(blurred.narrow(axis, start, side), alpha=weights[step] / whole)
        blurred = summed
    volume.copy_(blurred)


def change_contrast(volume: Tensor, factor: float) -> None:
    """Multiply the distance to the mean, within the old range."""
    mean = _mean(volume)
    low, high = torch.aminmax(volume)
    volume.mul_(factor).add_(mean * (1 - factor)).clamp_(low, high)


def lower_resolution(volume: Tensor, factor: float) -> None:
    """Take the nearest of every 1 / factor voxels, and fill in linearly between those."""
    coarse_shape = [max(1, round(side * factor)) for side in volume.shape]
    coarse = F.interpolate(volume[None, None], coarse_shape, mode="nearest-exact")
    fine = F.interpolate(coarse, volume.shape, mode="trilinear", align_corners=False)
    volume.copy_(fine[0, 0])


def change_gamma(volume: Tensor, exponent: float) -> None:
    """Raise the volume, scaled to [0, 1], to a power; then give it its old mean and deviation.

    A volume of one value stays as it is.
    """
    mean = _mean(volume)
    spread = _norm(volume - mean)
    low, high = torch.aminmax(volume)
    volume.sub_(low).div_((high - low).clamp_min(TINY)).pow_(exponent)
    volume.sub_(_mean(volume))
    # the ratio of the deviations: both are over the same number of voxels
    volume.mul_(spread / _norm(volume).clamp_min(TINY)).add_(mean)


def _mean(volume: Tensor) -> Tensor:
    """Slice by slice: a sum over all voxels would depend on how many threads add them up."""
    return volume.mean(dim=(1, 2)).mean()


def _norm(volume: Tensor) -> Tensor:
    """Euclidean, likewise."""
    of_slices = torch.linalg.vector_norm(volume, dim=(1, 2))
    norm: Tensor = torch.linalg.vector_norm(of_slices)
    return norm
