"""How long the steps of an evaluation take. For the report alone: times differ from run to run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from stages.evaluate.background import StageTime
from stages.evaluate.shown import duration


class Stopwatch:
    """Seconds by step, summed over cases."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Count what happens inside."""
        began = time.perf_counter()
        try:
            yield
        finally:
            passed = time.perf_counter() - began
            self._seconds[name] = self._seconds.get(name, 0.0) + passed

    def stage_time(self, stage: str) -> StageTime:
        """All steps together, and each in the note, in the order they came first."""
        note = ", ".join(f"{name} {duration(one)}" for name, one in self._seconds.items())
        return StageTime(stage, sum(self._seconds.values()), note)
