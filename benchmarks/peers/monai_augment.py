"""The same kinds with MONAI's dictionary transforms, without the bookkeeping of its tensors.

A turned patch keeps its shape, so its corners are filled in: to read more, RandAffined would have
to resample every sample. Rotation and scaling are drawn together, as often as either of them.
"""

import importlib
from collections.abc import Callable

import numpy as np
from torch import Tensor

Augment = Callable[[Tensor, Tensor], object]  # volume and mask, both (1, D, H, W)
IMAGE, BOTH = ["image"], ["image", "mask"]


def make(patch_zyx: tuple[int, int, int], device: str) -> tuple[tuple[int, ...], Augment]:
    """The shape that is read for a patch of this shape, which is the same, and what is done to it.

    Raises:
        ImportError: MONAI is not installed.
    """
    monai = importlib.import_module("monai.transforms")
    importlib.import_module("monai.data").set_track_meta(False)
    flips = [monai.RandFlipd(BOTH, prob=0.5, spatial_axis=axis) for axis in range(3)]
    gamma = {"gamma": (0.7, 1.5), "retain_stats": True}
    transforms = monai.Compose(
        [
            monai.RandAffined(
                BOTH,
                prob=0.36,
                rotate_range=[np.pi / 6] * 3,
                scale_range=[(-0.3, 0.4)] * 3,
                mode=("bilinear", "nearest"),
                padding_mode="border",
                cache_grid=True,
                spatial_size=patch_zyx,
                device=device,
            ),
            monai.RandGaussianNoised(IMAGE, prob=0.1, std=0.1),
            monai.RandGaussianSmoothd(IMAGE, (0.5, 1), (0.5, 1), (0.5, 1), prob=0.1),
            monai.RandScaleIntensityd(IMAGE, factors=0.25, prob=0.15),
            monai.RandScaleIntensityFixedMeand(IMAGE, prob=0.15, factors=0.25, preserve_range=True),
            monai.RandSimulateLowResolutiond(IMAGE, prob=0.125, zoom_range=(0.5, 1.0)),
            monai.RandAdjustContrastd(IMAGE, prob=0.1, invert_image=True, **gamma),
            monai.RandAdjustContrastd(IMAGE, prob=0.3, **gamma),
            *flips,
        ]
    )

    def augment(volume: Tensor, mask: Tensor) -> object:
        return transforms({"image": volume, "mask": mask})

    return patch_zyx, augment
