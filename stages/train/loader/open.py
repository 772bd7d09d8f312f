"""From the plan to a loader: where the training set lies is decided and said."""

import logging
import math

import torch

from cache.grid import triple
from cache.reader import CaseStore
from stages.train.loader.batches import Loader
from stages.train.loader.host import decoded_bytes
from stages.train.loader.meter import TOLERATED_SHARE, Meter
from stages.train.loader.residency import Residency, choose, find_room, open_source
from stages.train.memory import step_bytes
from stages.train.params import TrainParams
from stages.train.plan import Plan
from stages.train.ranks import Ranks

LOG = logging.getLogger(__name__)
VALIDATION_BYTES = 16  # per voxel: the sliding window's input, sums and weights, as float32


def open_loader(
    store: CaseStore, plan: Plan, params: TrainParams, *, device: torch.device, ranks: Ranks
) -> tuple[Loader, Residency]:
    """The loader of a training run, from where the training set is best kept.

    Returns:
        The loader, and what was chosen, which one line of the log tells too.

    Raises:
        ParamsError: ``train.residency`` names a place that has no room, or the batch is smaller
            than the number of processes.
    """
    largest = triple(max(sides) for sides in zip(*plan.shapes_zyx.values(), strict=True))
    # validation comes between two epochs, with a whole case on the device
    step = max(step_bytes(params, largest, device, ranks), VALIDATION_BYTES * math.prod(largest))
    room = find_room(step, device, ranks)
    chosen = choose(params.residency, decoded_bytes(plan.shapes_zyx), room)
    LOG.info("training set: %s (%s)", chosen.kind, chosen.why)
    source = open_source(store, plan, chosen, device=device, ranks=ranks)
    steps = params.steps_per_epoch
    loader = Loader(
        source,
        plan,
        batch_size=params.batch_size,
        device=device,
        ranks=ranks,
        batches=None if steps is None else steps * params.accumulate,
    )
    return loader, chosen


def advice(meter: Meter, residency: Residency, *, epochs: int) -> str | None:
    """One sentence on what would make an epoch faster; None where waiting is not worth a word.

    Args:
        meter: of the last epoch.
        residency: where its training set lay.
        epochs: that this process has trained; in its first one the set is decoded.
    """
    if meter.waiting_share <= TOLERATED_SHARE:
        return None
    fact = f"training waited for data {meter.waiting_share:.0%} of the last epoch's time: "
    if residency.kind == "disk":
        return fact + (
            "patches come from the disk; train.residency: auto takes memory where there is room,"
            " a coarser preprocess.spacing_zyx_mm makes the training set smaller"
        )
    if epochs == 1:
        return fact + "cases were still on their way from the disk; later epochs will wait less"
    return fact + "the processor is busy with other work, or a batch computes faster than it is cut"
