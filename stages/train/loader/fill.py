"""How the voxels of a batch get to its device: read and copied, or cut where they are."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from cache.case import Mask, Patch, Volume
from stages.train.loader.buffers import Buffer, divided
from stages.train.loader.on_device import DeviceCases
from stages.train.sample import Batch, Sample


class HostSource(Protocol):
    """Where patches are read into the caller's arrays: a store on disk, or cases in memory."""

    def read_all(self, patches: Sequence[Patch], outs: Sequence[tuple[Volume, Mask]]) -> None:
        """Read patches into int16 and uint8 arrays of their boxes' shapes."""


@dataclass(frozen=True)
class Filled:
    """A batch on its way to its device.

    Attributes:
        batch: its tensors, which may not be read before ``ready``.
        ready: CUDA events around its copy to the device; None where there is nothing to wait for.
    """

    batch: Batch
    ready: tuple[Any, Any] | None = None


class Filler(Protocol):
    """Makes batches, in background threads."""

    def fill(self, samples: Sequence[Sample], buffer: Buffer) -> Filled:
        """The batch of these samples; ``buffer`` is its own until the batch is done with."""


class HostFiller:
    """Reads into a buffer, and copies it to the device on a stream of its own."""

    def __init__(self, source: HostSource, device: torch.device) -> None:
        self._source = source
        self._device = device
        self._stream = _stream(device)

    def fill(self, samples: Sequence[Sample], buffer: Buffer) -> Filled:
        """Read the samples' source boxes, and start to copy them to the device."""
        patches = [sample.source for sample in samples]
        shapes = [patch.box.shape_zyx for patch in patches]
        flat = buffer.flat(shapes)
        volumes, masks = (divided(part, shapes) for part in flat)
        pairs = zip(volumes, masks, strict=True)
        self._source.read_all(patches, [(v.numpy(), m.numpy()) for v, m in pairs])
        if self._stream is None:
            return Filled(Batch(samples, volumes, masks))
        with torch.cuda.stream(self._stream):
            began = _event(self._stream)
            moved = [part.to(self._device, non_blocking=True) for part in flat]
            ended = _event(self._stream)
        volumes, masks = (divided(part, shapes) for part in moved)
        return Filled(Batch(samples, volumes, masks), (began, ended))


class DeviceFiller:
    """Cuts the patches out of cases that lie on the device."""

    def __init__(self, source: DeviceCases, device: torch.device) -> None:
        self._source = source
        self._stream = _stream(device)

    def fill(self, samples: Sequence[Sample], buffer: Buffer) -> Filled:
        """Cut the samples' source boxes; the buffer is not needed."""
        patches = [sample.source for sample in samples]
        context = nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
        with context:
            began = _event(self._stream)
            pairs = self._source.cut(patches)
            ended = _event(self._stream)
        batch = Batch(samples, [volume for volume, _ in pairs], [mask for _, mask in pairs])
        return Filled(batch, None if ended is None else (began, ended))


def make_filler(source: HostSource | DeviceCases, device: torch.device) -> Filler:
    """The filler for a source."""
    if isinstance(source, DeviceCases):
        return DeviceFiller(source, device)
    return HostFiller(source, device)


def _stream(device: torch.device) -> Any:
    """A stream beside the one that computes; None where there are no streams."""
    if device.type != "cuda":
        return None
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _event(stream: Any) -> Any:
    if stream is None:
        return None
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(stream)
    return event
