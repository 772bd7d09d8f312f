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
    """A read that is ready to begin."""

    def begin(self) -> None:
        """Let it begin; only then does anybody write into the caller's array."""

    def result(self) -> object:
        """Wait until what has begun is done; raises what went wrong. May be asked again.

        Once it has returned or raised, be it that the user interrupted it, nobody writes into the
        caller's array any more.
        """


class Arrays(Protocol):
    """One open case. Opened read-only, lazily, in the process that reads."""

    def read(self, name: str) -> NDArray[Any]:
        """One stored array."""

    def prepare(self, name: str, box: Box, out: NDArray[Any]) -> Pending | None:
        """Get ready to read a box that lies inside into an array of its shape; None if it is read.

        The array has the dtype of the stored one and need not be contiguous. Two steps, so that
        the caller holds what is to be waited for before it begins, and no interruption loses it.
        """

    def close(self) -> None:
        """Give the file back."""


@dataclass
class Pool:
    """The memory that all open cases of one store share.

    Attributes:
        limit_bytes: decoded chunks that may be held; 0 holds none.
        cases: that are read through it, for a format that has to divide it among them.
        context: what a format keeps in it, once it has opened a first case.
    """

    limit_bytes: int
    cases: int = 1
    context: Any = None


class Backend(Protocol):
    """A storage format: how one case becomes one file or folder, and back."""

    @property
    def name(self) -> str:
        """The word for it in params.yaml."""

    @property
    def suffix(self) -> str:
        """The ending of a case's file or folder."""

    @property
    def open_cases(self) -> int:
        """Cases that a reader may hold open at a time."""

    @property
    def bare(self) -> str:
        """The name of those files of a case that no checksum of the format covers; "" for none."""

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
