"""Who waits for whom: the loader's times and amounts, epoch by epoch."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from stages.train.sample import Batch

TOLERATED_SHARE = 0.02  # of the time; below it, a faster loader would make nobody happier


@dataclass
class Meter:
    """What the loader measured in an epoch, so far.

    Attributes:
        waited_s: seconds in which training stood still until a batch was on its device.
        copied_s: seconds of copying to the device; they overlap with computing.
        samples: patches delivered.
        bytes: of their voxels, as stored: int16 and uint8.
    """

    waited_s: float = 0.0
    copied_s: float = 0.0
    samples: int = 0
    bytes: int = 0
    _began: float = field(default_factory=time.perf_counter)
    _ended: float | None = None

    def start(self) -> None:
        """An epoch begins: forget the one before."""
        self.waited_s, self.copied_s, self.samples, self.bytes = 0.0, 0.0, 0, 0
        self._began, self._ended = time.perf_counter(), None

    def stop(self) -> None:
        """The epoch is over; what comes after it does not count."""
        self._ended = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count what happens inside as waiting."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.waited_s += time.perf_counter() - began

    def delivered(self, batch: Batch) -> None:
        """Count a batch."""
        self.samples += len(batch.samples)
        self.bytes += sum(one.numel() * one.element_size() for one in batch.volumes)
        self.bytes += sum(one.numel() for one in batch.masks)

    def copied(self, began: Any, ended: Any) -> None:
        """Count a copy to the device that has happened between two CUDA events."""
        self.copied_s += began.elapsed_time(ended) / 1e3

    @property
    def waiting_share(self) -> float:
        """Of the time since the epoch began, in [0, 1]."""
        return self.waited_s / self._elapsed_s

    @property
    def samples_per_s(self) -> float:
        """Patches delivered a second since the epoch began."""
        return self.samples / self._elapsed_s

    def row(self) -> dict[str, float]:
        """The meter's metrics, by the names they have in the curves.

        Returns:
            ``loader/waiting`` and ``loader/computing``, shares of the time that add up to one;
            ``loader/copying``, the share in which batches were copied to the device meanwhile;
            ``loader/samples_per_s`` and ``loader/bytes_per_s``.
        """
        elapsed = self._elapsed_s
        return {
            "loader/waiting": self.waiting_share,
            "loader/copying": self.copied_s / elapsed,
            "loader/computing": 1 - self.waiting_share,
            "loader/samples_per_s": self.samples_per_s,
            "loader/bytes_per_s": self.bytes / elapsed,
        }

    @property
    def _elapsed_s(self) -> float:
        return max((self._ended or time.perf_counter()) - self._began, 1e-9)
