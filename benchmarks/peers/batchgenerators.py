"""nnU-Net's own training transforms, as its trainer puts them together; processor only."""

import importlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Augment = Callable[[Tensor, Tensor], object]  # volume and mask, both (1, D, H, W)
ANGLE = np.pi / 6  # its default for patches that are nearly cubes
SCALES_FOR_READING = (0.85, 1.25)  # from which its trainer works out what to read


def make(patch_zyx: tuple[int, int, int], device: str) -> tuple[tuple[int, ...], Augment]:
    """The shape nnU-Net reads for a patch of this shape, and what it does to it.

    Raises:
        ImportError: nnunetv2 is not installed.
    """
    trainer = importlib.import_module("nnunetv2.training.nnUNetTrainer.nnUNetTrainer")
    module = "nnunetv2.training.data_augmentation.compute_initial_patch_size"
    angles = (-ANGLE, ANGLE)
    read_zyx = importlib.import_module(module).get_patch_size(
        patch_zyx, angles, angles, angles, SCALES_FOR_READING
    )
    transforms = trainer.nnUNetTrainer.get_training_transforms(
        patch_zyx, angles, None, (0, 1, 2), False
    )

    # its blur times its methods when it first meets a size; that is not to be counted
    for step in transforms.transforms:
        inner = getattr(step, "transform", step)
        if type(inner).__name__ == "GaussianBlurTransform":
            for _ in range(60):
                inner(image=torch.zeros(1, *patch_zyx))

    def augment(volume: Tensor, mask: Tensor) -> object:
        return transforms(image=volume, segmentation=mask)

    return tuple(int(side) for side in read_zyx), augment
