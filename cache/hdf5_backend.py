"""HDF5: a file per case, blosc-lz4 chunks with Fletcher32 checksums; plain h5py reads it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from cache.backend import Pool, chunk_shape
from cache.grid import Box
from cache.jsons import parsed

# Of an array's chunks. Two random patches of a case seldom share chunks, so a small cache saves
# nothing: without one 61 patches of 96x128x128 were read in a second, with 8 MB 65, 32 MB 201.
LEAST_CACHE_BYTES = 32 << 20
SLOT_BYTES = 4096  # a place of its hash table for each; chunks, once decoded, have 32 kB and more


@dataclass(frozen=True)
class Hdf5Backend:
    """The ``hdf5`` format."""

    name: str = "hdf5"
    suffix: str = ".h5"
    # each takes a file descriptor, of which a process has 1024, and 0.6 MB; opening a case costs
    # a quarter of reading a patch of 96x128x128
    open_cases: ClassVar[int] = 256
    bare: ClassVar[str] = ""  # of the file's own structures, "latest" ones have checksums

    def write(
        self, path: Path, arrays: dict[str, NDArray[Any]], attributes: dict[str, Any]
    ) -> None:
        """Write one case as an HDF5 file; attributes are JSON, since HDF5 has no nested ones."""
        # made in memory: when HDF5 itself meets a full disk, closing the file kills the process.
        # "latest" structures carry checksums of the file's own metadata
        in_memory = {"driver": "core", "backing_store": False, "block_size": 1 << 20}
        with h5py.File(path, "w", libver="latest", **in_memory) as file:
            for name, value in attributes.items():
                # of fixed length: others go to a heap without checksums, where one flipped bit can
                # send the HDF5 library round and round for ever
                file.attrs[name] = np.bytes_(json.dumps(value, sort_keys=True))
            for name, array in arrays.items():
                _write_array(file, name, array)
            file.flush()
            path.write_bytes(file.id.get_file_image())

    def attributes(self, path: Path) -> dict[str, Any]:
        """The file's attributes, decoded."""
        with h5py.File(path, "r") as file:
            return {name: parsed(value) for name, value in file.attrs.items()}

    def open(self, path: Path, pool: Pool) -> "Hdf5Arrays":
        """Open for reading."""
        return Hdf5Arrays(path, pool.limit_bytes // max(1, min(pool.cases, self.open_cases)))


class Hdf5Arrays:
    """One open HDF5 case; its datasets by name, opened when first asked for."""

    def __init__(self, path: Path, cache_bytes: int) -> None:
        self._file = h5py.File(path, "r", **_chunk_cache(cache_bytes))
        self._datasets: dict[str, Any] = {}

    def read(self, name: str) -> NDArray[Any]:
        """One array."""
        return np.asarray(self._dataset(name)[...])

    def prepare(self, name: str, box: Box, out: NDArray[Any]) -> None:
        """Read a box that lies inside, at once: h5py lets one thread at a time into HDF5."""
        dataset = self._dataset(name)
        if box.clipped(dataset.shape) != box:  # h5py would read what there is
            raise ValueError(f"its shape is {dataset.shape}, which does not hold {box}")
        if out.flags.c_contiguous:
            dataset.read_direct(out, box.slices)
        else:  # h5py refuses those
            out[...] = dataset[box.slices]

    def close(self) -> None:
        """Close the file."""
        self._datasets.clear()
        self._file.close()

    def _dataset(self, name: str) -> Any:
        if name not in self._datasets:
            self._datasets[name] = self._file[name]
        return self._datasets[name]


def _chunk_cache(case_bytes: int) -> dict[str, int]:
    """HDF5's settings for a case that may hold this much decoded; left alone, it takes 16 MB."""
    size = case_bytes // 2  # for the image, and for the mask
    if size < LEAST_CACHE_BYTES:
        return {"rdcc_nbytes": 0}
    return {"rdcc_nbytes": size, "rdcc_nslots": size // SLOT_BYTES}


def _write_array(file: Any, name: str, array: NDArray[Any]) -> None:
    if not array.size:
        file.create_dataset(name, data=array)
        return
    file.create_dataset(
        name,
        data=array,
        chunks=chunk_shape(name, array.shape),
        fletcher32=True,
        # of bytes; bits are decoded half as fast: docs/decisions/0011-loader.md
        **hdf5plugin.Blosc(cname="lz4", clevel=5, shuffle=hdf5plugin.Blosc.SHUFFLE),
    )
