"""Predicting a whole volume by overlapping windows, slab by slab. Imports no SimpleITK.

Where the windows lie and what they weigh is as in MONAI's ``sliding_window_inference``, and so are
the results, to rounding. But sums are held of as many planes alone as a window is deep, and the
volume stays int16: docs/decisions/0015-prediction.md has the figures.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.case import AIR_HU, Volume
from cache.errors import ModelError
from cache.grid import Box, Triple, triple
from stages.network import SMALLEST_SIDE

Network = Callable[[Tensor], Tensor]  # HU float32 (B, 1, D, H, W) -> logits (B, 2, D, H, W)
PatchProbability = Callable[[Tensor], Tensor]  # HU float32 -> of liver, both (B, 1, D, H, W)
Probability = NDArray[np.float32]

SIGMA = 0.125  # of the Gaussian, of a window's side; both as in MONAI, and before it in nnU-Net
LEAST_WEIGHT = 1e-3  # of a voxel: at a window's corners the Gaussian is as good as zero


@dataclass(frozen=True)
class Windows:
    """Where the windows lie on a volume that is padded to their shape where it is smaller.

    Attributes:
        shape_zyx: of a window.
        padded_zyx: of the padded volume.
        box: the volume in voxels of the padded one, in its middle.
        starts_zyx: first voxels of the windows along z, y and x, in voxels of the padded volume.
    """

    shape_zyx: Triple
    padded_zyx: Triple
    box: Box
    starts_zyx: tuple[list[int], list[int], list[int]]

    @classmethod
    def over(
        cls,
        volume_zyx: Triple,
        window_zyx: Triple | None,
        overlap: float,
        *,
        smallest_side: int = SMALLEST_SIDE,
    ) -> "Windows":
        """The windows over a volume of this shape; without a window's shape, one for all of it.

        That one is not smaller than the network needs.
        """
        shape = window_zyx or triple(max(smallest_side, side) for side in volume_zyx)
        padded = triple(map(max, volume_zyx, shape))
        before = [(whole - side) // 2 for whole, side in zip(padded, volume_zyx, strict=True)]
        after = [first + side for first, side in zip(before, volume_zyx, strict=True)]
        z, y, x = (_starts(*sides, overlap) for sides in zip(padded, shape, strict=True))
        return cls(shape, padded, Box(triple(before), triple(after)), (z, y, x))

    @property
    def count(self) -> int:
        """How many there are."""
        return math.prod(len(starts) for starts in self.starts_zyx)

    def slabs(self) -> Iterator[tuple[int, int]]:
        """Where each row of windows begins along z, and where the next one or the end is."""
        z = self.starts_zyx[0]
        return zip(z, [*z[1:], self.padded_zyx[0]], strict=True)

    def in_plane(self) -> Iterator[tuple[int, int]]:
        """Where the windows of a row begin along y and x."""
        return itertools.product(*self.starts_zyx[1:])


def liver_probability(
    network: Network,
    volume: Volume,
    *,
    window_zyx: Triple | None,
    overlap: float,
    device: torch.device,
    smallest_side: int = SMALLEST_SIDE,
) -> Probability:
    """The probability of liver at every voxel of a prepared volume.

    Args:
        network: HU as float32 (B, 1, D, H, W) -> logits (B, 2, D, H, W); windowing is its own
            business, so that padding with air happens in HU.
        volume: int16 HU, (Z, Y, X).
        window_zyx: shape of the patches; None predicts the volume at once.
        overlap: of neighbouring patches, as a share of their side; they are blended with
            Gaussian weights.
        device: where the network is.
        smallest_side: that the network takes, voxels; smaller volumes are padded with air.

    Returns:
        float32 in [0, 1], (Z, Y, X).
    """
    shape = triple(volume.shape)
    windows = Windows.over(shape, window_zyx, overlap, smallest_side=smallest_side)
    probability = np.empty(volume.shape, np.float32)
    for number, plane in enumerate(
        probability_planes(liver_of(network), volume, windows, device=device)
    ):
        probability[number] = plane
    return probability


@torch.inference_mode()
def probability_planes(
    predict: PatchProbability, volume: Volume, windows: Windows, *, device: torch.device
) -> Iterator[Probability]:
    """The probability of liver, plane by plane from the first to the last.

    What is held grows with a plane of the volume and a window's depth, not with the volume's.

    Args:
        predict: HU as float32 -> probability of liver, both (1, 1, D, H, W), on the device.
        volume: int16 HU, (Z, Y, X).
        windows: over this volume.
        device: where ``predict`` computes; patches are converted and results added up there.

    Yields:
        float32 in [0, 1], (Y, X).

    Raises:
        ModelError: the network gave something that is not a number.
    """
    weights = _weights(windows, device)
    of_row = _weights_of_row(windows, weights)
    total, weight = torch.zeros_like(of_row), torch.zeros_like(of_row)
    for start, stop in windows.slabs():
        for y, x in windows.in_plane():
            patch = _patch(volume, (start, y, x), windows, device)
            _at(total, y, x, windows).addcmul_(predict(patch)[0, 0], weights)
        weight += of_row
        done = stop - start  # planes that no later window touches
        # sums of weights are equal to rounding
        slab = (total[:done] / weight[:done])[windows.box.slices].clamp_(max=1)
        _require_finite(slab)
        yield from slab.cpu().numpy()
        total, weight = _moved_on(total, done), _moved_on(weight, done)


def liver_of(network: Network) -> PatchProbability:
    """The probability of the second of two classes, from a network's logits."""

    def predict(patch: Tensor) -> Tensor:
        logits = network(patch).float()
        # the softmax of two classes is the sigmoid of their difference
        return torch.sigmoid(logits[:, 1:] - logits[:, :1])

    return predict


