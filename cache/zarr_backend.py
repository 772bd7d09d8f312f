"""Zarr v3: a folder per case, each array in few shard files, every chunk with a crc32c.

Written and read by TensorStore; plain zarr-python reads it as well.
docs/decisions/0009-writing-zarr.md has the measurement.
"""

import json
import logging
import math
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cache.backend import SHARD_BYTES, Arrays, Pending, Pool, chunk_shape
from cache.grid import Box
from cache.jsons import parsed

LOG = logging.getLogger(__name__)
METADATA = "zarr.json"  # of the group and of each array; a chunk has its checksum, these have none
GROUP = {"zarr_format": 3, "node_type": "group"}


@dataclass(frozen=True)
class ZarrBackend:
    """The ``zarr`` format."""

    name: str = "zarr"
    suffix: str = ".zarr"
    # TensorStore keeps no file open between reads, and a case takes 15 kB
    open_cases: ClassVar[int] = 4096
    bare: ClassVar[str] = METADATA

    def write(
        self, path: Path, arrays: dict[str, NDArray[Any]], attributes: dict[str, Any]
    ) -> None:
        """Write one case as a Zarr v3 group."""
        tensorstore = _tensorstore()
        path.mkdir(parents=True)
        group = json.dumps({**GROUP, "attributes": attributes}, indent=2, sort_keys=True)
        (path / METADATA).write_text(group, encoding="utf-8", newline="\n")
        for name, array in arrays.items():
            spec = _array_spec(path, name, array)
            try:
                stored = tensorstore.open(spec, create=True, delete_existing=True).result()
                if array.size:
                    _write_by_shards(stored, array)
            except (ValueError, RuntimeError) as error:  # how it says that the disk is full
                raise OSError(str(error)) from error

    def attributes(self, path: Path) -> dict[str, Any]:
        """The group's attributes, straight from its zarr.json."""
        metadata = parsed((path / METADATA).read_text(encoding="utf-8"))
        attributes: dict[str, Any] = metadata["attributes"]
        return attributes

    def open(self, path: Path, pool: Pool) -> Arrays:
        """Open for reading: through TensorStore, or where that is not allowed, zarr-python."""
        if _first_user() == os.getpid():
            return ZarrArrays(path, pool)
        _tell_of_fork(os.getpid())
        return ForkedZarrArrays(path)


class ZarrArrays:
    """One open Zarr case; TensorStore handles by array name, opened when first asked for."""

    def __init__(self, path: Path, pool: Pool) -> None:
        tensorstore = _tensorstore()
        self._path = path
        self._tensorstore = tensorstore
        if pool.context is None:
            limit = {"total_bytes_limit": pool.limit_bytes}
            pool.context = tensorstore.Context({"cache_pool": limit})
        self._context = pool.context
        self._handles: dict[str, Any] = {}

    def read(self, name: str) -> NDArray[Any]:
        """One array."""
        return np.asarray(self._handle(name).read().result())

    def prepare(self, name: str, box: Box, out: NDArray[Any]) -> Pending:
        """Get ready to decode a box that lies inside straight into the caller's array."""
        source = self._handle(name)[box.slices]
        # never a copy: the voxels would go there
        target = self._tensorstore.array(out, context=self._context, copy=False, write=True)
        return Writing(target, source)

    def close(self) -> None:
        """Drop the handles; TensorStore closes what nobody holds."""
        self._handles.clear()

    def _handle(self, name: str) -> Any:
        if name not in self._handles:
            spec = {
                "driver": "zarr3",
                "kvstore": _kvstore(self._path / name),
                "recheck_cached_data": "open",  # the store is never changed in place
                # every chunk is written, so one that is not there is a fault, not zeros
                "fill_missing_data_reads": False,
            }
            self._handles[name] = self._tensorstore.open(
                spec, context=self._context, open=True, read=True
            ).result()
        return self._handles[name]


class Writing:
    """TensorStore's work on an array of the caller's."""

    def __init__(self, target: Any, source: Any) -> None:
        self._target, self._source = target, source
        self._futures: list[Any] = []  # one, once it has begun

    def begin(self) -> None:
        """Let TensorStore's threads decode."""
        # begun and kept by one call, within which Python raises no KeyboardInterrupt
        self._futures.extend(map(self._target.write, [self._source]))

    def result(self) -> None:
        """Wait until it is done, also where the user interrupts the waiting."""
        for future in self._futures:
            try:
                future.result()
            finally:
                while not future.done():
                    with suppress(KeyboardInterrupt):
                        future.exception()


