"""HDF5: a file per case, blosc-lz4 chunks with Fletcher32 checksums; plain h5py reads it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from cache.backend import Pool, chunk_shape
from cache.grid import Box


@dataclass(frozen=True)
class Hdf5Backend:
    """The ``hdf5`` format."""

    name: str = "hdf5"
    suffix: str = ".h5"

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
            return {name: json.loads(value) for name, value in file.attrs.items()}

    def open(self, path: Path, pool: Pool) -> "Hdf5Arrays":
        """Open for reading."""
        return Hdf5Arrays(path)


class Hdf5Arrays:
    """One open HDF5 case."""

    def __init__(self, path: Path) -> None:
        self._file = h5py.File(path, "r")

    def read(self, name: str) -> NDArray[Any]:
        """One array."""
        return np.asarray(self._file[name][...])

    def start(self, name: str, box: Box, out: NDArray[Any]) -> None:
        """Read a box that lies inside, at once: h5py lets one thread at a time into HDF5."""
        if out.flags.c_contiguous:
            self._file[name].read_direct(out, box.slices)
        else:  # h5py refuses those
            out[...] = self._file[name][box.slices]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _write_array(file: Any, name: str, array: NDArray[Any]) -> None:
    if not array.size:
        file.create_dataset(name, data=array)
        return
    file.create_dataset(
        name,
        data=array,
        chunks=chunk_shape(name, array.shape),
        fletcher32=True,
        **hdf5plugin.Blosc(cname="lz4", clevel=5, shuffle=hdf5plugin.Blosc.BITSHUFFLE),
    )
