"""Batches read ahead by a background thread while the network computes."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cache.reader import CaseStore
from stages.train.plan import Plan

READ_AHEAD = 3  # batches; enough to hide one slow read, small enough for large patches


@dataclass(frozen=True)
class Batch:
    """Stacked patches.

    Attributes:
        volume: int16 HU, (B, 1, D, H, W).
        mask: uint8 0/1, (B, D, H, W).
        case_ids: of each patch.
    """

    volume: Tensor
    mask: Tensor
    case_ids: list[str]


def batches(store: CaseStore, plan: Plan, *, epoch: int, batch_size: int) -> Iterator[Batch]:
    """All batches of an epoch in the plan's order; the last one may be smaller.

    A fault while reading reaches the caller; closing the iterator early ends the thread.
    """
    groups = [
        list(range(start, min(start + batch_size, len(plan))))
        for start in range(0, len(plan), batch_size)
    ]
    # threads, not processes: TensorStore must not be forked, and both formats free the GIL
    pool = ThreadPoolExecutor(1, thread_name_prefix="liver3d-batches")
    pending: deque[Future[Batch]] = deque()
    try:
        for group in groups:
            pending.append(pool.submit(_read_batch, store, plan, epoch, group))
            if len(pending) > READ_AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read_batch(store: CaseStore, plan: Plan, epoch: int, indices: list[int]) -> Batch:
    patches = plan.patches(epoch, indices)
    pairs = [store.read_patch(patch) for patch in patches]
    volume = torch.from_numpy(np.stack([volume for volume, _ in pairs]))
    mask = torch.from_numpy(np.stack([mask for _, mask in pairs]))
    return Batch(volume.unsqueeze(1), mask, [patch.case_id for patch in patches])
