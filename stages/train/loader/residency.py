"""Where the training set lies while it is trained on: the device, host memory or the disk."""

from dataclasses import dataclass
from typing import Literal

import torch

from cache.errors import ParamsError
from cache.reader import CaseStore
from stages.machine import free_memory_bytes
from stages.train.loader.fill import Source
from stages.train.loader.host import HostCases, block_bytes
from stages.train.loader.on_device import DeviceCases
from stages.train.loader.shared import SharedBlock
from stages.train.memory import free_bytes
from stages.train.plan import Plan
from stages.train.ranks import Ranks, agreed, gathered

Kind = Literal["device", "host", "disk"]

USABLE_SHARE = 0.8  # of what is free after a training step; others want memory too
POOL_SHARE = 0.25  # of that, for decoded chunks: more helps only where patches overlap
SMALLEST_POOL, LARGEST_POOL = 64 << 20, 2 << 30  # bytes
ONE_RANK = Ranks()


@dataclass(frozen=True)
class Residency:
    """Where the training set lies, and why.

    Attributes:
        kind: on the training device, in host memory, or on disk.
        budget_bytes: what it may take there; on disk, the memory for decoded chunks.
        why: the reason, for people.
    """

    kind: Kind
    budget_bytes: int
    why: str


@dataclass(frozen=True)
class Room:
    """Memory that a training run finds, bytes.

    Attributes:
        step: what a training step needs of the device.
        host: free host memory.
        device: free memory of the device; None where that is the host's.
        ranks: processes of this machine, which share the host's.
    """

    step: int
    host: int
    device: int | None
    ranks: int = 1

    @property
    def kinds(self) -> list[Kind]:
        """The places there are, the fastest first."""
        return ["host", "disk"] if self.device is None else ["device", "host", "disk"]

    def usable(self, kind: Kind) -> int:
        """What the training set may take of the device's memory, else of the host's."""
        if kind == "device" and self.device is not None:
            return max(0, int((self.device - self.step) * USABLE_SHARE))
        steps = self.step * self.ranks if self.device is None else 0
        # without a device of their own, each rank would hold its own "device" in host memory
        copies = self.ranks if kind == "device" else 1
        return max(0, int((self.host - steps) * USABLE_SHARE)) // copies


def choose(wanted: Kind | Literal["auto"], needed: int, room: Room) -> Residency:
    """Decide where the training set lies.

    Args:
        wanted: ``train.residency``.
        needed: size of the decoded training set, bytes.
        room: what memory there is.

    Raises:
        ParamsError: a place was asked for that has no room for it.
    """
    for kind in room.kinds if wanted == "auto" else [wanted]:
        usable = room.usable(kind)
        sizes = f"{_gb(needed)} decoded, room for {_gb(usable)}"
        if kind == "disk":
            share = int(usable * POOL_SHARE) // room.ranks
            pool = min(needed, max(SMALLEST_POOL, min(share, LARGEST_POOL)))
            return Residency("disk", pool, f"{sizes}; at most {_gb(pool)} of it stay in memory")
        if kind == "host" and room.ranks > 1 and not SharedBlock.is_supported():
            sizes = f"{room.ranks} processes cannot share memory on this system"
        elif needed <= usable:
            return Residency(kind, needed, sizes)
    fact = f"is {wanted}, but it does not go there: {sizes}"
    raise ParamsError("train.residency", fact, "set it to auto, which takes what fits")


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def find_room(step_bytes: int, device: torch.device, ranks: Ranks) -> Room:
    """The memory of this machine and of a device as it is now, the least that any rank finds."""
    on_device = free_bytes(device) if device.type == "cuda" else None
    found = gathered((free_memory_bytes(), on_device), ranks)
    devices = [free for _, free in found if free is not None]
    host = min(free for free, _ in found)
    return Room(step_bytes, host, min(devices, default=None), ranks.local_count)


def open_source(
    store: CaseStore,
    plan: Plan,
    residency: Residency,
    *,
    device: torch.device,
    ranks: Ranks = ONE_RANK,
) -> Source:
    """What the loader reads from; nothing is read yet.

    With several ranks all must call it: those of a machine share one block of host memory.
    """
    block = _shared_block(plan, ranks, is_needed=residency.kind == "host")
    if residency.kind == "disk":
        return CaseStore(store.root, decoded_bytes=residency.budget_bytes)
    whole = CaseStore(store.root, decoded_bytes=0)  # each chunk is read once
    if residency.kind == "device":
        return DeviceCases(whole, plan.shapes_zyx, device)
    first = ranks.local_rank * len(plan.shapes_zyx) // ranks.local_count
    return HostCases(whole, plan.shapes_zyx, block, first)


def _shared_block(plan: Plan, ranks: Ranks, *, is_needed: bool) -> SharedBlock | None:
    """The block that the machine's first rank makes and the others attach to, if it is needed.

    Ranks of all machines come together here, also those that need none: another machine's may.
    """
    made, block = None, None
    is_needed = is_needed and ranks.local_count > 1
    if is_needed and ranks.local_rank == 0:
        made = SharedBlock.create(block_bytes(plan.shapes_zyx))
    ticket = agreed(made.ticket if made else "", ranks)
    if is_needed:
        block = made or SharedBlock.attach(ticket)
    agreed("", ranks)  # the first rank may not go before all have attached
    return block
