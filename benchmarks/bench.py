"""One run of the stage one benchmark: its folders, its times, and how a figure meets its bar."""

import json
import math
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.measure import REPO, CommandError, progress, run_timed
from benchmarks.sources import Source
from cache.errors import StoreError
from cache.files import remove
from cache.manifest import read_manifest

Changes = Mapping[str, Any]  # keys of the preprocess section and their values


@dataclass(frozen=True)
class Bench:
    """What every section measures with, and what a section leaves for later ones.

    Attributes:
        sources: the CTs and labels below ``src``.
        scratch: for all that is prepared; deleted at the end, unless something failed.
        workers: processes of everything that is measured.
        rounds: of everything but peers, which run once.
        seconds: of every round, by what ran.
        sizes: bytes of what was prepared, by what prepared it.
        failures: why something has no time, by what should have run.
    """

    src: Path
    sources: list[Source]
    scratch: Path
    workers: int
    rounds: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def time(self, name: str, run: Callable[[], float]) -> None:
        """Add the seconds that a run tells, or its failure; what failed once is not run again."""
        if name in self.failures:
            return
        try:
            seconds = run()
        except CommandError as error:
            self.failures[name] = str(error)
            progress(f"{name} failed: {error}")
            return
        self.seconds.setdefault(name, []).append(seconds)
        progress(f"{name}: {seconds:.2f} s")

    def median(self, name: str) -> float:
        """Median seconds of the rounds; NaN if it failed."""
        return statistics.median(self.seconds[name]) if self.has(name) else math.nan

    def least(self, name: str) -> float:
        """Seconds of the fastest round; NaN if it failed."""
        return min(self.seconds[name]) if self.has(name) else math.nan

    def has(self, name: str) -> bool:
        """Whether it ran in every round it was asked for."""
        return name in self.seconds and name not in self.failures

    def store(self, name: str) -> Path:
        """Where stage one's store of this name lies."""
        return self.scratch / name.replace(" ", "-") / "cases"

    def command(self, name: str, changes: Changes, src: Path | None = None) -> list[str | Path]:
        """The command that prepares a folder, by default the CTs, into the store of this name."""
        store = self.store(name)
        params = store.parent / "params.yaml"
        write_params(params, changes)
        places: list[str | Path] = ["--src", src or self.src, "--out", store, "--params", params]
        workers = ["--workers", str(self.workers)]
        return [sys.executable, "-m", "pipeline.preprocess", *places, *workers]

    def prepare(self, name: str, changes: Changes) -> float:
        """Wall seconds of preparing all CTs into a store that is not there yet.

        Raises:
            CommandError: the command failed, or a case is not in the store.
        """
        remove(self.store(name))
        seconds = run_timed(self.command(name, changes))
        require_cases(self.store(name), len(self.sources))
        return seconds


def write_params(path: Path, changes: Changes) -> None:
    """The preset for livers with some values of its preprocess section changed."""
    yaml = YAML()
    preset = REPO / "presets" / "liver.yaml"
    document = yaml.load(preset.read_text(encoding="utf-8"))
    document["preprocess"].update(changes)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(document, file)


def require_cases(store: Path, count: int) -> None:
    """Refuse a time in which not every case was prepared.

    Raises:
        CommandError: the store lacks cases, or cannot be read.
    """
    try:
        stored = len(read_manifest(store).cases)
    except (StoreError, json.JSONDecodeError) as error:
        raise CommandError(str(error)) from error
    if stored != count:
        reasons = store.parent / "problems.json"
        raise CommandError(f"{stored} of {count} cases prepared; reasons in {reasons}")


def at_most(value: float, most: float, unit: str) -> str:
    """The bar that a figure should stay below, and whether it does."""
    return f"bar <= {most:g} {unit}: {_verdict(value, value <= most)}"


def at_least(value: float, least: float, unit: str) -> str:
    """The bar that a figure should reach, and whether it does."""
    return f"bar >= {least:g} {unit}: {_verdict(value, value >= least)}"


def _verdict(value: float, is_met: bool) -> str:
    if math.isnan(value):
        return "not measured"
    return "met" if is_met else "MISSED"


def failed_row(bench: Bench, name: str) -> str:
    """The line of something that has no figure, and why."""
    return f"  {name:32} failed: {bench.failures.get(name, 'it did not run')}"
