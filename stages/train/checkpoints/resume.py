"""Whether a run goes on where it was stopped: the run key, and what ``last.pt`` says."""

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path

from cache.errors import ModelError
from cache.manifest import Manifest
from stages.train.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from stages.train.checkpoints.differing import differing
from stages.train.checkpoints.earlier import BEST, LAST, PREVIOUS, bring_back
from stages.train.checkpoints.going_on import load_unfinished
from stages.train.params import TrainParams
from stages.train.split import Split

LOG = logging.getLogger(__name__)
TRAIN_VERSION = 2  # raise it whenever the same parameters and data would give another model

# parameters on which the model does not depend
WITHOUT_EFFECT = {"residency", "cross_validate", "save_minutes", "keep_above_iou", "trackers"}


def run_key(
    params: TrainParams, seed: int, manifest: Manifest, split: Split, began_from: dict[str, str]
) -> str:
    """SHA-256 over all that decides a training run; equal keys mean the same run."""
    parts = {
        "version": TRAIN_VERSION,
        "params": params.model_dump(mode="json", exclude=WITHOUT_EFFECT),
        "seed": seed,
        "data": manifest.digest,
        "split": vars(split),
        "weights": began_from.get("digest"),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def resumed(models: Path, start: Checkpoint, *, resume: bool) -> Checkpoint:
    """The checkpoint to go on from: the last whole one of the same run, else the start.

    A run that was put aside for another one since is moved back.

    Args:
        models: folder of ``last.pt``, ``previous.pt`` and ``best.pt``.
        start: the run at its beginning.
        resume: refuse instead of starting afresh.

    Raises:
        ModelError: ``resume``, and there is nothing to go on from, or it is of another run.
    """
    last, faults = _last_whole(models, start)
    if last is None or last.run_key != start.run_key:
        last = bring_back(models, start) or last
    if last is None:
        return _afresh(models, start, faults, resume=resume)
    if last.run_key != start.run_key:
        differences = ", ".join(_differences(last, start))
        if resume:
            fix = "restore these, or leave --resume out to start afresh"
            raise ModelError(models / LAST, f"is of another run: {differences}", fix)
        LOG.info("%s is of another run (%s); starting afresh", models / LAST, differences)
        return start
    done = f"epoch {last.epoch}"
    LOG.info("going on after %s%s", done, f" and {last.batch} batches" if last.batch else "")
    return _with_best(models, last)


def _last_whole(models: Path, start: Checkpoint) -> tuple[Checkpoint | None, list[ModelError]]:
    """``last.pt``, or where that is none to go on from, ``previous.pt``; and what is wrong."""
    faults: list[ModelError] = []
    for path in [path for path in (models / LAST, models / PREVIOUS) if path.is_file()]:
        try:
            found = load_unfinished(path, start)
        except ModelError as error:
            faults.append(error)
            continue
        if faults and found.run_key == start.run_key:
            LOG.warning("%s; going on from %s, the one before it", faults[0], path)
        if not faults or found.run_key == start.run_key:
            return found, faults
    return None, faults


def _afresh(
    models: Path, start: Checkpoint, faults: list[ModelError], *, resume: bool
) -> Checkpoint:
    """The start, where there is nothing to go on from; with ``resume``, a refusal."""
    if resume:
        fix = "leave --resume out to start"
        raise (faults or [ModelError(models / LAST, "there is nothing to resume", fix)])[0]
    if faults:
        LOG.warning("%s; starting afresh", faults[0])
    return start


def _with_best(models: Path, last: Checkpoint) -> Checkpoint:
    """The same, but if ``best.pt`` is lost, a new one has to be found."""
    if last.epoch == 0:
        return last
    try:
        best = load_checkpoint(models / BEST)
    except ModelError as error:
        LOG.warning("%s; the present weights take its place until better ones come", error)
        best = replace(last, best_dice=None)
        save_checkpoint(models / BEST, best.to_keep())
    # without a Dice it stands in for a lost one, as last.pt need not know yet
    return replace(last, best_dice=None) if best.best_dice is None else last


def _differences(last: Checkpoint, start: Checkpoint) -> list[str]:
    """What sets two runs apart, in words."""
    then, now = (
        {name: value for name, value in one.train.items() if name not in WITHOUT_EFFECT}
        for one in (last, start)
    )
    found = differing(then, now, "train")
    if last.seed != start.seed:
        found.append(f"seed was {last.seed}, is {start.seed}")
    if last.data_digest != start.data_digest:
        found.append("the prepared data differ")
    elif last.split != start.split:
        found.append("the split differs")
    if last.began_from.get("digest") != start.began_from.get("digest"):
        names = [one.began_from.get("file", "random weights") for one in (last, start)]
        found.append("it began from {}, now from {}".format(*names))
    return found or ["the version of liver3d differs"]
