"""Stage two: from the store to ``best.pt`` and ``last.pt``."""

import logging
import math
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from cache.errors import StoreError
from cache.grid import Triple, triple
from cache.manifest import Manifest
from cache.reader import CaseStore
from stages.train.checkpoint import Checkpoint, Row, cpu_state, save_checkpoint
from stages.train.curves import write_curves
from stages.train.device import place, require_sound_gradients
from stages.train.loader.batches import Loader
from stages.train.loader.open import advice, open_loader
from stages.train.loader.residency import Residency
from stages.train.loop import Trainer, train_epoch, validate
from stages.train.losses import make_loss
from stages.train.memory import require_memory
from stages.train.params import TrainParams
from stages.train.plan import Plan
from stages.train.ranks import Ranks
from stages.train.resume import resumed, run_key
from stages.train.split import Split, read_split, split_patients, write_split
from stages.train.unet import UNet3d

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Places:
    """Where training reads and writes."""

    cases: Path
    models: Path
    curves: Path


@dataclass(frozen=True)
class Run:
    """What stays the same from epoch to epoch."""

    places: Places
    store: CaseStore
    loader: Loader
    residency: Residency
    validation: list[str]  # case ids
    trainer: Trainer


def run(
    places: Places,
    params: TrainParams,
    *,
    seed: int,
    split_file: Path | None,
    device: torch.device,
    resume: bool,
) -> Checkpoint:
    """Train until ``epochs`` are done, from where the same run was stopped if it was.

    Args:
        places: the store, the folder for checkpoints, the folder for curves.
        params: the ``train`` section.
        seed: of the split, the weights and the plan.
        split_file: a split to use instead of one drawn from the seed.
        device: where to compute.
        resume: refuse, instead of starting afresh, when ``last.pt`` is of another run.

    Returns:
        The last checkpoint.

    Raises:
        StoreError: there is no prepared data, or it is damaged.
        ParamsError: the split, the precision, the residency or the memory does not allow it.
        ModelError: the loss diverged, or ``resume`` finds nothing to resume.
    """
    store = CaseStore(places.cases, decoded_bytes=0)  # validation reads each chunk once
    split = _split(store.manifest, params, seed, split_file)
    plan = _plan(store, split, params, seed)
    require_sound_gradients(params, device)
    require_memory(params, _largest(plan.shapes_zyx), device)
    checkpoint = resumed(places.models, _start(params, seed, store.manifest, split), resume=resume)
    # only now: a refused --resume must leave the split that belongs to the models beside it
    write_split(places.models / "split.json", split)
    write_curves(places.curves, checkpoint.history)
    if checkpoint.epoch == params.epochs:
        return checkpoint
    loader, residency = open_loader(store, plan, params, device=device, ranks=Ranks())
    trainer = _trainer(params, checkpoint, device, steps=params.epochs * len(loader))
    validation = split.cases(store.manifest, "validation")
    return _train(Run(places, store, loader, residency, validation, trainer), checkpoint)


def _train(run: Run, checkpoint: Checkpoint) -> Checkpoint:
    params, before = run.trainer.params, checkpoint.epoch
    steps, done = params.epochs * len(run.loader), before * len(run.loader)
    with tqdm(None, "train", steps, initial=done, disable=None, unit="step") as progress:
        for epoch in range(checkpoint.epoch, params.epochs):
            row = _epoch(run, epoch, progress)
            checkpoint = _advance(checkpoint, row, run.trainer)
            _save(run.places.models, checkpoint, row)
            write_curves(run.places.curves, checkpoint.history)
            told = {name: value for name, value in row.items() if "loader/" not in name}
            told["waiting"] = row["loader/waiting"]
            LOG.info("%s", ", ".join(f"{name} {value:.4g}" for name, value in told.items()))
    said = advice(run.loader.meter, run.residency, epochs=params.epochs - before)
    if said is not None:
        LOG.warning("%s", said)
    return checkpoint


