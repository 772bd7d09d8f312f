"""What a storage format must offer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from cache.grid import Box

CHUNK_SIDE = 32  # voxels; docs/decisions/0002-stored-format.md has the measurement
SHARD_BYTES = 17_000_000  # decoded, about: writing a shard takes several times its size
MASK_CHUNK = (32, 64, 64)  # z, y, x
CHUNK_SLICES = 16  # of the source mask


class Pending(Protocol):
    """A read that has begun."""

    def result(self) -> Any:
        """Wait until it is done; raises what went wrong."""


class Arrays(Protocol):
    """One open case. Opened read-only, lazily, in the process that reads."""

    def read(self, name: str) -> NDArray[Any]:
        """One stored array."""

    def start(self, name: str, box: Box, out: NDArray[Any]) -> Pending | None:
        """Begin to read a box that lies inside into an array of its shape; None if it is done."""

    def close(self) -> None:
        """Give the file back."""


@dataclass
class Pool:
    """The memory that all open cases of one store share.

    Attributes:
        limit_bytes: decoded chunks that may be held.
        context: what a format keeps in it, once it has opened a first case.
    """

    limit_bytes: int
    context: Any = None


class Backend(Protocol):
    """A storage format: how one case becomes one file or folder, and back."""

    @property
    def name(self) -> str:
        """The word for it in params.yaml."""

    @property
    def suffix(self) -> str:
        """The ending of a case's file or folder."""

    def write(
        self, path: Path, arrays: dict[str, NDArray[Any]], attributes: dict[str, Any]
    ) -> None:
        """Write one case to a path that does not exist yet; same input, same bytes."""

    def attributes(self, path: Path) -> dict[str, Any]:
        """The attributes of a case, without opening its arrays."""

    def open(self, path: Path, pool: "Pool") -> Arrays:
        """Open a case for reading; decoded chunks are held in the pool, if at all."""


def chunk_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Chunks of 32 voxels a side, thinner where the array is.

    A list of voxels is one chunk. Masks compress to almost nothing, so larger chunks of them are
    written in half the time; the source mask, which is never read in patches,
    has whole slices.
    """
    if len(shape) != 3:
        return tuple(max(1, side) for side in shape)
    sides = {"mask": MASK_CHUNK, "source_mask": (CHUNK_SLICES, *shape[1:])}
    if name in sides:
        return tuple(max(1, min(most, side)) for most, side in zip(sides[name], shape, strict=True))
    return tuple(max(1, min(CHUNK_SIDE, side)) for side in shape)
