"""The ``phantom:`` section of params.yaml."""

from typing import Annotated

from pydantic import BaseModel, Field, PositiveInt

Side = Annotated[int, Field(ge=16)]


class PhantomParams(BaseModel, frozen=True, extra="forbid"):
    """How many synthetic CTs to make, and of what size. Every key is required."""

    count: PositiveInt  # cases; more of them leaves the first ones as they were
    shape_zyx: tuple[Side, Side, Side]  # typical voxels; each case varies by up to 15 %
