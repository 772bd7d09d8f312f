"""The mean of several views of a patch: of several networks, of the patch and its mirror images."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from stages.evaluate.window import Network, PatchProbability, liver_of

SPATIAL_AXES = (2, 3, 4)  # of (B, C, D, H, W)
MIRRORINGS = [
    axes for count in range(4) for axes in itertools.combinations(SPATIAL_AXES, count)
]  # none, each axis, each two, all three


def mean_probability(networks: Sequence[Network], *, is_mirrored: bool) -> PatchProbability:
    """The mean probability of liver over networks and, if wanted, over the eight mirrorings.

    Averaged within the patch, so that one more view costs time but no memory.

    Args:
        networks: HU as float32 (B, 1, D, H, W) -> logits (B, 2, D, H, W).
        is_mirrored: show each network the patch mirrored in every way, and its answers mirrored
            back.
    """
    views = [liver_of(network) for network in networks]
    mirrorings = MIRRORINGS if is_mirrored else MIRRORINGS[:1]

    def predict(patch: Tensor) -> Tensor:
        mean = torch.zeros_like(patch)
        for view, axes in itertools.product(views, mirrorings):
            mean += view(patch.flip(axes)).flip(axes) if axes else view(patch)
        return mean / (len(views) * len(mirrorings))

    return predict
