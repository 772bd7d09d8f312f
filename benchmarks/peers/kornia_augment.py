"""Rotation, scaling and flips with kornia, which has no other of the kinds for volumes.

A turned patch keeps its shape, so its corners are filled in. Rotation and scaling are drawn
together, as often as either of them.
"""

import importlib
from collections.abc import Callable

from torch import Tensor

Augment = Callable[[Tensor, Tensor], object]  # volume and mask, both (1, D, H, W)


def make(patch_zyx: tuple[int, int, int], device: str) -> tuple[tuple[int, ...], Augment]:
    """The shape that is read for a patch of this shape, which is the same, and what is done to it.

    Raises:
        ImportError: kornia is not installed.
    """
    kornia = importlib.import_module("kornia.augmentation")
    steps = [
        kornia.RandomAffine3D(30.0, scale=(0.7, 1.4), p=0.36, align_corners=False),
        kornia.RandomHorizontalFlip3D(p=0.5),
        kornia.RandomVerticalFlip3D(p=0.5),
        kornia.RandomDepthicalFlip3D(p=0.5),
    ]

    def augment(volume: Tensor, mask: Tensor) -> object:
        # its containers refuse masks of volumes, so each step is repeated with what it has drawn
        shown, shown_mask = volume[None], mask[None].float()
        for step in steps:
            shown = step(shown)
            shown_mask = step(shown_mask, params=step._params)
        return shown, shown_mask >= 0.5

    return patch_zyx, augment
