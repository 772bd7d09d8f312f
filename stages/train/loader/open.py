"""From the plan to a loader: where the training set lies is decided and said."""

import logging

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
from stages.train.ranks import Ranks, agreed

LOG = logging.getLogger(__name__)


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
    room = find_room(step_bytes(params, largest), device, ranks)
    chosen = agreed(choose(params.residency, decoded_bytes(plan.shapes_zyx), room), ranks)
    LOG.info("training set: %s (%s)", chosen.kind, chosen.why)
    source = open_source(store, plan, chosen, device=device, ranks=ranks)
    loader = Loader(source, plan, batch_size=params.batch_size, device=device, ranks=ranks)
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
            "the training set does not fit into memory; a coarser preprocess.spacing_zyx_mm, more"
            " memory or a faster disk would help"
        )
    if epochs == 1:
        return fact + "every case was decoded for the first time; later epochs will not wait"
    return fact + "the processor is busy with other work, or a batch computes faster than it is cut"
