"""A race to accuracy: what every runner is given, its clock, its processes and its score.

A clock starts with the runner's first process and stops for nothing: interpreters, imports,
reading, preparing and caching count. What its weights are worth is found out afterwards.
"""

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.measure import REPO, TAIL_LINES, CommandError
from cache.case import Mask
from cache.reader import CaseStore
from stages.evaluate.overlap import overlap

OVERLAP = 0.5  # of the sliding window's patches, as in evaluation

Curve = dict[float, float]  # seconds -> mean Dice of the validation cases
Command = Sequence[str | Path]


@dataclass(frozen=True)
class Race:
    """What all runners are given.

    Attributes:
        src: the data set.
        params: a parameter file.
        store: all cases, prepared once beforehand: for the truth, and to know what can be prepared.
        split_file: patients who train and who validate.
        train: ids of the cases that are trained on.
        validation: ids of the cases that are scored.
        pairs: files of "image" and "label" that MONAI can read, by case.
        moments_s: when weights are wanted, rising; the last one is the end.
        peers_python: the Python that has MONAI.
        folder: for everything that is written.
    """

    src: Path
    params: Path
    store: CaseStore
    split_file: Path
    train: list[str]
    validation: list[str]
    pairs: dict[str, dict[str, str]]
    moments_s: list[float]
    peers_python: str
    folder: Path

    def score(self, predict: Callable[[str], Mask]) -> float:
        """Mean Dice over the validation cases, on the grids of their CTs' files.

        Args:
            predict: gives a case's mask, uint8 0/1, (Z, Y, X) as the CT's file has it.
        """
        found = [overlap(predict(one), self.store.source_mask(one)) for one in self.validation]
        return statistics.fmean(one.dice for one in found)


@dataclass
class Turn:
    """One run of one runner.

    Attributes:
        folder: for everything it writes; must exist.
        cores: that it may use, one thread each.
        seed: of weights and patches.
        began: seconds since 1970 when its clock was started.
    """

    race: Race
    folder: Path
    cores: list[int]
    seed: int
    began: float = 0.0

    def start_clock(self) -> None:
        """Begin; the first process has to be started at once."""
        self.began = time.time()

    def seconds(self) -> float:
        """What the clock says."""
        return time.time() - self.began

    @contextmanager
    def process(self, name: str, command: Command) -> Iterator["subprocess.Popen[bytes]"]:
        """A command on this turn's cores; on the way out it has ended.

        Raises:
            CommandError: with another code than 0.
        """
        log = self.folder / f"{name}.log"
        with log.open("wb") as said, _popen(command, said.fileno(), self._environment()) as process:
            _pin(process.pid, self.cores)
            try:
                yield process
            except BaseException:
                process.terminate()
                raise
        if process.returncode:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            told = " / ".join(line.strip() for line in lines[-TAIL_LINES:])
            raise CommandError(f"{name}: exit code {process.returncode}: {told}")

    def _environment(self) -> Mapping[str, str]:
        return {**os.environ, "OMP_NUM_THREADS": str(len(self.cores))}


@dataclass(frozen=True)
class Runner:
    """A way from raw CTs to a liver network.

    Attributes:
        name: as it is told.
        train: runs it until the last moment; gives a line on how that went.
        score: of what it left, at every moment.
    """

    name: str
    train: Callable[[Turn], str]
    score: Callable[[Turn], Curve]


def _popen(command: Command, out: int, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    words = [str(word) for word in command]
    return subprocess.Popen(words, cwd=REPO, env=environment, stdout=out, stderr=subprocess.STDOUT)


def _pin(process_id: int, cores: list[int]) -> None:
    """Keep a process to some cores, and so what it will start; macOS cannot."""
    with suppress(psutil.Error, AttributeError):
        psutil.Process(process_id).cpu_affinity(cores)
