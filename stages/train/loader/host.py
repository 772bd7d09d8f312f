"""The training set decoded in host memory, shared by the ranks of one machine."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cache.case import AIR_HU, Patch
from cache.grid import Box, Triple
from cache.reader import CaseStore
from stages.train.loader.lazy import LazyCases, Pair, empty_pair
from stages.train.loader.shared import SharedBlock

BYTES_PER_VOXEL = 3  # int16 and uint8
ALIGNMENT = 64  # bytes, a line of the processor's cache


class HostCases(LazyCases):
    """Cases in host memory.

    Ranks that share a block may decode the same case at the same time; they write the same bytes
    to the same place.
    """

    def __init__(
        self,
        store: CaseStore,
        shapes_zyx: dict[str, Triple],
        block: SharedBlock | None = None,
        first: int = 0,
    ) -> None:
        """Lay the cases out; nothing is read yet.

        Args:
            store: where the cases are.
            shapes_zyx: prepared shape of each case, by case id.
            block: memory of ``block_bytes(shapes_zyx)`` that other ranks see too, zeros at first;
                None for this process' own.
            first: where filling begins.
        """
        super().__init__(store, shapes_zyx, first)
        self._block = block
        self._offsets = _offsets(shapes_zyx)
        self._index = {case_id: index for index, case_id in enumerate(self._offsets)}
        count = len(shapes_zyx)
        self._is_whole = block.array(0, (count,), np.uint8) if block else np.zeros(count, np.uint8)
        self._pairs: dict[str, Pair] = {}

    def read_all(self, patches: Sequence[Patch], outs: Sequence[Pair]) -> None:
        """Copy patches into int16 and uint8 arrays of their boxes' shapes.

        Raises:
            StoreError: a case that has not arrived is damaged.
        """
        away = []
        for patch, out in zip(patches, outs, strict=True):
            if self.has(patch.case_id):
                volume, mask = self._memory(patch.case_id)
                _cut(volume, patch.box, out[0], AIR_HU)
                _cut(mask, patch.box, out[1], 0)
            else:
                away.append((patch, out))
        self._store.read_all([patch for patch, _ in away], [out for _, out in away])

    def has(self, case_id: str) -> bool:
        """Whether a case has arrived, whichever rank brought it."""
        return bool(self._is_whole[self._index[case_id]])

    def _memory(self, case_id: str) -> Pair:
        if case_id not in self._pairs:
            self._pairs[case_id] = self._new_pair(case_id)
        return self._pairs[case_id]

    def _new_pair(self, case_id: str) -> Pair:
        shape = self._shapes[case_id]
        if self._block is None:
            return empty_pair(shape)
        offset = self._offsets[case_id]
        volume = self._block.array(offset, shape, np.int16)
        return volume, self._block.array(offset + volume.nbytes, shape, np.uint8)

    def _keep(self, case_id: str, pair: Pair) -> None:
        self._is_whole[self._index[case_id]] = 1  # after the voxels, never before


def decoded_bytes(shapes_zyx: dict[str, Triple]) -> int:
    """Memory that the volumes and masks of these cases take, decoded."""
    return sum(BYTES_PER_VOXEL * math.prod(shape) for shape in shapes_zyx.values())


def block_bytes(shapes_zyx: dict[str, Triple]) -> int:
    """Size of the block that ranks share: a byte for each case, then the cases."""
    last = list(_offsets(shapes_zyx).items())[-1]
    return last[1] + BYTES_PER_VOXEL * math.prod(shapes_zyx[last[0]])


def _offsets(shapes_zyx: dict[str, Triple]) -> dict[str, int]:
    """Where each case begins in a block, bytes, in the order of the ids."""
    offsets, end = {}, len(shapes_zyx)
    for case_id in sorted(shapes_zyx):
        offsets[case_id] = -(-end // ALIGNMENT) * ALIGNMENT
        end = offsets[case_id] + BYTES_PER_VOXEL * math.prod(shapes_zyx[case_id])
    return offsets


def _cut(array: NDArray[np.generic], box: Box, out: NDArray[np.generic], outside: int) -> None:
    inside, into = box.parts(array.shape)
    if inside != box:
        out.fill(outside)
    np.copyto(out[into.slices], array[inside.slices])
