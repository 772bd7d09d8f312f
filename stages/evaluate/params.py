"""The ``evaluate:`` section of params.yaml."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field


class EvaluateParams(BaseModel, frozen=True, extra="forbid"):
    """How a model is scored. Every key is required; none is hidden here."""

    cases: Literal["test", "all"]
    scope: Literal["volume", "box"]  # score the whole source grid, or the prepared box alone
    overlap: Annotated[float, Field(ge=0, lt=1)]  # of the sliding window's patches
    tolerance_mm: Annotated[float, Field(gt=0, allow_inf_nan=False)]  # of surface Dice
