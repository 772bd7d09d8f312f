"""One writer at a time in a folder, by a lock beside it that goes with the process."""

import errno
import json
import logging
import os
import platform
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from cache.errors import DataError
from cache.jsons import parsed
from cache.state import state_folder

LOG = logging.getLogger(__name__)
LOCK, MARK = "lock", "lock.held"
# how a file system says that it has no locks: NFS without its daemon, FUSE, some cluster disks
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}
ATTEMPTS = 3  # to take the place of a mark whose process has ended
SAME_S = 60.0  # a process of the same number that began later is another one; clocks are set


@contextmanager
def only_writer(folder: Path, busy: DataError) -> Iterator[None]:
    """Keep other runs from writing to a folder; the lock goes with the process, however it ends.

    Where the file system has no locks, a file with the name of the machine and the process stands
    in for one, with a warning: that of a process of this machine that was killed is passed over,
    that of another machine has to be deleted by hand. Where nothing can be written beside the
    folder, there is a warning alone.

    Args:
        folder: that is written to; the lock is beside it.
        busy: what to raise if another run is writing there.

    Raises:
        DataError: another run is writing there.
        OSError: the disk fails.
    """
    place = state_folder(folder)
    with ExitStack() as held:
        try:
            held.callback(_taken(place, busy))
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            # the folder itself may be writable all the same, as one mounted into a container is
            LOG.warning("%s: no lock can be put there (%s); let no other run write", place, error)
        yield


def _taken(place: Path, busy: DataError) -> Callable[[], object]:
    """Take the lock, the system's or a file in its place; give what releases it."""
    lock, mark = FileLock(place / LOCK), place / MARK
    place.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise busy from error
    except (OSError, NotImplementedError) as error:  # the latter from older filelocks
        if isinstance(error, OSError) and error.errno not in WITHOUT_LOCKS:
            raise
        LOG.warning("%s: cannot be locked (%s); the file %s takes its place", place, error, MARK)
        return partial(_unmark, mark, _marked(mark, busy))
    return lock.release


def _marked(path: Path, busy: DataError) -> bytes:
    """Make a file that only one run can make, and give what it holds."""
    me = {"machine": platform.node(), "process": os.getpid(), "began": _began(os.getpid())}
    mark = json.dumps(me).encode()
    for _ in range(ATTEMPTS):
        with suppress(FileExistsError):
            with path.open("xb") as file:
                file.write(mark)
            return mark
        _remove_if_dead(path, busy)
    raise busy


def _remove_if_dead(path: Path, busy: DataError) -> None:
    """Remove the mark of a process of this machine that has ended.

    Raises:
        DataError: the process lives, or is another machine's, which nobody here can look at.
    """
    with suppress(FileNotFoundError):  # it has just ended
        held = path.read_bytes()
        owner = _owner(held)
        if owner is None or owner.machine != platform.node():
            where = "an unknown machine" if owner is None else owner.machine
            fix = f"{busy.fix}; if no run on {where} writes there any more, delete {path}"
            raise type(busy)(busy.where, busy.fact, fix)
        began = _began(owner.process)
        if began is not None and began < owner.began + SAME_S:
            raise busy
        _unmark(path, held)


def _unmark(path: Path, mark: bytes) -> None:
    """Remove a mark, unless another has taken its place meanwhile."""
    aside = path.with_name(f"{path.name}-{secrets.token_hex(4)}")
    with suppress(FileNotFoundError):
        path.rename(aside)
        if aside.read_bytes() == mark:
            aside.unlink()
        else:
            aside.rename(path)


@dataclass(frozen=True)
class _Owner:
    """Who made a mark; ``began`` is when the process did, in seconds since 1970."""

    machine: str
    process: int
    began: float


def _owner(held: bytes) -> _Owner | None:
    """Who made a mark; None if it was killed before it had written its name."""
    try:
        fields = parsed(held.decode("utf-8"))
        return _Owner(str(fields["machine"]), int(fields["process"]), float(fields["began"]))
    except (ValueError, KeyError, TypeError):
        return None


def _began(process: int) -> float | None:
    """When a process of this machine began; None if it has ended."""
    try:
        return float(psutil.Process(process).create_time())
    except psutil.NoSuchProcess:
        return None
