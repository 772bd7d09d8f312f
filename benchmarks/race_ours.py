"""Ours in the race to accuracy: the two commands, as anybody would call them.

They read the race's parameter file with CHANGES of the train section: no end but the clock's, no
validation before it, weights to look at every few seconds, and averaged ones, which are good at any
moment. The cosine schedule ends with the race. Tried in the way of benchmarks/race_monai.py, at a
constant learning rate and averaging with 0.99; Dice after 30, 60, 90 and 120 s:

    lr 3e-3, as in params.yaml   0.800  0.959  0.975  0.980
    lr 1e-2                      0.825  0.944  0.966  0.976
    lr 3e-3, batches of one      0.714  0.866  0.869  0.953
    lr 3e-3, patch 24 32 32      0.880  0.933  0.972  0.980
"""

import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch
from ruamel.yaml import YAML

from benchmarks.race import OVERLAP, Curve, Race, Runner, Turn
from cache.case import Mask
from stages.evaluate.restore import restore_mask
from stages.evaluate.window import Network, liver_probability
from stages.train.checkpoints.checkpoint import load_checkpoint
from stages.train.device import network_on_hu

NEVER = 1_000_000
CHANGES = {
    "epochs": NEVER,
    "steps_per_epoch": 100,
    "early_stopping": None,
    "validate_every": NEVER,
    "save_minutes": 0.1,
    "ema": 0.99,
    "trackers": [],
}
LOOK_S = 0.1  # between two looks for new weights
START_S = 6.0  # from preparation to the first step, where training's own clock starts
CPU = torch.device("cpu")


def train(turn: Turn) -> str:
    """Prepare and train, keeping a copy of every checkpoint under the time it appeared."""
    cases, models = turn.folder / "data" / "cases", turn.folder / "models"
    params = turn.folder / "params.yaml"
    write_params(params, turn.race, seed=turn.seed, minutes=1)
    prepare = ["pipeline.preprocess", "--src", turn.race.src, "--out", cases, "--params", params]
    turn.start_clock()
    with turn.process("preprocess", [sys.executable, "-m", *prepare]):
        pass
    prepared_s = turn.seconds()
    left_s = max(1.0, turn.race.moments_s[-1] - prepared_s - START_S)
    write_params(params, turn.race, seed=turn.seed, minutes=left_s / 60)
    learn = ["pipeline.train", "--cases", cases, "--out", models, "--params", params]
    learn += ["--curves", turn.folder / "training", "--device", "cpu"]
    with turn.process("train", [sys.executable, "-m", *learn]) as process:
        _keep_copies(turn, process, models / "last.pt")
    last = load_checkpoint(models / "last.pt")
    steps = int(last.optimizer["state"][0]["step"])
    return f"prepared after {prepared_s:.0f} s; {steps} steps in {last.trained_s:.0f} s"


def write_params(path: Path, race: Race, *, seed: int, minutes: float) -> None:
    """The race's parameter file with what is changed for this turn."""
    yaml = YAML()
    document = yaml.load(race.params.read_text(encoding="utf-8"))
    document["seed"] = seed
    document["data"]["split_file"] = str(race.split_file)
    document["train"].update(CHANGES, max_minutes=minutes)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(document, file)


def _keep_copies(turn: Turn, process: "subprocess.Popen[bytes]", last: Path) -> None:
    """Copy every new checkpoint, and keep those that were the newest at some moment.

    Checkpoints are replaced whole, so that none is copied half written.
    """
    written, older = 0, None
    while process.poll() is None:
        time.sleep(LOOK_S)
        if not last.is_file() or last.stat().st_mtime_ns == written:
            continue
        written, seconds = last.stat().st_mtime_ns, turn.seconds()
        newer = turn.folder / f"{seconds:08.2f}.pt"
        shutil.copyfile(last, newer)
        if older and not any(float(older.stem) <= m < seconds for m in turn.race.moments_s):
            older.unlink()
        older = newer


def score(turn: Turn) -> Curve:
    """At every moment, of the newest weights there were."""
    copies = {float(path.stem): path for path in turn.folder.glob("*.pt")}
    curve = {}
    for moment in turn.race.moments_s:
        there = [seconds for seconds in copies if seconds <= moment]
        curve[moment] = _score(turn.race, copies[max(there)]) if there else 0.0
    return curve


def _score(race: Race, path: Path) -> float:
    checkpoint = load_checkpoint(path)
    network = network_on_hu(checkpoint.network(), checkpoint.spec, CPU)
    predict = partial(_mask, race, network, checkpoint.spec.patch_zyx)
    return race.score(predict)


def _mask(race: Race, network: Network, window_zyx: tuple[int, int, int], case_id: str) -> Mask:
    info = race.store.info(case_id)
    probability = liver_probability(
        network,
        race.store.image(case_id),
        window_zyx=window_zyx,
        overlap=OVERLAP,
        device=CPU,
    )
    return restore_mask(
        probability, box=info.box, source_grid=info.source_grid, orientation=info.orientation
    )


OURS = Runner("ours", train, score)
