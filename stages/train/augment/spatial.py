"""Volume and mask of one sample brought to where its draw puts them, by one resampling."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cache.grid import Box, Triple
from stages.train.augment.warp import Bend, Warp


def warp_into(
    volume_out: Tensor, mask_out: Tensor, volume: Tensor, mask: Tensor, *, warp: Warp, box: Box
) -> None:
    """Write what a warp shows of a sample: the volume linear, the mask by its nearest voxel.

    Where voxels land on voxels, they are copied and nothing is interpolated.

    Args:
        volume_out: float32 (D, H, W), of the box's shape; HU are written into it.
        mask_out: uint8 (D, H, W).
        volume: int16 HU, of the warp's source box.
        mask: uint8, likewise.
        warp: where the voxels come from.
        box: what is shown.
    """
    if warp.is_copy:
        axes = [axis for axis in range(3) if warp.flips_zyx[axis]]
        volume_out.copy_(volume.flip(axes) if axes else volume)
        mask_out.copy_(mask.flip(axes) if axes else mask)
        return
    points = sampling_points(warp, box, volume.device)
    volume_out.copy_(_linear(volume, points))
    mask_out.copy_(_nearest(mask, points))


def sampling_points(warp: Warp, box: Box, device: torch.device) -> Tensor:
    """Where each voxel of the box comes from: float32 (D, H, W, 3), as ``grid_sample`` counts.

    The last axis is x, y, z; -1 and 1 are the outer faces of the source box.
    """
    shape = box.shape_zyx
    halves = np.array(warp.source_box(box).shape_zyx) / 2
    origin = (warp.origin(box) + 0.5) / halves - 1
    columns = np.column_stack([warp.linear / halves[:, None], origin])
    along_z, along_y, along_x, first = _on(device, columns[::-1].T)
    slices, rows, cells = (torch.arange(side, device=device)[:, None] for side in shape)
    # one slice, and how far the next ones are from it: the whole is written once
    plane = first + along_x * cells + (along_y * rows)[:, None]
    steps = along_z.repeat(shape[1] * shape[2])
    points = torch.addcmul(plane.view(-1), slices, steps)
    if warp.bend is not None:
        _bend(points, warp.bend, shape, halves)
    return points.view(*shape, 3)


def _bend(points: Tensor, bend: Bend, shape_zyx: Triple, halves: NDArray[np.float64]) -> None:
    """Add the displacement to points (D, H * W * 3), in place; one axis after the other."""
    device = points.device
    coarse = bend.points(shape_zyx) / halves[:, None, None, None]
    of_z, of_y, of_x = (_on(device, weights) for weights in bend.weights(shape_zyx))
    displaced = of_x @ _on(device, coarse[::-1].transpose(1, 2, 3, 0))  # (nz, ny, W, 3)
    displaced = of_y @ displaced.flatten(2)  # (nz, H, W * 3)
    points.addmm_(of_z, displaced.flatten(1))


def _linear(volume: Tensor, points: Tensor) -> Tensor:
    """A (D, H, W) volume at the points, float32.

    Every slice is handed over as a batch entry of its own, all of the same volume: the kernel
    divides the entries of a batch among the processor's threads, but not the voxels of one.
    """
    one = volume.float()[None, None].expand(len(points), -1, -1, -1, -1)
    shown = F.grid_sample(one, points[:, None], mode="bilinear", align_corners=False)
    return shown[:, 0, 0]


def _nearest(mask: Tensor, points: Tensor) -> Tensor:
    """A (D, H, W) mask at the voxels nearest to the points; a look-up needs no copy as floats."""
    index = torch.zeros((), dtype=torch.int32, device=mask.device)
    for side, places in zip(mask.shape, reversed(points.unbind(-1)), strict=True):
        index = index * side + places.mul(side / 2).add_((side - 1) / 2).round_().int()
    return mask.reshape(-1).index_select(0, index.view(-1)).view(index.shape)


def _on(device: torch.device, array: NDArray[np.floating]) -> Tensor:
    """A small array as float32; non_blocking, or the device would finish all its work first."""
    return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(device, non_blocking=True)
