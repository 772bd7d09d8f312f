"""Writing whole or not at all: everything is made under a temporary name, then renamed."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = ".partial-"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write a file or folder to; it takes the place of ``path`` at the end.

    The temporary name keeps the ending, since writers choose the format by it. If the body
    raises, nothing of it stays and what was at ``path`` is untouched. A folder never gives way to
    a file: it may hold somebody's data.

    Raises:
        IsADirectoryError: a file was written where there is a folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(PARTIAL + path.name)
    remove(partial)
    try:
        yield partial
        _flush(partial)
        if path.is_dir() and not partial.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder, not a file", str(path))
        if path.is_dir():  # a rename cannot replace a folder that holds something
            remove(path)
        partial.replace(path)
    except BaseException:
        remove(partial)
        raise


def remove(path: Path) -> None:
    """Delete a file or a folder with all in it, if it is there."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    if not path.name.startswith(PARTIAL):
        # renamed first: of a folder deleted by half, the half that stays may look like a whole case
        scrap = path.with_name(f"{PARTIAL}{path.name}.old")
        remove(scrap)
        path = path.rename(scrap)
    shutil.rmtree(path)


def remove_partials(folder: Path) -> None:
    """Delete what a killed writer left behind."""
    for scrap in folder.glob(f"{PARTIAL}*"):
        remove(scrap)


def write_json(path: Path, value: Any) -> None:
    """Write JSON a person can read, whole or not at all; NaN is refused."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    with replacing(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8", newline="\n")


def _flush(path: Path) -> None:
    """Bring the bytes to the disk before the name: after a power cut a name means a whole file."""
    files = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
    for file in files:
        with file.open("rb+") as handle:
            os.fsync(handle.fileno())
