"""The pictures of qc.html as they are beside a store: a JPEG with a digest behind it."""

from pathlib import Path

from cache.errors import StoreError
from cache.files import read_bytes, replacing
from cache.sealed import sealed_bytes, unsealed_bytes


def write_picture(path: Path, jpeg: bytes, *, fix: str) -> None:
    """Write a picture, whole or not at all.

    Args:
        path: where to.
        jpeg: its bytes.
        fix: what to do where the disk refuses it.

    Raises:
        StoreError: the disk refused it; it would refuse those of other cases too.
    """
    try:
        with replacing(path) as partial:
            partial.write_bytes(sealed_bytes(jpeg))
    except OSError as error:
        raise StoreError(path, f"cannot be written ({error})", fix) from error


def read_picture(path: Path) -> bytes | None:
    """The bytes of a picture; None if it is not there, or not as it was written."""
    try:
        return unsealed_bytes(read_bytes(path))
    except (FileNotFoundError, ValueError):
        return None
