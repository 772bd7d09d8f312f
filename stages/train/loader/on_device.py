"""The training set decoded on the device that trains: patches are cut there."""

from collections.abc import Sequence
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from cache.case import AIR_HU, Patch
from cache.grid import Box, Triple
from cache.reader import CaseStore

Pair = tuple[Tensor, Tensor]


class DeviceCases:
    """Cases in the memory of a device; each is brought there when its first patch is asked for.

    Threads may share one.
    """

    def __init__(
        self, store: CaseStore, shapes_zyx: dict[str, Triple], device: torch.device
    ) -> None:
        self._store = store
        self._shapes = shapes_zyx
        self._device = device
        self._pairs: dict[str, Pair] = {}
        self._locks = {case_id: Lock() for case_id in shapes_zyx}

    def cut(self, patches: Sequence[Patch]) -> list[Pair]:
        """Volumes (int16 HU) and masks (uint8) of patches, (D, H, W) each, on the device.

        A patch inside its case is a view of it and costs nothing; nobody may write to it.

        Raises:
            StoreError: a case that is not there yet is damaged.
        """
        return [self._cut(patch) for patch in patches]

    def _cut(self, patch: Patch) -> Pair:
        volume, mask = self._whole(patch.case_id)
        return _padded(volume, patch.box, AIR_HU), _padded(mask, patch.box, 0)

    def _whole(self, case_id: str) -> Pair:
        with self._locks[case_id]:
            if case_id not in self._pairs:
                shape = self._shapes[case_id]
                host = (np.empty(shape, np.int16), np.empty(shape, np.uint8))
                self._store.read(Patch(case_id, Box.whole(shape)), out=host)
                volume, mask = (torch.from_numpy(array).to(self._device) for array in host)
                self._pairs[case_id] = volume, mask
            return self._pairs[case_id]


def _padded(whole: Tensor, box: Box, outside: int) -> Tensor:
    inside, into = box.parts(whole.shape)
    if inside == box:
        return whole[box.slices]
    patch = whole.new_full(box.shape_zyx, outside)
    patch[into.slices] = whole[inside.slices]
    return patch
