"""The files of a case that no checksum of its format covers, held against the manifest's digests.

A flipped bit in a Zarr case's ``zarr.json`` would else be another spacing, origin or patient.
"""

from pathlib import Path, PurePosixPath

from cache.errors import StoreError
from cache.formats import backend_of
from cache.manifest import Entry, sha256_of

MEND = "run python -m pipeline.verify --deep --repair"


def require_metadata(root: Path, entry: Entry) -> None:
    """Make sure that the bare files of a case hold the bytes that were written.

    Takes five small files of a Zarr case, and none of an HDF5 file, which checks itself.

    Args:
        root: the store.
        entry: the case's line in its manifest.

    Raises:
        StoreError: names the first file that does not, or that cannot be read.
    """
    bare = backend_of(root / entry.file).bare
    for name, written in entry.files.items():
        if PurePosixPath(name).name != bare:
            continue
        try:
            found = sha256_of(root / name)
        except OSError as error:
            fact = f"case {entry.case_id} is damaged: this file cannot be read ({error.strerror})"
            raise StoreError(root / name, fact, MEND) from error
        if found != written.sha256:
            fact = f"case {entry.case_id} is damaged: these are not the bytes that were written"
            raise StoreError(root / name, fact, MEND)
