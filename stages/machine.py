"""What of this machine is ours: free memory and processors, within a container's limits.

psutil tells of the whole machine; a container, a Slurm job or a systemd unit may have less, which
Linux says in the files of control groups. Neither Windows nor macOS has them.
"""

import errno
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import psutil

from cache.errors import DataError

# what libraries without a MemoryError of their own say of too small a memory: torch on the CPU
# ("not enough memory: you tried to allocate" on Windows, "can't allocate memory" elsewhere) and on
# a GPU, cuDNN and cuBLAS, onnxruntime with and without its arena, ITK, and C++ itself
SHORTAGE = re.compile(
    r"DefaultCPUAllocator|you tried to allocate|out of memory\b"
    r"|ALLOC_FAILED|ALLOCATION_FAILED|cudaErrorMemoryAllocation|BFCArena"
    r"|Failed to allocate memory|bad_alloc|bad allocation"
)
MORE_MEMORY = "close other programs, or use a machine with more memory"

CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")  # lines of number:controllers:path

# limit, use and the page cache that can be given back, in bytes, under cgroup v2 and v1
MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory_bytes(root: Path = CGROUP_ROOT, own: Path = OWN_CGROUP) -> int:
    """Memory this process and its children can still take: the machine's, or less in a container.

    Page cache counts as free, as it does for psutil: reading a folder of CTs fills a container's
    memory with it, and the kernel gives it back before it kills anybody.

    Args:
        root: where control groups are mounted; where nothing is, only the machine counts.
        own: the file that tells this process' control groups.

    Returns:
        Bytes, 0 or more.
    """
    left = [_left_bytes(folder) for folder in _own_folders("memory", root, own)]
    machine = int(psutil.virtual_memory().available)
    return max(0, min([machine, *(free for free in left if free is not None)]))


def processors(root: Path = CGROUP_ROOT, own: Path = OWN_CGROUP) -> int:
    """Processors this process may keep busy, 1 or more; half a one in a quota counts as one.

    Args:
        root: where control groups are mounted.
        own: the file that tells this process' control groups.
    """
    shares = [_processor_share(folder) for folder in _own_folders("cpu", root, own)]
    quotas = [math.ceil(share) for share in shares if share is not None]
    return max(1, min([_allowed_processors(), *quotas]))


def is_shortage(error: BaseException) -> bool:
    """Whether an exception says that the memory, of the machine or of a GPU, did not suffice."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # torch is not imported for its OutOfMemoryError
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return not isinstance(error, DataError) and SHORTAGE.search(str(error)) is not None


def shortage(where: Path | str, error: BaseException, fix: str = MORE_MEMORY) -> DataError:
    """What to say of an exception that ``is_shortage`` knows.

    Args:
        where: what did not fit: a CT, a model.
        error: names how much was asked for, in its own words.
        fix: what to do about it.
    """
    found = SHORTAGE.search(str(error))
    # ITK and onnxruntime put the place in their code first
    said = str(error)[found.start() if found else 0 :].strip().partition("\n")[0]
    return DataError(where, f"does not fit into memory{f' ({said})' if said else ''}", fix)


@contextmanager
def naming_shortage(where: Path | str, fix: str = MORE_MEMORY) -> Iterator[None]:
    """Turn running out of memory, in whatever library, into one line.

    Raises:
        DataError: names what did not fit, and what to do.
    """
    try:
        yield
    except Exception as error:
        if not is_shortage(error):
            raise
        raise shortage(where, error, fix) from error


def _allowed_processors() -> int:
    if hasattr(psutil.Process, "cpu_affinity"):  # Linux and Windows
        return len(psutil.Process().cpu_affinity())
    return os.cpu_count() or 1


def _own_folders(controller: str, root: Path, own: Path) -> Iterator[Path]:
    """The folders of this process' control group and of all above it, as far as they are there.

    A limit on any of them binds. The mount itself is always among them: inside a container it
    often is the own group, while the path in /proc/self/cgroup is the one outside.
    """
    paths = _own_paths(own)
    # v2 is mounted at the root, or beside v1, which has a folder for each controller
    for mount, key in ((root, ""), (root / "unified", ""), (root / controller, controller)):
        yield mount
        folder = mount
        for part in PurePosixPath(paths.get(key, "/")).parts[1:]:
            folder = folder / part
            # a path seen from inside another group may begin with "..": it is not mounted here
            if part == ".." or not folder.is_dir():
                break
            yield folder


def _own_paths(own: Path) -> dict[str, str]:
    """The control group's path by controller; by "" that of cgroup v2, which has one for all."""
    lines = (_text(own) or "").splitlines()
    fields = [line.split(":", 2) for line in lines if line.count(":") >= 2]
    return {name: path for _, names, path in fields for name in names.split(",")}


def _left_bytes(folder: Path) -> int | None:
    """What one control group's limit leaves, bytes; None where it has no limit."""
    for limit_name, used_name, cache_name in MEMORY_FILES:
        limit, used = _text(folder / limit_name), _text(folder / used_name)
        if limit is None or used is None or not limit.isdigit():  # v2 says "max" for no limit
            continue
        lines = (_text(folder / "memory.stat") or "").splitlines()
        stat = dict(line.split(" ", 1) for line in lines if " " in line)
        return int(limit) - (int(used) - int(stat.get(cache_name, "0")))
    return None


def _processor_share(folder: Path) -> float | None:
    """Processors one control group's quota allows, 1.5 for one and a half; None without a quota."""
    both = _text(folder / "cpu.max")  # v2: quota and period, µs
    if both is None:
        quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        both = f"{quota} {period}"
    numbers = both.split()
    # "max" in v2 and -1 in v1 mean no quota
    return int(numbers[0]) / int(numbers[1]) if all(map(str.isdigit, numbers)) else None


def _text(path: Path) -> str | None:
    """A small file's text without the newline at its end; None where it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
