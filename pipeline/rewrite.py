"""Writing a file of the user's again; what was there stays beside it."""

import itertools
from pathlib import Path

from cache.files import replacing


def rewrite(path: Path, text: str, *, newline: str = "\n") -> Path | None:
    """Write a text file, whole or not at all, and keep what it replaces as ``<name>.bak``.

    An earlier backup of something else stays as well: the new one is then ``.bak2``, and so on.

    Args:
        path: the file.
        text: its lines end as Python's do.
        newline: what they end in, in the file.

    Returns:
        Where what was there is now; None if there was nothing, or the same.

    Raises:
        OSError: the disk refused it.
    """
    content = text.replace("\n", newline).encode("utf-8")
    before = path.read_bytes() if path.is_file() else None
    if before == content:
        return None
    backup = None if before is None else _kept(path, before)
    with replacing(path) as partial:
        partial.write_bytes(content)
    return backup


def _kept(path: Path, content: bytes) -> Path:
    """The backup that holds this content, written unless there is one."""
    for number in itertools.count(1):
        backup = path.with_name(f"{path.name}.bak{number if number > 1 else ''}")
        if not backup.exists():
            with replacing(backup) as partial:
                partial.write_bytes(content)
            return backup
        if backup.is_file() and backup.read_bytes() == content:
            return backup
    raise AssertionError("numbers do not end")
