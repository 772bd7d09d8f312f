"""Paths that every library can open."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def is_plain(path: Path) -> bool:
    """Whether SimpleITK takes this path; at a name that is not UTF-8 it ends the process."""
    if os.name == "nt":
        return str(path).isascii()
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:  # bytes of another encoding, kept as surrogates
        return False
    return True


@contextmanager
def plain_folder(near: Path) -> Iterator[Path]:
    """A folder that is gone afterwards, with a path that every library takes.

    Args:
        near: where what is written into it belongs; on Windows its drive is tried first.

    Raises:
        OSError: there is nowhere to put one.
    """
    temp = tempfile.gettempdir()
    places = [near.absolute().anchor, temp] if os.name == "nt" else [temp]
    for place in (each for each in places if is_plain(Path(each))):
        try:
            folder = tempfile.TemporaryDirectory(
                prefix=".liver3d-", dir=place, ignore_cleanup_errors=True
            )
        except OSError:  # the root of a drive may be closed to users
            continue
        with folder as name:
            yield Path(name)
        return
    raise OSError(f"there is no folder for temporary files with a plain path: set TEMP ({temp})")
