"""Whether a run goes on where it was stopped: the run key, and what ``last.pt`` says."""

import hashlib
import json
import logging
from pathlib import Path

from cache.errors import ModelError
from cache.manifest import Manifest
from stages.train.checkpoint import Checkpoint, load_checkpoint
from stages.train.params import TrainParams
from stages.train.split import Split

LOG = logging.getLogger(__name__)
TRAIN_VERSION = 1  # raise it whenever the same parameters and data would give another model


WITHOUT_EFFECT = {"residency"}  # parameters on which the model does not depend


def run_key(params: TrainParams, seed: int, manifest: Manifest, split: Split) -> str:
    """SHA-256 over all that decides a training run; equal keys mean the same run."""
    parts = {
        "version": TRAIN_VERSION,
        "params": params.model_dump(mode="json", exclude=WITHOUT_EFFECT),
        "seed": seed,
        "data": manifest.digest,
        "split": vars(split),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def resumed(models: Path, start: Checkpoint, *, resume: bool) -> Checkpoint:
    """The checkpoint to go on from: ``last.pt`` if it is of the same run, else the start.

    Args:
        models: folder of ``last.pt`` and ``best.pt``.
        start: the run at its beginning.
        resume: refuse instead of starting afresh.

    Raises:
        ModelError: ``resume``, and there is nothing to go on from, or it is of another run.
    """
    path = models / "last.pt"
    if not path.is_file():
        if resume:
            raise ModelError(path, "there is nothing to resume", "leave --resume out to start")
        return start
    try:
        last = load_checkpoint(path)
        load_checkpoint(models / "best.pt")  # going on cannot bring back one that is gone
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
    names = sorted((last.train.keys() | start.train.keys()) - WITHOUT_EFFECT)
    found = [
        f"train.{name} was {last.train.get(name)}, is {start.train.get(name)}"
        for name in names
        if last.train.get(name) != start.train.get(name)
    ]
    if last.seed != start.seed:
        found.append(f"seed was {last.seed}, is {start.seed}")
    if last.data_digest != start.data_digest:
        found.append("the prepared data differ")
    elif last.split != start.split:
        found.append("the split differs")
    return found or ["the version of liver3d differs"]
