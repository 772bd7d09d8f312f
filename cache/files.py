"""Writing whole or not at all: everything is made under a temporary name, then renamed."""

import contextlib
import errno
import functools
import json
import os
import platform
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

PARTIAL = ".partial-"
MARK = ".being-written"  # lies in a writer's temporary folder as long as nobody removes that
KILLED_S = 24 * 3600  # another machine's temporary folder this old is of a writer that was killed
ATTEMPTS = 20  # each fails only because another writer has just succeeded
PAUSE_S = 0.02  # between two of them
# what a rename meets if another writer was faster; Windows calls a folder in the way a denied one
TAKEN = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.EACCES}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write a file or folder to; it takes the place of ``path`` at the end.

    It has the name of ``path``, since some writers choose the format by it and others write it
    into the file, but lies in a folder of this writer alone: two processes that write the same
    path never meet, and the last one's stays. If the body raises, nothing of it stays and what was
    at ``path`` is untouched. A folder never gives way to a file: it may hold somebody's data.

    Raises:
        IsADirectoryError: a file was written where there is a folder.
        FileNotFoundError: another process removed what was written so far.
        OSError: the place of ``path`` was taken in every attempt.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(_own_name())
    partial = scratch / path.name
    try:
        with named(path):
            scratch.mkdir()
            (scratch / MARK).touch()
            yield partial
            _flush(partial)
            _require_undisturbed(scratch, path)
            if path.is_dir() and not partial.is_dir():
                raise IsADirectoryError(errno.EISDIR, "is a folder, not a file", str(path))
            _put(partial, path)
    finally:
        _clear(scratch)
    _remove_old_partials(path.parent)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Let an error of the disk name this file: a read or a write that fails names none itself."""
    try:
        yield
    except OSError as error:
        # a library's own words, without a number, would give way to the name
        if error.errno is not None and (not error.filename or PARTIAL in str(error.filename)):
            error.filename = str(path)
        raise


def read_bytes(path: Path) -> bytes:
    """The bytes of a file; an OSError names it."""
    with named(path):
        return path.read_bytes()


def read_text(path: Path) -> str:
    """The text of a UTF-8 file; an OSError names it."""
    with named(path):
        return path.read_text(encoding="utf-8")


def remove(path: Path) -> None:
    """Delete a file or a folder with all in it, if it is there."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    # renamed first: of a folder deleted by half, the half that stays may look like a whole case
    with contextlib.suppress(FileNotFoundError):  # another process deletes it
        shutil.rmtree(path.rename(path.with_name(_own_name())))


def remove_partials(folder: Path) -> None:
    """Delete what killed writers left behind; a writer still at work ends with an error."""
    for scrap in folder.glob(f"{PARTIAL}*"):
        remove(scrap)


def second_name(path: Path, other: Path) -> None:
    """Let a file also be found under another name, by a link, or a copy where there are none."""
    try:
        other.hardlink_to(path)
    except OSError:  # a file system without links, or one that refuses those to others' files
        shutil.copyfile(path, other)


def write_json(path: Path, value: Any) -> None:
    """Write JSON a person can read, whole or not at all; NaN is refused."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """The text of ``write_json``: equal values have equal texts."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return text + "\n"


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all, with the same bytes on every system.

    A file's name on Linux may be no text at all; what cannot be encoded is written as an escape,
    which JSON reads as well.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def _own_name() -> str:
    """A temporary name no other writer has, on this machine or another that shares the disk."""
    return f"{PARTIAL}{_machine()}-{os.getpid():x}-{secrets.token_hex(4)}"


def _machine() -> str:
    """What tells this machine from others that share the disk."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _is_abandoned(scrap: Path) -> bool:
    """Whether the writer with this temporary folder is no more, as far as this machine can tell."""
    machine, _, process = scrap.name.removeprefix(PARTIAL).partition("-")
    if machine == _machine():
        return not psutil.pid_exists(int(process.partition("-")[0], 16))
    return scrap.stat().st_mtime < time.time() - KILLED_S


def _put(partial: Path, path: Path) -> None:
    """Rename what was written to its place, again where another writer put its own there first.

    A cluster may give one case to two workers at once.
    """
    for left in reversed(range(ATTEMPTS)):
        try:
            if path.is_dir():  # a rename cannot replace a folder that holds something
                # aside, and not deleted: for the shortest time there is no case of this name
                path.rename(partial.with_name(f".replaced-{left}"))
            partial.replace(path)
            return
        except OSError as error:
            if error.errno not in TAKEN or not left or not partial.exists():
                raise
            time.sleep(PAUSE_S)


def _require_undisturbed(scratch: Path, path: Path) -> None:
    """Refuse what may be a half: a writer of folders makes anew what was removed under it."""
    if not (scratch / MARK).is_file():
        fact = "was removed while it was being written; does another run write here?"
        raise FileNotFoundError(errno.ENOENT, fact, str(path))


def _clear(scratch: Path) -> None:
    """Delete a temporary folder; what a failing disk keeps of it, a later process deletes."""
    shutil.rmtree(scratch, ignore_errors=True)  # an error would hide why nothing was written


@functools.cache  # to list a folder of 10,000 cases takes 6 ms, as long as a small write
def _remove_old_partials(folder: Path) -> None:
    """Delete the temporary folders of writers that were killed."""
    for scrap in folder.glob(f"{PARTIAL}*"):
        # another process may be deleting it as well; that is not this writer's fault
        with contextlib.suppress(OSError, ValueError):  # a name may be somebody else's
            if _is_abandoned(scrap):
                remove(scrap)


def _flush(path: Path) -> None:
    """Bring the bytes to the disk before the name: after a power cut a name means a whole file."""
    files = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
    for file in files:
        with file.open("rb+") as handle:
            os.fsync(handle.fileno())
