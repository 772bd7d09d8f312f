"""The ``train.augmentation`` section of params.yaml."""

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, BaseModel, Field, PositiveFloat


def _in_order(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"{list(limits)} is no range; the first must not be above the second")
    return limits


Changes = Literal["place", "value"]  # where a voxel is, or what it means
Probability = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
PartOfOne = Annotated[float, Field(gt=0, le=1)]
Range = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_in_order)]  # low, high


class Flip(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Mirror along an axis; each axis is drawn by itself."""

    changes: ClassVar[Changes] = "place"
    probability_zyx: tuple[Probability, Probability, Probability]


class Rotation(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Turn around all three axes, by angles drawn for each from [-degrees, degrees]."""

    changes: ClassVar[Changes] = "place"
    probability: Probability
    degrees: Annotated[float, Field(ge=0, le=180)]


class Scaling(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Magnify by one factor for all axes; 1.2 makes the liver 1.2 times as large."""

    changes: ClassVar[Changes] = "place"
    probability: Probability
    factor: Range


class Shift(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Move along each axis by whole voxels, over distances drawn for each from [-mm, mm]."""

    changes: ClassVar[Changes] = "place"
    probability: Probability
    mm: NotNegative


class Elastic(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Bend: every point of a coarse grid is displaced, and what lies between follows smoothly."""

    changes: ClassVar[Changes] = "place"
    probability: Probability
    spacing_mm: PositiveFloat  # of the coarse grid
    sd_mm: NotNegative  # standard deviation of the displacement along each axis, cut off at three


class Noise(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Add Gaussian noise; the standard deviation is drawn from the range, 1 is half the window."""

    changes: ClassVar[Changes] = "value"
    probability: Probability
    sd: Annotated[tuple[NotNegative, NotNegative], AfterValidator(_in_order)]


class Blur(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Smooth with a Gaussian whose sigma is drawn from the range, voxels."""

    changes: ClassVar[Changes] = "value"
    probability: Probability
    sigma_voxels: Range


class Brightness(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Multiply by a factor; 0 is the middle of the window."""

    changes: ClassVar[Changes] = "value"
    probability: Probability
    factor: Range


class Contrast(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Multiply the distance to the patch's mean by a factor, within the patch's old range."""

    changes: ClassVar[Changes] = "value"
    probability: Probability
    factor: Range


class LowResolution(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Make it as coarse as a scan with fewer voxels: resize by the factor, and back."""

    changes: ClassVar[Changes] = "value"
    probability: Probability
    factor: Annotated[tuple[PartOfOne, PartOfOne], AfterValidator(_in_order)]


class Gamma(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Raise the patch, scaled to [0, 1], to a power; mean and standard deviation are kept.

    With ``probability_inverted`` the patch is negated before and after, so that the bright end
    is stretched instead of the dark one.
    """

    changes: ClassVar[Changes] = "value"
    probability: Probability
    probability_inverted: Probability
    exponent: Range


class AugmentationParams(BaseModel, frozen=True, extra="forbid"):
    """Each kind by its name; null turns it off. All are drawn anew for every sample."""

    flip: Flip | None
    rotation: Rotation | None
    scaling: Scaling | None
    shift: Shift | None
    elastic: Elastic | None
    noise: Noise | None
    blur: Blur | None
    brightness: Brightness | None
    contrast: Contrast | None
    low_resolution: LowResolution | None
    gamma: Gamma | None

    @property
    def intensity_names(self) -> list[str]:
        """Those that are on and change what a voxel's value means, not where it lies."""
        on = [name for name in type(self).model_fields if getattr(self, name) is not None]
        return [name for name in on if _changes(name) == "value"]


def _changes(name: str) -> Changes:
    """What a kind says of itself; one that does not say it is a bug."""
    kind: Any = get_args(AugmentationParams.model_fields[name].annotation)[0]  # the other is None
    changes: Changes = kind.changes
    return changes