class ForkedZarrArrays:
    """One open Zarr case in a forked process whose parent has used TensorStore: by zarr-python.

    TensorStore would abort the process. zarr-python reads the same, more slowly.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._arrays: dict[str, Any] = {}

    def read(self, name: str) -> NDArray[Any]:
        """One array."""
        return np.asarray(self._array(name)[...])

    def prepare(self, name: str, box: Box, out: NDArray[Any]) -> None:
        """Read a box that lies inside, at once."""
        out[...] = self._array(name)[box.slices]

    def close(self) -> None:
        """Drop the arrays; no file is open between reads."""
        self._arrays.clear()

    def _array(self, name: str) -> Any:
        import zarr  # half a second, for those who need it

        if name not in self._arrays:
            try:
                array = zarr.open_array(str(self._path / name), mode="r")
            except TypeError as error:  # what it makes of some damaged metadata
                raise ValueError(f"its metadata are no Zarr metadata: {error}") from error
            _require_shards(self._path / name, array)
            self._arrays[name] = array
        return self._arrays[name]


def _require_shards(path: Path, array: Any) -> None:
    """Raise FileNotFoundError unless all shards are there: zarr-python takes others for zeros."""
    sides = array.shards or array.chunks
    counts = [-(-side // of) for side, of in zip(array.shape, sides, strict=True)]
    for index in np.ndindex(*counts):
        path.joinpath("c", *map(str, index)).stat()


def _tensorstore() -> Any:
    """TensorStore; its threads must start in the process that uses it, not at import."""
    import tensorstore

    _first_user()
    return tensorstore


@lru_cache(maxsize=1)
def _first_user() -> int:
    """The process that used TensorStore first: this one, or one that this one was forked from."""
    return os.getpid()


@lru_cache(maxsize=1)  # by the process: a forked one inherits what its parent has told
def _tell_of_fork(process: int) -> None:
    LOG.warning(
        "process %d was forked from one that had used Zarr, and so reads it more"
        ' slowly; with a DataLoader, multiprocessing_context="spawn" or "forkserver" avoids it',
        process,
    )


def _write_by_shards(stored: Any, array: NDArray[Any]) -> None:
    """Write one shard after the other; TensorStore would hold all of them at once."""
    slices = stored.chunk_layout.write_chunk.shape[0]
    for start in range(0, array.shape[0], slices):
        stop = min(start + slices, array.shape[0])
        stored[start:stop].write(array[start:stop]).result()


def _array_spec(path: Path, name: str, array: NDArray[Any]) -> dict[str, Any]:
    """How TensorStore is to store an array: every chunk under a checksum, many of them in a shard.

    A shard holds whole slices, as many as SHARD_BYTES allows, often all: DVC and network file
    systems need few files.
    """
    chunks = list(chunk_shape(name, array.shape))
    counts = [max(1, -(-side // chunk)) for side, chunk in zip(array.shape, chunks, strict=True)]
    layer_bytes = array.dtype.itemsize * math.prod(chunks) * math.prod(counts[1:])
    counts[0] = min(counts[0], max(1, SHARD_BYTES // layer_bytes))
    shard = [count * chunk for count, chunk in zip(counts, chunks, strict=True)]
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    checksum = {"name": "crc32c"}
    blosc = {
        "cname": "lz4",
        "clevel": 5,
        # of bytes; bits are decoded half as fast: docs/decisions/0011-loader.md
        "shuffle": "shuffle",
        "typesize": array.dtype.itemsize,
        "blocksize": 0,
    }
    shards = {
        "chunk_shape": chunks,
        "codecs": [little, {"name": "blosc", "configuration": blosc}, checksum],
        "index_codecs": [little, checksum],
        "index_location": "end",
    }
    return {
        "driver": "zarr3",
        "kvstore": _kvstore(path / name),
        # the chunks of a shard in one thread: several cases are written at a time anyway
        "context": {"data_copy_concurrency": {"limit": 1}},
        "metadata": {
            "shape": list(array.shape),
            "data_type": str(array.dtype),
            "fill_value": 0,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
            "codecs": [{"name": "sharding_indexed", "configuration": shards}],
        },
        # an all-zero chunk is written too, so that every voxel stands under a checksum
        "store_data_equal_to_fill_value": True,
    }


def _kvstore(path: Path) -> dict[str, str]:
    # not resolved: on Windows that turns a mapped drive into a UNC path, which it refuses
    return {"driver": "file", "path": path.absolute().as_posix()}