def _epoch(run: Run, epoch: int, progress: "tqdm[Any]") -> Row:
    """Train one epoch, and validate after it if it is due."""
    trainer, params = run.trainer, run.trainer.params
    with closing(run.loader.epoch(epoch)) as batches:
        trained = train_epoch(trainer, batches, run.loader.meter, progress)
    row: Row = {"epoch": float(epoch + 1), **trained, **run.loader.meter.row()}
    is_due = (epoch + 1) % params.validate_every == 0 or epoch + 1 == params.epochs
    if is_due and run.validation:
        row |= validate(
            trainer.network, run.store, run.validation, params=params, device=trainer.device
        )
    return row


def _advance(checkpoint: Checkpoint, row: Row, trainer: Trainer) -> Checkpoint:
    """The checkpoint after one more epoch."""
    dice = row.get("validation/dice", math.nan)
    best = checkpoint.best_dice
    if math.isfinite(dice) and (best is None or dice > best):
        best = dice
    return replace(
        checkpoint,
        epoch=int(row["epoch"]),
        best_dice=best,
        history=[*checkpoint.history, row],
        model=cpu_state(trainer.network),
        optimizer=trainer.optimizer.state_dict(),
    )


def _save(models: Path, checkpoint: Checkpoint, row: Row) -> None:
    """Write ``best.pt`` when validation improved or never happens, then ``last.pt``."""
    # best.pt first: a crash between the two repeats the epoch and writes the same best.pt again
    if checkpoint.best_dice in (None, row.get("validation/dice")):
        save_checkpoint(models / "best.pt", replace(checkpoint, optimizer={}))
    save_checkpoint(models / "last.pt", checkpoint)


def _start(params: TrainParams, seed: int, manifest: Manifest, split: Split) -> Checkpoint:
    """A run at its beginning, before any weights."""
    return Checkpoint(
        run_key=run_key(params, seed, manifest, split),
        epoch=0,
        best_dice=None,
        history=[],
        seed=seed,
        split=vars(split),
        train=params.model_dump(mode="json"),
        preprocess=manifest.params,
        data_digest=manifest.digest,
        model={},
        optimizer={},
    )


def _trainer(
    params: TrainParams, checkpoint: Checkpoint, device: torch.device, *, steps: int
) -> Trainer:
    """Everything a step needs, as the checkpoint left it."""
    with torch.random.fork_rng(devices=[]):  # the weights' seed is nobody else's business
        torch.manual_seed(checkpoint.seed)
        network = UNet3d(1, 2, params.n_channels, params.upsampling)
    placed = place(network, device)
    optimizer = torch.optim.Adam(placed.parameters(), lr=params.lr)

    def factor(step: int) -> float:
        if params.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))

    schedule = LambdaLR(optimizer, factor)
    if checkpoint.epoch > 0:
        placed.load_state_dict(checkpoint.model)
        optimizer.load_state_dict(checkpoint.optimizer)
        # the schedule is a function of the step alone; the optimizer's state holds its last rate
        schedule.last_epoch = checkpoint.epoch * (steps // params.epochs)
    return Trainer(placed, make_loss(params.loss), optimizer, schedule, params, device)


def _split(manifest: Manifest, params: TrainParams, seed: int, split_file: Path | None) -> Split:
    patients = {entry.patient_id for entry in manifest.cases.values()}
    if split_file is not None:
        split = read_split(split_file, patients)
        _tell_strangers(split, patients, split_file)
        return split
    shares = {"validation_share": params.validation_share, "test_share": params.test_share}
    split = split_patients(patients, seed=seed, **shares)
    for role, share in (("validation", params.validation_share), ("test", params.test_share)):
        if share > 0 and not getattr(split, role):
            LOG.warning("%d patients are too few to set any apart for %s", len(patients), role)
    return split


def _tell_strangers(split: Split, patients: set[str], split_file: Path) -> None:
    """Warn of names that a split file and the store do not share: one may be a slip."""
    named = {*split.train, *split.validation, *split.test}
    for fact, names in (
        ("names patients that the store has not", named - patients),
        ("leaves patients of the store out; evaluate counts them as test", patients - named),
    ):
        if names:
            LOG.warning("%s %s: %s", split_file, fact, ", ".join(sorted(names)[:10]))


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
