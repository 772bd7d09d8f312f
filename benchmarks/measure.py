"""What the benchmarks of whole commands share: wall time, peak memory, sizes, the machine."""

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

REPO = Path(__file__).parent.parent
SAMPLE_S = 0.02
TAIL_LINES = 2  # of what a failed command said; a traceback's last ones name the fault


class CommandError(Exception):
    """A measured command failed; its message holds the last lines the command wrote."""


@dataclass(frozen=True)
class Peaks:
    """The most memory that processes of one command held, resident, bytes.

    Attributes:
        worker: of the largest child process; 0 if the command started none.
        main: of the command's own process.
    """

    worker: int
    main: int


def run_timed(command: Sequence[str | Path], extra_env: Mapping[str, str] | None = None) -> float:
    """Wall seconds of a command from start to end, interpreter and imports included.

    Raises:
        CommandError: it ended with another code than 0.
    """
    settle()
    start = time.perf_counter()
    _run(command, extra_env)
    return time.perf_counter() - start


def run_watched(command: Sequence[str | Path]) -> Peaks:
    """The peak memory of a command's processes; the watching costs time, so none is reported.

    Raises:
        CommandError: it ended with another code than 0.
    """
    settle()
    with tempfile.TemporaryFile() as said:
        words = [str(part) for part in command]
        with subprocess.Popen(words, cwd=REPO, stdout=said, stderr=subprocess.STDOUT) as process:
            peaks = _watched(process)
        said.seek(0)
        _require_success(process.returncode, said.read())
    main = peaks.pop(process.pid, 0)
    return Peaks(max(peaks.values(), default=0), main)


def _watched(process: "subprocess.Popen[bytes]") -> dict[int, int]:
    """The peak of every process in the tree, by its id, watched until the first one ends."""
    peaks: dict[int, int] = {}
    root = psutil.Process(process.pid)
    while process.poll() is None:
        with suppress(psutil.Error):  # the root ended since it was asked
            for one in [root, *root.children(recursive=True)]:
                peaks[one.pid] = max(peaks.get(one.pid, 0), _peak(one))
        time.sleep(SAMPLE_S)
    return peaks


def _run(command: Sequence[str | Path], extra_env: Mapping[str, str] | None) -> None:
    env = {**os.environ, **(extra_env or {})}
    ended = subprocess.run(
        [str(part) for part in command],
        cwd=REPO,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    _require_success(ended.returncode, ended.stdout)


def _require_success(code: int, said: bytes) -> None:
    if code != 0:
        lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines()]
        tail = [line for line in lines if line.strip("^~ ")][-TAIL_LINES:]
        raise CommandError(f"exit code {code}: {' / '.join(tail)}")


def _peak(process: psutil.Process) -> int:
    """The system's own high-water mark where it keeps one, so that no spike falls between looks."""
    try:
        memory = process.memory_info()
        if hasattr(memory, "peak_wset"):  # Windows
            return int(memory.peak_wset)
        status = Path(f"/proc/{process.pid}/status")
        if status.is_file():
            lines = status.read_text(encoding="utf-8", errors="replace").splitlines()
            marks = [line for line in lines if line.startswith("VmHWM:")]
            return int(marks[0].split()[1]) * 1024 if marks else int(memory.rss)
        return int(memory.rss)
    except (psutil.Error, OSError):  # it ended between the look and the question
        return 0


def settle() -> None:
    """Let the disk finish what an earlier run left to it, so that no run pays for another's."""
    if hasattr(os, "sync"):
        os.sync()


def tree_bytes(paths: Iterable[Path]) -> int:
    """Bytes of files, and of all files in folders."""
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files if file.is_file())


def machine() -> list[str]:
    """Date, commit, processor, cores, memory, system and how busy it is, one fact a line."""
    gigabytes = psutil.virtual_memory().total / 2**30
    lines = [
        f"{date.today().isoformat()}, commit {_commit()}",
        f"{_processor()}, {_cores()} cores, {gigabytes:.0f} GB, {_system()}",
    ]
    if hasattr(os, "getloadavg"):
        lines.append(f"load average at the start {os.getloadavg()[0]:.2f}")
    return lines


def versions(names: Iterable[str]) -> str:
    """The versions of this Python and of packages it has installed."""
    found = [f"Python {platform.python_version()}"]
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def progress(text: str) -> None:
    """Tell on stderr what is being measured; the table alone goes to stdout."""
    print(text, file=sys.stderr, flush=True)


def _commit() -> str:
    try:
        name = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name} with uncommitted changes" if changed else name


def _git(*words: str) -> str:
    command = ["git", "--no-optional-locks", *words]
    ended = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    return ended.stdout.strip()


def _system() -> str:
    """The system and the first two numbers of its release: the rest names a vendor's build."""
    return f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    affinity: Any = getattr(os, "sched_getaffinity", None)  # there is none on Windows
    return len(affinity(0)) if affinity else os.cpu_count() or 1
