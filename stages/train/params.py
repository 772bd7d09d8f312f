"""The ``train:`` section of params.yaml."""

from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from stages.network import HuWindow, NetworkSpec, PatchZyx, Precision, Upsampling, Width
from stages.train.augment.params import AugmentationParams

Share = Annotated[float, Field(ge=0, le=1)]


class TrainParams(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """How ``UNet3d`` is trained. Every key is required; none is hidden here."""

    n_channels: Width  # width of the first level
    upsampling: Upsampling
    patch_zyx: PatchZyx | None  # what the network sees, voxels; null: whole volumes
    batch_size: PositiveInt
    patches_per_case: PositiveInt  # in an epoch
    foreground_share: Share  # of the patches, centred on a liver voxel
    hu_window: HuWindow | None  # (low, high) HU, clipped; null feeds raw HU
    augmentation: AugmentationParams | None  # of the patches; null: none at all
    residency: Literal["auto", "device", "host", "disk"]  # where the training set lies meanwhile
    epochs: PositiveInt
    steps_per_epoch: PositiveInt | None  # of the optimizer; null: once through patches_per_case
    max_minutes: PositiveFloat | None  # of training, restarts included; null: all epochs
    early_stopping: PositiveInt | None  # validations without a better Dice; null: all epochs
    accumulate: PositiveInt  # batches per optimizer step
    optimizer: Literal["adam", "adamw", "sgd"]  # sgd with Nesterov's momentum
    momentum: Annotated[float, Field(ge=0, lt=1)]  # of sgd
    weight_decay: NonNegativeFloat
    lr: PositiveFloat  # learning rate
    schedule: Literal["constant", "poly", "cosine"]
    warmup_steps: NonNegativeInt  # of the optimizer, from 0 to lr
    clip_norm: PositiveFloat | None  # of the gradient; null: as it is
    ema: Annotated[float, Field(gt=0, lt=1)] | None  # decay of the averaged weights; null: none
    loss: Literal["cross_entropy", "dice_ce"]
    precision: Precision
    compile: Literal["auto", "always", "never"]
    deterministic: bool
    validate_every: PositiveInt  # epochs
    validation_share: Share  # of the patients; unused with folds
    test_share: Share  # of the patients
    folds: Annotated[int, Field(ge=2)] | None  # validate one of so many parts; null: by share
    fold: NonNegativeInt  # which one, from 0
    cross_validate: list[NonNegativeInt]  # folds that DVC trains as well, each by its own
    save_minutes: PositiveFloat  # between two writes of last.pt, besides every epoch's
    keep_above_iou: Share | None  # epochs with a validation IoU above it are kept; null: none
    trackers: list[Literal["tensorboard", "mlflow"]]  # that are told every epoch

    @property
    def spec(self) -> NetworkSpec:
        """The network it trains."""
        return NetworkSpec.of_training(self.model_dump(mode="json"))

    @model_validator(mode="after")
    def _values_fit_together(self) -> Self:
        kinds = self.augmentation.intensity_names if self.augmentation else []
        if self.hu_window is None and kinds:
            raise ValueError(
                f"train.augmentation has {', '.join(kinds)}, which are measured in widths of the"
                " window, but train.hu_window is null; set the window, or these to null"
            )
        if self.fold >= (self.folds or 1):
            raise ValueError(f"fold is {self.fold}, but there are {self.folds or 'no'} folds")
        if beyond := [fold for fold in self.cross_validate if fold >= (self.folds or 0)]:
            raise ValueError(
                f"cross_validate names fold {beyond[0]}, but there are {self.folds or 'no'} folds"
            )
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share and test_share leave no patient to train on")
        return self
