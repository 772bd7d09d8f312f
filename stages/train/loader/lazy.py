"""Cases that are decoded in the background while patches are read from disk already."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from threading import Event

import numpy as np

from cache.case import Mask, Patch, Volume
from cache.grid import Box, Triple
from cache.reader import CaseStore

SLICES = 32  # decoded at a time, a layer of chunks: HDF5 lets nobody else read meanwhile
Pair = tuple[Volume, Mask]


class LazyCases(ABC):
    """The training set, on its way from the disk to a faster place.

    A patch of a case that has not arrived is read from the store, so the first batch comes as soon
    as from there. Threads may read while one other fills.
    """

    def __init__(self, store: CaseStore, shapes_zyx: dict[str, Triple], first: int = 0) -> None:
        """Nothing is read yet.

        Args:
            store: where the cases are.
            shapes_zyx: prepared shape of each case, by case id.
            first: the place in the list of ids where filling begins; ranks that share the cases
                begin at different ones.
        """
        self._store = store
        self._shapes = shapes_zyx
        self._missing = deque(sorted(shapes_zyx))
        self._missing.rotate(-first)
        # the case that was stopped, its memory, and the slice to go on with
        self._begun: tuple[str, Pair, int] | None = None

    @property
    def missing(self) -> int:
        """How many cases have not arrived, as far as this process knows."""
        return len(self._missing)

    def fill(self, stop: Event, most: int | None = None) -> None:
        """Bring the cases one after the other, until all are there or somebody says stop.

        Args:
            stop: ends it within a fraction of a second; the next call goes on.
            most: of the cases that are brought; None for all.

        Raises:
            StoreError: a case is damaged.
        """
        brought = 0
        while self._missing and not stop.is_set() and brought != most:
            case_id = self._missing[0]
            if not self.has(case_id):
                if not self._decode(case_id, stop):
                    return
                brought += 1
            self._missing.popleft()

    def _decode(self, case_id: str, stop: Event) -> bool:
        """Read a whole case, from where it was stopped before; False if it is stopped again."""
        if self._begun is None or self._begun[0] != case_id:
            self._begun = (case_id, self._memory(case_id), 0)
        _, pair, first = self._begun
        depth, height, width = self._shapes[case_id]
        for start in range(first, depth, SLICES):
            if stop.is_set():
                self._begun = (case_id, pair, start)
                return False
            end = min(start + SLICES, depth)
            layer = Patch(case_id, Box((start, 0, 0), (end, height, width)))
            self._store.read(layer, out=(pair[0][start:end], pair[1][start:end]))
        self._begun = None
        self._keep(case_id, pair)
        return True

    @abstractmethod
    def has(self, case_id: str) -> bool:
        """Whether a case has arrived."""

    @abstractmethod
    def _memory(self, case_id: str) -> Pair:
        """Where a case is decoded to."""

    @abstractmethod
    def _keep(self, case_id: str, pair: Pair) -> None:
        """The case has been decoded."""


def empty_pair(shape_zyx: Sequence[int]) -> Pair:
    """Memory for a volume and a mask."""
    return np.empty(shape_zyx, np.int16), np.empty(shape_zyx, np.uint8)
