"""The storage formats there are."""

from pathlib import Path

from cache.backend import Backend
from cache.hdf5_backend import Hdf5Backend
from cache.zarr_backend import ZarrBackend


def backends() -> dict[str, Backend]:
    """Every storage format by its name in params.yaml."""
    return {backend.name: backend for backend in (ZarrBackend(), Hdf5Backend())}


def backend_of(path: Path) -> Backend:
    """The format of a case's file, by its ending. KeyError if it is none of ours."""
    return {backend.suffix: backend for backend in backends().values()}[path.suffix]
