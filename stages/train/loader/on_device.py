"""The training set decoded on the device that trains: patches are cut there."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cache.case import AIR_HU, Patch
from cache.errors import ParamsError
from cache.grid import Box, Triple
from cache.reader import CaseStore
from stages.train.loader.lazy import LazyCases, Pair, empty_pair
from stages.train.loader.streams import on_stream, side_stream

TensorPair = tuple[Tensor, Tensor]


class DeviceCases(LazyCases):
    """Cases in the memory of a device."""

    def __init__(
        self, store: CaseStore, shapes_zyx: dict[str, Triple], device: torch.device
    ) -> None:
        super().__init__(store, shapes_zyx)
        self._device = device
        self._stream = side_stream(device)
        self._pairs: dict[str, TensorPair] = {}

    def cut(self, patch: Patch) -> TensorPair:
        """Volume (int16 HU) and mask (uint8) of a patch whose case has arrived, (D, H, W).

        A patch inside its case is a view of it and costs nothing; nobody may write to it.
        """
        volume, mask = self._pairs[patch.case_id]
        return _padded(volume, patch.box, AIR_HU), _padded(mask, patch.box, 0)

    def read_all(self, patches: Sequence[Patch], outs: Sequence[Pair]) -> None:
        """Read patches of cases that have not arrived, into arrays of the host."""
        self._store.read_all(patches, outs)

    def has(self, case_id: str) -> bool:
        """Whether a case has arrived."""
        return case_id in self._pairs

    def _memory(self, case_id: str) -> Pair:
        return empty_pair(self._shapes[case_id])

    def _keep(self, case_id: str, pair: Pair) -> None:
        try:
            with on_stream(self._stream):  # or it would wait for all that is to be computed
                volume, mask = (torch.from_numpy(array).to(self._device) for array in pair)
        except torch.OutOfMemoryError as error:
            fact = f"is device, and its memory was full when case {case_id} was brought there"
            raise ParamsError("train.residency", fact, "set it to host") from error
        self._pairs[case_id] = volume, mask


def _padded(whole: Tensor, box: Box, outside: int) -> Tensor:
    inside, into = box.parts(whole.shape)
    if inside == box:
        return whole[box.slices]
    patch = whole.new_full(box.shape_zyx, outside)
    patch[into.slices] = whole[inside.slices]
    return patch
