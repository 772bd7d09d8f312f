"""Memory for a batch on the host, used again and again: fresh memory costs more than the copy."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cache.grid import Triple


class Buffer:
    """Room for the volumes and masks of one batch, one after the other.

    It grows to the largest batch asked for, and stays; on a machine with CUDA its pages are
    pinned, so that the device can copy from them by itself.
    """

    def __init__(self, *, is_pinned: bool) -> None:
        self._is_pinned = is_pinned
        self._volumes = torch.empty(0, dtype=torch.int16)
        self._masks = torch.empty(0, dtype=torch.uint8)

    def flat(self, shapes_zyx: Sequence[Triple]) -> tuple[Tensor, Tensor]:
        """Room for patches of these shapes: int16 and uint8 of as many voxels as all together."""
        voxels = sum(math.prod(shape) for shape in shapes_zyx)
        if voxels > len(self._volumes):
            self._volumes = torch.empty(voxels, dtype=torch.int16, pin_memory=self._is_pinned)
            self._masks = torch.empty(voxels, dtype=torch.uint8, pin_memory=self._is_pinned)
        return self._volumes[:voxels], self._masks[:voxels]


def divided(flat: Tensor, shapes_zyx: Sequence[Triple]) -> list[Tensor]:
    """The patches that lie one after the other in a flat tensor, as views of it."""
    if not shapes_zyx:
        return []
    parts = torch.split(flat, [math.prod(shape) for shape in shapes_zyx])
    return [part.view(shape) for part, shape in zip(parts, shapes_zyx, strict=True)]
