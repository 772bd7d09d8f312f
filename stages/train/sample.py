"""What goes from the plan to the network: samples, and batches of their voxels."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from cache.case import Patch
from cache.grid import Box
from stages.train.augment.draw import Draw


@dataclass(frozen=True)
class Sample:
    """One patch of a training run, before anything is read.

    Attributes:
        case_id: the case it is cut from.
        box: what the network sees of it, before augmentation; may leave the volume.
        draw: how it is augmented; None where augmentation is off.
    """

    case_id: str
    box: Box
    draw: Draw | None = None

    @property
    def source(self) -> Patch:
        """What has to be read: the box, or more where a rotation brings in what lies around it."""
        return Patch(self.case_id, self.draw.source_box(self.box) if self.draw else self.box)


@dataclass(frozen=True)
class Batch:
    """The voxels of some samples, as they were stored; valid until the next batch is asked for.

    Attributes:
        samples: what they are.
        volumes: int16 HU, (D, H, W), each of its sample's source box.
        masks: uint8 0/1, likewise.
    """

    samples: Sequence[Sample]
    volumes: Sequence[Tensor]
    masks: Sequence[Tensor]

    @property
    def case_ids(self) -> list[str]:
        """The case of each sample."""
        return [sample.case_id for sample in self.samples]
