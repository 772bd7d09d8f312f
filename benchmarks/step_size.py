"""What benchmarks/step.py trains: both of its modules need it."""

from dataclasses import dataclass

from cache.grid import Triple

BATCH = 2


@dataclass(frozen=True)
class Size:
    """What is trained: first-level channels, and voxels of a patch."""

    channels: int
    shape_zyx: Triple

    def __str__(self) -> str:
        return f"{self.channels} channels, {BATCH}·1·{'·'.join(map(str, self.shape_zyx))}"
