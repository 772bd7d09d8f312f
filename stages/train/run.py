"""Stage two: from the store to ``best.pt`` and ``last.pt``."""

import logging
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from cache.errors import ParamsError, StoreError
from cache.grid import Triple, triple
from cache.manifest import Manifest
from cache.reader import CaseStore
from stages.train.alone import only_training
from stages.train.build import Work, build_trainer
from stages.train.checkpoints.begin import beginning
from stages.train.checkpoints.checkpoint import Checkpoint
from stages.train.checkpoints.earlier import LAST, SPLIT
from stages.train.checkpoints.going_on import require_place
from stages.train.checkpoints.keep import Keeper
from stages.train.checkpoints.resume import resumed, run_key
from stages.train.choose_split import chosen_split
from stages.train.device import require_sound_gradients, settings
from stages.train.loader.open import advice, open_loader
from stages.train.loop import Run, is_finished, steps_per_epoch, train
from stages.train.memory import require_memory
from stages.train.params import TrainParams
from stages.train.plan import Plan
from stages.train.ranks import Ranks, everyones, of_first
from stages.train.split import Split, write_split
from stages.train.stop import Stop
from stages.train.validate import Validation
from stages.train.watch.report import Reporter
from stages.train.watch.trackers import open_trackers

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Places:
    """Where training reads and writes."""

    cases: Path
    models: Path
    curves: Path


@dataclass(frozen=True)
class Process:
    """How training was called; nothing of it changes the model but ``init_from``.

    Attributes:
        device: where to compute.
        ranks: the processes that train together.
        stop: whether somebody asked to stop.
        resume: refuse, instead of starting afresh, when ``last.pt`` is of another run.
        init_from: a checkpoint whose weights to begin with; None for random ones.
        code: versions of the software, recorded in checkpoints.
    """

    device: torch.device
    ranks: Ranks = field(default_factory=Ranks)
    stop: Stop = field(default_factory=Stop)
    resume: bool = False
    init_from: Path | None = None
    code: dict[str, str] = field(default_factory=dict)


def run(
    places: Places,
    params: TrainParams,
    *,
    seed: int,
    split_file: Path | None,
    process: Process,
) -> Checkpoint:
    """Train until ``epochs`` are done, from where the same run was stopped if it was.

    Args:
        places: the store, the folder for checkpoints, the folder for curves.
        params: the ``train`` section.
        seed: of the split, the weights and the plan.
        split_file: a split to use instead of one drawn from the seed.
        process: this process.

    Returns:
        The last checkpoint, without its weights.

    Raises:
        StoreError: there is no prepared data, or it is damaged.
        ParamsError: the split, the precision, the residency or the memory does not allow it.
        ModelError: the loss diverged, ``resume`` finds nothing to resume, or another training is
            writing to the folder.
        Stopped: somebody asked to stop; all of it is saved.
    """
    with only_training(places.models, process.ranks):
        return _run(places, params, seed=seed, split_file=split_file, process=process)


def _run(
    places: Places, params: TrainParams, *, seed: int, split_file: Path | None, process: Process
) -> Checkpoint:
    """What ``run`` does once no other writes there."""
    store = CaseStore(places.cases, decoded_bytes=0)  # validation reads each chunk once
    split = chosen_split(store.manifest, params, seed, split_file)
    plan = _plan(store, split, params, seed)
    require_sound_gradients(params, process.device)
    require_memory(params, _largest(plan.shapes_zyx), process.device, process.ranks)
    _require_same(params, seed, store.manifest, process.ranks)
    state = of_first(
        lambda: resumed(
            places.models,
            _start(params, seed, store.manifest, split, places.models, process),
            resume=process.resume,
        ),
        process.ranks,
    )
    trackers = open_trackers(
        params.trackers if process.ranks.rank == 0 else [],
        places.curves,
        run_key=state.run_key,
        params=state.train,
    )
    is_fresh = state.epoch == 0 and state.batch == 0
    # of a fresh run the keeper writes it: until then, the models beside it are another run's
    if process.ranks.rank == 0 and not is_fresh:
        write_split(places.models / SPLIT, split)
    with trackers:
        reporter = Reporter(places.curves, trackers, process.ranks)
        reporter.begin(state)
        if is_finished(state, params):
            return state
        return _train(places, params, state, _Data(store, plan, split), reporter, process)


