"""Stage two: from the store to ``best.pt`` and ``last.pt``."""

import hashlib
import json
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from cache.errors import ModelError, StoreError
from cache.grid import Triple, triple
from cache.manifest import Manifest
from cache.reader import CaseStore
from stages.train.batches import batches
from stages.train.checkpoint import (
    Checkpoint,
    Row,
    cpu_state,
    load_checkpoint,
    save_checkpoint,
)
from stages.train.curves import write_curves
from stages.train.device import place, require_sound_gradients
from stages.train.loop import Trainer, train_epoch, validate
from stages.train.losses import make_loss
from stages.train.memory import require_memory
from stages.train.params import TrainParams
from stages.train.plan import Plan
from stages.train.split import Split, read_split, split_patients, write_split
from stages.train.unet import UNet3d

LOG = logging.getLogger(__name__)
TRAIN_VERSION = 1  # raise it whenever the same parameters and data would give another model


@dataclass(frozen=True)
class Places:
    """Where training reads and writes."""

    cases: Path
    models: Path
    curves: Path


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
        ParamsError: the split, the precision or the memory does not allow it.
        ModelError: the loss diverged, or ``resume`` finds nothing to resume.
    """
    store = CaseStore(places.cases)
    split = _split(store.manifest, params, seed, split_file)
    cases = {role: split.cases(store.manifest, role) for role in ("train", "validation")}
    shapes = {case_id: store.manifest.cases[case_id].shape_zyx for case_id in cases["train"]}
    if not shapes:
        raise StoreError(places.cases, "no case is left to train on", "add cases to the store")
    require_sound_gradients(params, device)
    require_memory(params, _largest(shapes), device)
    plan = Plan(
        shapes,
        store.foreground_zyx,
        params.patch_zyx,
        params.patches_per_case,
        params.foreground_share,
        seed,
    )
    trainer = _trainer(params, seed, device, steps=_steps(plan, params))
    start = Checkpoint(
        run_key=run_key(params, seed, store.manifest, split),
        epoch=0,
        best_dice=None,
        history=[],
        train=params.model_dump(mode="json"),
        preprocess=store.manifest.params,
        data_digest=store.manifest.digest,
        model={},
        optimizer={},
    )
    checkpoint = _resumed(places.models / "last.pt", start, resume=resume)
    # only now: a refused --resume must leave the split that belongs to the models beside it
    write_split(places.models / "split.json", split)
    _restore(trainer, checkpoint, steps=_steps(plan, params))
    write_curves(places.curves, checkpoint.history)
    return _train(trainer, checkpoint, store, plan, (places, cases["validation"]))


def run_key(params: TrainParams, seed: int, manifest: Manifest, split: Split) -> str:
    """SHA-256 over all that decides a training run; equal keys mean the same run."""
    parts = {
        "version": TRAIN_VERSION,
        "params": params.model_dump(mode="json"),
        "seed": seed,
        "data": manifest.digest,
        "split": vars(split),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _train(
    trainer: Trainer,
    checkpoint: Checkpoint,
    store: CaseStore,
    plan: Plan,
    outputs: tuple[Places, list[str]],
) -> Checkpoint:
    places, validation = outputs
    params, epochs = trainer.params, trainer.params.epochs
    total = epochs * _steps_per_epoch(plan, params)
    done = checkpoint.epoch * _steps_per_epoch(plan, params)
    with tqdm(None, "train", total, initial=done, disable=None, unit="step") as progress:
        for epoch in range(checkpoint.epoch, epochs):
            source = batches(store, plan, epoch=epoch, batch_size=params.batch_size)
            row: Row = {"epoch": float(epoch + 1), **train_epoch(trainer, source, progress)}
            if validation and ((epoch + 1) % params.validate_every == 0 or epoch + 1 == epochs):
                network, device = trainer.network, trainer.device
                row |= validate(network, store, validation, params=params, device=device)
            checkpoint = _advance(checkpoint, row, trainer)
            _save(places.models, checkpoint, row)
            write_curves(places.curves, checkpoint.history)
            LOG.info("%s", ", ".join(f"{name} {value:.4g}" for name, value in row.items()))
    return checkpoint


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


def _resumed(path: Path, start: Checkpoint, *, resume: bool) -> Checkpoint:
    """The checkpoint to go on from: ``last.pt`` if it is of the same run, else the start."""
    if not path.is_file():
        if resume:
            raise ModelError(path, "there is nothing to resume", "leave --resume out to start")
        return start
    try:
        last = load_checkpoint(path)
    except ModelError as error:
        if resume:
            raise
        LOG.warning("%s; starting afresh", error)
        return start
    if last.run_key == start.run_key:
        LOG.info("going on after epoch %d", last.epoch)
        return last
    differences = ", ".join(_differences(last, start))
    if resume:
        fix = "restore these, or leave --resume out to start afresh"
        raise ModelError(path, f"is of another run: {differences}", fix)
    LOG.info("%s is of another run (%s); starting afresh", path, differences)
    return start


def _differences(last: Checkpoint, start: Checkpoint) -> list[str]:
    """What sets two runs apart, in words."""
    names = sorted(last.train.keys() | start.train.keys())
    found = [
        f"train.{name} was {last.train.get(name)}, is {start.train.get(name)}"
        for name in names
        if last.train.get(name) != start.train.get(name)
    ]
    if last.data_digest != start.data_digest:
        found.append("the prepared data differ")
    return found or ["the seed, the split or the version of liver3d differs"]


def _restore(trainer: Trainer, checkpoint: Checkpoint, *, steps: int) -> None:
    if checkpoint.epoch == 0:
        return
    trainer.network.load_state_dict(checkpoint.model)
    trainer.optimizer.load_state_dict(checkpoint.optimizer)
    # the schedule is a function of the step alone; the optimizer's state holds the rate it set
    trainer.schedule.last_epoch = checkpoint.epoch * (steps // trainer.params.epochs)


def _trainer(params: TrainParams, seed: int, device: torch.device, *, steps: int) -> Trainer:
    with torch.random.fork_rng(devices=[]):  # the weights' seed is nobody else's business
        torch.manual_seed(seed)
        network = UNet3d(1, 2, params.n_channels, params.upsampling)
    placed = place(network, device)
    optimizer = torch.optim.Adam(placed.parameters(), lr=params.learning_rate)

    def factor(step: int) -> float:
        if params.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))

    schedule = LambdaLR(optimizer, factor)
    return Trainer(placed, make_loss(params.loss), optimizer, schedule, params, device)


def _split(manifest: Manifest, params: TrainParams, seed: int, split_file: Path | None) -> Split:
    patients = {entry.patient_id for entry in manifest.cases.values()}
    if split_file is not None:
        return read_split(split_file, patients)
    shares = {"validation_share": params.validation_share, "test_share": params.test_share}
    split = split_patients(patients, seed=seed, **shares)
    for role, share in (("validation", params.validation_share), ("test", params.test_share)):
        if share > 0 and not getattr(split, role):
            LOG.warning("%d patients are too few to set any apart for %s", len(patients), role)
    return split


def _steps_per_epoch(plan: Plan, params: TrainParams) -> int:
    return -(-len(plan) // params.batch_size)


def _steps(plan: Plan, params: TrainParams) -> int:
    return params.epochs * _steps_per_epoch(plan, params)


def _largest(shapes: dict[str, Triple]) -> Triple:
    return triple(max(sides) for sides in zip(*shapes.values(), strict=True))
