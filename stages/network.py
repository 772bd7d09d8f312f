"""What a network is: all that is needed to build it and to show it a CT. Imports no torch.

A checkpoint carries this description, so that a model outlives the parameter file it was trained
by. The limits of the networks stand here once.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field

GROUPS = 8  # of the GroupNorm layers, as in the notebook; every width is a multiple of n_channels
SMALLEST_SIDE = 16  # voxels that UNet3d needs on every axis: four poolings by two
WIDEST = 1024  # channels of the first level: ten billion weights


def _fills_the_groups(n_channels: int) -> int:
    if n_channels % GROUPS:
        nearest = max(GROUPS, round(n_channels / GROUPS) * GROUPS)
        raise ValueError(
            f"{n_channels} channels cannot be divided into the {GROUPS} groups of GroupNorm;"
            f" take a multiple of {GROUPS} such as {nearest}"
        )
    return n_channels


def _low_below_high(hu_window: tuple[float, float]) -> tuple[float, float]:
    if hu_window[0] >= hu_window[1]:
        raise ValueError(f"{list(hu_window)} is not a window; low must be below high")
    return hu_window


Width = Annotated[int, Field(gt=0, le=WIDEST), AfterValidator(_fills_the_groups)]
Upsampling = Literal["trilinear", "transposed"]
Side = Annotated[int, Field(ge=SMALLEST_SIDE)]
PatchZyx = tuple[Side, Side, Side]
HuWindow = Annotated[tuple[float, float], AfterValidator(_low_below_high)]
Precision = Literal["auto", "bf16", "fp16", "fp32"]

CLASSES = ("background", "liver")
OF_TRAINING = ("n_channels", "upsampling", "patch_zyx", "hu_window", "precision")


class NetworkSpec(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """A network and what it is shown; with its weights it predicts."""

    structure: Literal["unet3d"]
    n_channels: Width  # of the first level
    upsampling: Upsampling
    patch_zyx: PatchZyx | None  # what it was trained on, voxels; None: whole volumes
    hu_window: HuWindow | None  # (low, high) HU, clipped and scaled to [-1, 1]; None: raw HU
    precision: Precision  # to compute in
    classes: tuple[Literal["background"], Literal["liver"]]  # of its logits, in their order

    @classmethod
    def of_training(cls, train: Mapping[str, Any]) -> Self:
        """The network that a ``train`` section describes."""
        return cls.model_validate(cls.fields_of(train))

    @staticmethod
    def fields_of(train: Mapping[str, Any]) -> dict[str, Any]:
        """The same, not yet checked; what else is in the section has no part in it."""
        chosen = {key: train[key] for key in OF_TRAINING if key in train}
        return {"structure": "unet3d", "classes": CLASSES, **chosen}

    @property
    def smallest_side(self) -> int:
        """Voxels that it needs on every axis."""
        return SMALLEST_SIDE