@dataclass(frozen=True)
class _Data:
    """What is trained on."""

    store: CaseStore
    plan: Plan
    split: Split


def _train(
    places: Places,
    params: TrainParams,
    state: Checkpoint,
    data: _Data,
    reporter: Reporter,
    process: Process,
) -> Checkpoint:
    """Make what a run needs, and train."""
    device, ranks = process.device, process.ranks
    _require_place(places, params, state, data.plan)
    loader, residency = open_loader(data.store, data.plan, params, device=device, ranks=ranks)
    generators = [device] if device.type == "cuda" else []
    # what a run sets for all of the process, and draws from torch's generators, is its own affair
    with settings(params, device), torch.random.fork_rng(generators):
        steps = params.epochs * steps_per_epoch(loader, params)
        largest = params.patch_zyx or _largest(data.plan.shapes_zyx)
        trainer = build_trainer(params, state, Work(steps, largest, device, ranks))
        is_fresh = state.epoch == 0 and state.batch == 0
        one_run = Run(
            trainer=trainer,
            loader=loader,
            validation=Validation(
                data.store,
                data.split.cases(data.store.manifest, "validation"),
                params,
                device,
                ranks,
                process.stop,
            ),
            keeper=Keeper(places.models, trainer, is_fresh=is_fresh),
            reporter=reporter,
            stop=process.stop,
            trouble=places.curves / f"nonfinite{ranks.rank or ''}.pt",
        )
        done = state.epoch
        # the trainer has the weights now; the state carries what goes with them
        state = train(one_run, replace(state, model={}, average={}, optimizer={}, scaler={}))
    said = advice(loader.meter, residency, epochs=state.epoch - done)
    if said is not None:
        LOG.warning("%s", said)
    return state


def _require_place(places: Places, params: TrainParams, state: Checkpoint, plan: Plan) -> None:
    steps, each = params.steps_per_epoch, params.accumulate
    batches = math.ceil(len(plan) / params.batch_size) if steps is None else steps * each
    require_place(places.models / LAST, state, batches=batches, accumulate=each)


def _start(
    params: TrainParams,
    seed: int,
    manifest: Manifest,
    split: Split,
    models: Path,
    process: Process,
) -> Checkpoint:
    """A run at its beginning; without weights unless it begins with another model's."""
    began = beginning(process.init_from, models, params, split)
    return Checkpoint(
        run_key=run_key(params, seed, manifest, split, began.record),
        seed=seed,
        split=vars(split),
        spec=params.spec,
        train=params.model_dump(mode="json"),
        preprocess=manifest.params,
        data_digest=manifest.digest,
        began_from=began.record,
        code=process.code,
        model=began.weights,
    )


def _require_same(params: TrainParams, seed: int, manifest: Manifest, ranks: Ranks) -> None:
    """Refuse to train together on different things, as on machines with copies of their own."""
    seen = everyones((params.model_dump_json(), seed, manifest.digest), ranks)
    if any(one != seen[0] for one in seen):
        fact = "the processes do not have the same parameters and prepared data"
        raise ParamsError("--params, --cases", fact, "give all machines the same files")


def _plan(store: CaseStore, split: Split, params: TrainParams, seed: int) -> Plan:
    case_ids = split.cases(store.manifest, "train")
    if not case_ids:
        raise StoreError(store.root, "no case is left to train on", "add cases to the store")
    return Plan.of_store(
        store,
        case_ids=case_ids,
        patch_zyx=params.patch_zyx,
        patches_per_case=params.patches_per_case,
        foreground_share=params.foreground_share,
        augmentation=params.augmentation,
        seed=seed,
    )


def _largest(shapes: dict[str, Triple]) -> Triple:
    return triple(max(sides) for sides in zip(*shapes.values(), strict=True))
