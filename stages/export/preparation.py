"""``preparation.json`` of a bundle: what is to be done with a CT before and after the graph."""

from typing import Any, Literal, Self

from pydantic import BaseModel, model_validator

from cache.grid import Triple
from stages.network import CLASSES

FILE = "preparation.json"
VERSION = 2
WITHOUT_DIGEST = 1  # the version before, whose file has no digest of itself

GraphName = Literal["model.onnx", "model.pt2"]


class GraphFile(BaseModel, frozen=True):
    """The graph, and what goes in and comes out."""

    file: GraphName
    sha256: str
    input: str = "hu: float32 (batch, 1, depth, height, width), Hounsfield units, not yet windowed"
    output: str = "logits: float32 (batch, 2, depth, height, width)"
    smallest_side: int  # voxels; pad smaller volumes with outside_hu


class Preparation(BaseModel, frozen=True):
    """The parameters of the preparation, and what they mean."""

    format_version: int = VERSION
    graph: GraphFile
    preprocess: dict[str, Any]  # the section of params.yaml that the training data was made with
    window_zyx: Triple | None  # of the sliding window, voxels; None: the volume at once
    overlap: float = 0.5  # of neighbouring windows, as pipeline.predict has it
    outside_hu: int = -1000  # air, where the window leaves the volume
    hu_window: tuple[float, float] | None  # for information: the graph does it
    threshold: float = 0.5  # of the probability of liver, after interpolation to the CT's grid
    classes: tuple[str, ...] = CLASSES
    axes: str = "volumes are (Z, Y, X); names end in the order of their values"
    orientation: str = (
        "LPS: x grows towards the patient's left, y towards the back, z towards the head"
    )
    spacing: str = (
        "preprocess.spacing_zyx_mm is the distance of voxel centres in mm; a side has"
        " round(extent / spacing) voxels, at least one, over the same outer extent;"
        " null leaves an axis as it is"
    )
    outside_box: str = "what the crop leaves out is background"

    @model_validator(mode="after")
    def _can_be_done(self) -> Self:
        """Refuse what a hand has changed and nothing here would heed."""
        least = self.graph.smallest_side
        if self.window_zyx is not None and min(self.window_zyx) < least:
            raise ValueError(
                f"window_zyx is {list(self.window_zyx)}; every side is {least} or more"
            )
        if (self.overlap, self.threshold) != (0.5, 0.5):
            raise ValueError("overlap and threshold are 0.5; neither can be chosen here")
        return self
