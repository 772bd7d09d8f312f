"""How the voxels of a batch get to its device: read and copied, or cut where they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

import torch
from torch import Tensor

from cache.case import Mask, Patch, Volume
from stages.train.loader.buffers import Buffer, divided
from stages.train.loader.on_device import DeviceCases
from stages.train.loader.streams import on_stream, side_stream
from stages.train.sample import Batch, Sample


class Source(Protocol):
    """Where patches come from: a store on disk, or its cases in host memory or on the device."""

    def read_all(self, patches: Sequence[Patch], outs: Sequence[tuple[Volume, Mask]]) -> None:
        """Read patches into int16 and uint8 arrays of their boxes' shapes."""


@dataclass(frozen=True)
class Filled:
    """A batch on its way to its device.

    Attributes:
        batch: its tensors, which may not be read before ``copied``.
        copied: CUDA events before and after its copy to the device; None without CUDA.
    """

    batch: Batch
    copied: tuple[Any, Any] | None = None


class Filler:
    """Makes batches; on CUDA they are copied by a stream of its own, beside what computes."""

    def __init__(self, source: Source, device: torch.device) -> None:
        self._source = source
        self._device = device
        self._stream = side_stream(device)
        self._lock = Lock()

    def fill(self, samples: Sequence[Sample], buffer: Buffer) -> Filled:
        """The batch of some samples; the buffer is its own until it is done with."""
        patches = [sample.source for sample in samples]
        is_there = [self._is_on_device(patch) for patch in patches]
        away = [patch for patch, there in zip(patches, is_there, strict=True) if not there]
        flat = self._read(away, buffer)
        with self._lock, on_stream(self._stream):  # or a copy's time would hold another's
            began = self._event()
            read = iter(self._brought(flat, away))
            pairs = [
                self._cut(patch) if there else next(read)
                for patch, there in zip(patches, is_there, strict=True)
            ]
            ended = self._event()
        batch = Batch(samples, [volume for volume, _ in pairs], [mask for _, mask in pairs])
        return Filled(batch, None if self._stream is None else (began, ended))

    def _is_on_device(self, patch: Patch) -> bool:
        return isinstance(self._source, DeviceCases) and self._source.has(patch.case_id)

    def _cut(self, patch: Patch) -> tuple[Tensor, Tensor]:
        assert isinstance(self._source, DeviceCases)
        return self._source.cut(patch)

    def _read(self, patches: Sequence[Patch], buffer: Buffer) -> tuple[Tensor, Tensor]:
        shapes = [patch.box.shape_zyx for patch in patches]
        flat = buffer.flat(shapes)
        pairs = zip(*(divided(part, shapes) for part in flat), strict=True)
        self._source.read_all(patches, [(volume.numpy(), mask.numpy()) for volume, mask in pairs])
        return flat

    def _brought(
        self, flat: tuple[Tensor, Tensor], patches: Sequence[Patch]
    ) -> list[tuple[Tensor, Tensor]]:
        """The patches in a buffer, on the device; two copies for the whole batch."""
        shapes = [patch.box.shape_zyx for patch in patches]
        there = [part.to(self._device, non_blocking=self._stream is not None) for part in flat]
        return list(zip(*(divided(part, shapes) for part in there), strict=True))

    def _event(self) -> Any:
        if self._stream is None:
            return None
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event
