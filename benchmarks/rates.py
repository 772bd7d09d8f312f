"""Commands that print a line of JSON with figures, run in turns; their medians and failures."""

import json
import math
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure import REPO, progress, settle

LONGEST_S = 900  # for one command; a peer prepares its own files in its first
Figures = dict[str, float]


@dataclass
class Rates:
    """What commands said, round by round.

    Attributes:
        rounds: how often each is run.
        said: figures of every round, by what ran.
        failures: why something has none, by what should have run; it is not run again.
    """

    rounds: int
    said: dict[str, list[Figures]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def measure(self, commands: Mapping[str, Sequence[str | Path]]) -> None:
        """Run all commands, one after the other, as often as there are rounds."""
        for number in range(self.rounds):
            progress(f"round {number + 1} of {self.rounds}")
            for name, command in commands.items():
                if name not in self.failures:
                    self._run(name, command)

    def has(self, name: str) -> bool:
        """Whether it ran in every round."""
        return name in self.said and name not in self.failures

    def values(self, name: str, what: str = "patches_per_s") -> list[float]:
        """A figure in every round; empty if it failed."""
        return [figures[what] for figures in self.said[name]] if self.has(name) else []

    def median(self, name: str, what: str = "patches_per_s") -> float:
        """Median of the rounds; NaN if it failed."""
        return statistics.median(self.values(name, what)) if self.has(name) else math.nan

    def _run(self, name: str, command: Sequence[str | Path]) -> None:
        settle()
        words = [str(part) for part in command]
        # files, not pipes: workers that outlive a command would hold a pipe open
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
            try:
                subprocess.run(
                    words, cwd=REPO, stdout=out, stderr=errors, check=True, timeout=LONGEST_S
                )
                out.seek(0)
                figures = json.loads(out.read().splitlines()[-1])
            except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
                errors.seek(0)
                lines = errors.read().decode("utf-8", "replace").strip().splitlines()
                self.failures[name] = lines[-1].strip() if lines else str(error)
                progress(f"{name} failed: {self.failures[name]}")
                return
        self.said.setdefault(name, []).append(figures)
        progress(f"{name}: {figures['patches_per_s']:.1f} patches/s")
