"""Zarr v3: a folder per case, each array in one shard file, every chunk with a crc32c.

Written by zarr-python through the zarrs codecs, read by TensorStore; plain zarr-python reads it
as well.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.backend import Pool, chunk_shape
from cache.grid import Box

ZARRS = {
    "codec_pipeline.path": "zarrs.ZarrsCodecPipeline",
    # threads put the chunks into the shard as they finish: another order, other bytes, every time
    "threading.max_workers": 1,
}


@dataclass(frozen=True)
class ZarrBackend:
    """The ``zarr`` format."""

    name: str = "zarr"
    suffix: str = ".zarr"

    def write(
        self, path: Path, arrays: dict[str, NDArray[Any]], attributes: dict[str, Any]
    ) -> None:
        """Write one case as a Zarr v3 group."""
        import zarr  # 0.4 s to import, and readers never need it

        # the settings end with this block: zarrs deadlocks in forked readers of other people's
        with zarr.config.set(ZARRS):
            group = zarr.create_group(path, zarr_format=3, attributes=attributes)
            try:
                for name, array in arrays.items():
                    _write_array(group, name, array)
            except RuntimeError as error:  # how zarrs says that the disk is full
                raise OSError(str(error)) from error

    def attributes(self, path: Path) -> dict[str, Any]:
        """The group's attributes, straight from its zarr.json."""
        metadata = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
        attributes: dict[str, Any] = metadata["attributes"]
        return attributes

    def open(self, path: Path, pool: Pool) -> "ZarrArrays":
        """Open for reading through TensorStore."""
        return ZarrArrays(path, pool)


class ZarrArrays:
    """One open Zarr case; TensorStore handles by array name, opened when first asked for."""

    def __init__(self, path: Path, pool: Pool) -> None:
        import tensorstore  # its threads must start in the process that reads, not at import

        # not resolved: on Windows that turns a mapped drive into a UNC path, which it refuses
        self._path = path.absolute()
        self._tensorstore = tensorstore
        if pool.context is None:
            limit = {"total_bytes_limit": pool.limit_bytes}
            pool.context = tensorstore.Context({"cache_pool": limit})
        self._context = pool.context
        self._handles: dict[str, Any] = {}

    def read(self, name: str, box: Box | None = None) -> NDArray[Any]:
        """One array, or a box of it that lies inside."""
        handle = self._handle(name)
        wanted = handle if box is None else handle[box.slices]
        return np.asarray(wanted.read().result())

    def close(self) -> None:
        """Drop the handles; TensorStore closes what nobody holds."""
        self._handles.clear()

    def _handle(self, name: str) -> Any:
        if name not in self._handles:
            spec = {
                "driver": "zarr3",
                "kvstore": {"driver": "file", "path": (self._path / name).as_posix()},
                "recheck_cached_data": "open",  # the store is never changed in place
            }
            self._handles[name] = self._tensorstore.open(
                spec, context=self._context, open=True, read=True
            ).result()
        return self._handles[name]


def _write_array(group: Any, name: str, array: NDArray[Any]) -> None:
    from zarr.codecs import BloscCodec, Crc32cCodec

    chunks = chunk_shape(array.shape)
    # one shard holds the whole array: few files, which DVC and network file systems need
    shard = tuple(
        max(1, -(-side // chunk)) * chunk for side, chunk in zip(array.shape, chunks, strict=True)
    )
    stored = group.create_array(
        name,
        shape=array.shape,
        dtype=array.dtype,
        chunks=chunks,
        shards=shard,
        compressors=[BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"), Crc32cCodec()],
        fill_value=0,
        # an all-zero chunk is written too, so that every voxel stands under a checksum
        config={"write_empty_chunks": True},
    )
    if array.size:
        stored[...] = array