def _require_finite(slab: Tensor) -> None:
    """Refuse what would pass for background: NaN is not above one half."""
    if not torch.isfinite(slab).all():
        fact = "gave values that are not numbers"
        fix = "use a model with sound weights, or train it with precision: fp32"
        raise ModelError("the network", fact, fix)


def _starts(side: int, window: int, overlap: float) -> list[int]:
    """First voxels of the windows along an axis, at equal steps; the last one ends with it."""
    step = max(1, int(window * (1 - overlap)))
    return [min(start, side - window) for start in range(0, side - window + step, step)]


def _weights(windows: Windows, device: torch.device) -> Tensor:
    """How much each voxel of a window counts: the most in its middle. All alike if it is alone."""
    weights = torch.ones(windows.shape_zyx, device=device)
    if windows.count == 1:
        return weights
    for axis, side in enumerate(windows.shape_zyx):
        offset = torch.arange(side, dtype=torch.float32, device=device) - (side - 1) / 2
        line = torch.exp(offset**2 / (-2 * (SIGMA * side) ** 2))
        weights *= line.reshape([-1 if each == axis else 1 for each in range(3)])
    return weights.clamp_(min=LEAST_WEIGHT)


def _weights_of_row(windows: Windows, weights: Tensor) -> Tensor:
    """What the windows that begin at one plane weigh together, the same for every row of them."""
    row = torch.zeros((windows.shape_zyx[0], *windows.padded_zyx[1:]), device=weights.device)
    for y, x in windows.in_plane():
        _at(row, y, x, windows).add_(weights)
    return row


def _at(row: Tensor, y: int, x: int, windows: Windows) -> Tensor:
    """The part of a row that a window covers, as a view."""
    _, rows, columns = windows.shape_zyx
    return row[:, y : y + rows, x : x + columns]


def _patch(volume: Volume, first_zyx: Triple, windows: Windows, device: torch.device) -> Tensor:
    """What a window shows, HU as float32 (1, 1, D, H, W); air where it leaves the volume."""
    start = triple(np.subtract(first_zyx, windows.box.start_zyx))
    inside, own = Box(start, triple(np.add(start, windows.shape_zyx))).parts(volume.shape)
    patch = torch.full(windows.shape_zyx, float(AIR_HU), device=device)
    patch[own.slices] = torch.from_numpy(volume[inside.slices]).to(device).float()
    return patch[None, None]


def _moved_on(sums: Tensor, planes: int) -> Tensor:
    """Sums without their first planes, and as many empty ones at the end."""
    moved = torch.roll(sums, -planes, 0)
    moved[-planes:] = 0
    return moved
