"""Files of torch that are believed only if every bit is as it was written.

torch itself looks at no checksum: of 240 flipped bits in two checkpoints it noticed none. A file is
a zip archive with a CRC-32 of each part, which is looked at here, and holds a digest of all its
values, since the archive's own headers have no checksum. Files from before there was a digest are
held by the CRC-32 alone.
"""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from cache.errors import ModelError
from cache.files import named
from stages.machine import is_shortage, shortage
from stages.train.checkpoints.digest import content_digest

DIGEST = "digest"
ARCHIVE = b"PK\x03\x04"  # what a zip archive begins with
FIX = "restore it from a copy, or train it again with python -m pipeline.train"


class UnsoundError(Exception):
    """What is wrong with a file, in words."""


def write_sealed(path: Path, fields: dict[str, Any]) -> None:
    """Write values that ``torch.load`` reads with ``weights_only``, and their digest.

    Raises:
        TypeError: something is among them that cannot be read like that.
        OSError, RuntimeError: the disk refused it; torch's own writer raises the latter.
    """
    torch.save({**fields, DIGEST: content_digest(fields)}, path)


def read_sealed(path: Path) -> dict[str, Any]:
    """Read such a file onto the CPU, its digest not yet looked at; nothing in it is run.

    Raises:
        ModelError: it is missing, damaged, or of another kind.
        DataError: it does not fit into memory.
        OSError: the disk refused it.
    """
    if not path.is_file():
        raise ModelError(path, "there is no model here", "run python -m pipeline.train first")
    content = _content_of(path)
    try:
        return _loaded(content)
    except Exception as error:  # zipfile and torch stumble over a damaged file in a dozen ways
        if is_shortage(error):
            raise shortage(path, error) from error
        raise damaged(path, reason_of(error)) from error


def without_digest(path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """What a file holds besides its digest, if that is theirs.

    Raises:
        ModelError: the values are not those that were written.
    """
    others = {name: value for name, value in fields.items() if name != DIGEST}
    try:
        is_sound = content_digest(others) == fields.get(DIGEST)
    except (TypeError, ValueError, RuntimeError):  # nothing that was written with a digest
        is_sound = False
    if not is_sound:
        raise damaged(path, "its values are not those that were written")
    return others


def damaged(path: Path, reason: str) -> ModelError:
    """The fault of a file that is not what it should be."""
    return ModelError(path, f"is damaged, or no model of liver3d ({reason})", FIX)


def reason_of(error: Exception) -> str:
    """What is wrong, in one line without a full stop."""
    line = str(error).partition("\n")[0].rstrip(". ")
    if isinstance(error, UnsoundError):
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _content_of(path: Path) -> bytes:
    """The bytes of what may be an archive; of any other file, which may be of any size, none."""
    with named(path), path.open("rb") as file:
        begins = file.read(len(ARCHIVE))
        return begins + file.read() if begins == ARCHIVE else b""


def _loaded(content: bytes) -> dict[str, Any]:
    if not content:
        raise UnsoundError("it is not a whole file of torch")
    _require_checksums(content)
    try:
        fields = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's text advises to load it unsafely
        raise UnsoundError("it holds something else than numbers and text") from error
    if not isinstance(fields, dict):
        raise UnsoundError(f"it holds a {type(fields).__name__}")
    return fields


def _require_checksums(content: bytes) -> None:
    """Refuse an archive of which a part is not as it was written, or is packed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        # torch packs nothing; unpacked, a part may be of any size
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise UnsoundError("its parts are compressed")
        if (part := archive.testzip()) is not None:
            raise UnsoundError(f"{part.rpartition('/')[2]!r} in it fails its checksum")
