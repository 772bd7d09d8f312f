"""Whether a training step fits, before the first one is tried."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cache.errors import ParamsError
from cache.grid import Triple
from stages.machine import free_memory_bytes, is_shortage
from stages.train.params import TrainParams
from stages.train.ranks import Ranks

# What a training step needs at its peak, over what the process holds anyway: so many bytes per
# patch voxel and first-level channel, and so many for whatever does not grow with the patch.
# benchmarks/memory.py measured, on the CPU in fp32 with freed memory kept (stages/reuse.py), for
# patches of 2·48·64·64 and 2·64·96·96 voxels: 298 to 374 and 740 to 996 MB with 8 channels, 804 to
# 920 and 2477 to 2818 MB with 24. The estimate gives 430, 1091, 1091 and 3073 MB, 9 to 19 % above
# the largest of each. For a GPU, where it has not been measured, it is what the CPU took before it
# kept any.
BYTES_PER_VOXEL_AND_CHANNEL = {"cpu": 105, "cuda": 75}
BYTES_BESIDES = 100_000_000


def require_memory(
    params: TrainParams, largest_zyx: Triple, device: torch.device, ranks: Ranks
) -> None:
    """Refuse a patch that the memory cannot hold.

    Args:
        params: the ``train`` section.
        largest_zyx: the largest training volume, which is the patch where ``patch_zyx`` is null.
        device: where the step runs.
        ranks: the processes that share a batch.

    Raises:
        ParamsError: names what is needed, what is there and what to change.
    """
    needed, free = step_bytes(params, largest_zyx, device, ranks), free_bytes(device)
    if needed <= free:
        return
    patch = params.patch_zyx or largest_zyx
    sides = "·".join(str(side) for side in patch)
    count = ranks.most_of(params.batch_size)
    raise ParamsError(
        "train.patch_zyx",
        f"{count} patches of {sides} voxels with {params.n_channels} channels need"
        f" about {needed / 1e9:.1f} GB; {device} has {free / 1e9:.1f} GB free",
        "make train.patch_zyx, train.batch_size or train.n_channels smaller",
    )


def step_bytes(params: TrainParams, largest_zyx: Triple, device: torch.device, ranks: Ranks) -> int:
    """About the memory that a training step takes at its peak of one process, bytes."""
    patch = params.patch_zyx or largest_zyx
    voxels = ranks.most_of(params.batch_size) * patch[0] * patch[1] * patch[2]
    each = BYTES_PER_VOXEL_AND_CHANNEL.get(device.type, BYTES_PER_VOXEL_AND_CHANNEL["cuda"])
    return voxels * params.n_channels * each + BYTES_BESIDES


@contextmanager
def explained_shortage(device: torch.device) -> Iterator[None]:
    """Turn training's running out of memory into one line that names what to change.

    Raises:
        ParamsError: the memory that was asked for was not there.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        reason = str(error).partition("\n")[0]
        fix = "make train.patch_zyx, train.batch_size or train.n_channels smaller"
        fact = f"the network does not fit into the memory of {device}: {reason}"
        raise ParamsError("train.patch_zyx", fact, fix) from error


def free_bytes(device: torch.device) -> int:
    """Free memory of a device; on the CPU what a container's limit leaves of it."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_memory_bytes()
