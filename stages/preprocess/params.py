"""The ``preprocess:`` section of params.yaml."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from cache.errors import ParamsError

# how a data set lies, data.layout
LayoutName = Literal[
    "auto",
    "list",
    "nnunet",
    "msd",
    "chaos",
    "ircadb",
    "totalsegmentator",
    "lits",
    "image-label",
    "folders",
]
NeededWhen = tuple[str, str, object]  # (choice, key it needs, value of that key)

# what a parameter meant before there was one; sections of older models and stores lack it
BEFORE: dict[str, Any] = {}


class PreprocessParams(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """How a CT becomes a prepared case. Every key is required; none is hidden here."""

    format: Literal["zarr", "hdf5"]
    liver_values: (
        Literal["any"]
        | Annotated[list[PositiveInt], Field(min_length=1)]
        | Annotated[list[str], Field(min_length=1)]
    )
    crop: Literal["none", "slices", "body", "label"]
    slices: tuple[Annotated[int, Field(ge=0)], PositiveInt] | None  # [a, b) in the file's order
    margin_mm: NonNegativeFloat  # around the body or the label
    grid: Literal["keep", "shape", "spacing"]
    shape_zyx: tuple[PositiveInt | None, PositiveInt | None, PositiveInt | None] | None
    spacing_zyx_mm: tuple[PositiveFloat | None, PositiveFloat | None, PositiveFloat | None] | None

    @model_validator(mode="after")
    def _choices_have_what_they_need(self) -> Self:
        needs: list[NeededWhen] = [
            ("crop: slices", "slices", self.slices),
            ("grid: shape", "shape_zyx", self.shape_zyx),
            ("grid: spacing", "spacing_zyx_mm", self.spacing_zyx_mm),
        ]
        chosen = {f"crop: {self.crop}", f"grid: {self.grid}"}
        for choice, key, value in needs:
            if choice in chosen and value is None:
                raise ValueError(f"{choice} needs a value for {key}, which is null")
        if self.slices is not None and self.slices[0] >= self.slices[1]:
            raise ValueError(f"slices is {list(self.slices)}; the first must be below the second")
        return self


def preparation_of(fields: dict[str, Any], where: Path, *, made: str, fix: str) -> PreprocessParams:
    """The ``preprocess`` section that a store or a model was made with.

    A parameter that it lacks, since it is older, has the value that it meant then. One that
    this version does not know is refused: who knows what it does to a CT.

    Args:
        fields: what it holds of that section.
        where: the store or the model.
        made: the words for how it was made.
        fix: what to do if another version of liver3d wrote it.

    Raises:
        ParamsError: it has parameters that this version does not know, or lacks some.
    """
    try:
        return PreprocessParams.model_validate({**BEFORE, **fields})
    except ValidationError as error:
        names = ", ".join(str(fault["loc"][0]) for fault in error.errors() if fault["loc"])
        fact = f"{made} with parameters this liver3d does not know: {names}"
        raise ParamsError(where, fact, fix) from error


def preparation_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """What sets two preparations apart, a line each; the format of a store's files does not matter.

    Args:
        ours: a ``preprocess`` section, as JSON has it.
        theirs: another one, of which the lines tell.
    """
    one, other = {**BEFORE, **ours}, {**BEFORE, **theirs}
    return [
        f"{key} is {other.get(key)}, not {one.get(key)}"
        for key in sorted((one.keys() | other.keys()) - {"format"})
        if one.get(key) != other.get(key)
    ]
