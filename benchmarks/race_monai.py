"""MONAI in the race to accuracy, in the environment it is installed in.

SETTINGS are the best of those that were tried on the phantoms, with one seed and two minutes of one
core's own time, in which a busy machine does not count. Dice on the validation CTs' grid after 30,
60, 90 and 120 s:

    channels, residual units     norm      lr       weights       Dice
    16 32 48 64 96, none         instance  1e-3     plain         0.962  0.972  0.975  0.978
    16 32 48 64 96, none         instance  1e-3     channels last 0.951  0.970  0.975  0.976
    16 32 48 64 96, none         instance  3e-3     channels last 0.960  0.971  0.976  0.975
    8 16 32 64 64, 2             instance  1e-3     channels last 0.868  0.963  0.974  0.975
    8 16 32 64 64, 2             instance  1e-3     plain         0.931  0.946  0.966  0.971
    8 16 32 64 64, 2             instance  2e-3     plain         0.929  0.964  0.958  0.975
    8 16 32 64 64, 2             instance  3e-3     plain         0.929  0.964  0.974  0.961
    8 16 32 64 64, 2             batch     1e-3     plain         0.926  0.966  0.922  0.971
    16 32 64 64, 2               instance  1e-3     plain         0.919  0.956  0.968  0.974

With one seed, differences of a few thousandths may be chance. All have 0.62 to 0.70 million
weights; UNet3d with 8 channels has 0.63. A step with residual units, which the spleen tutorial has,
teaches about as much and takes 1.5 to 2.2 times as long. Channels last makes a step 1.4 times
faster with residual units, and 1.07 times slower without. For ten minutes on a core each, at the
same time, the first of them was raced at its constant rate and with 3e-3 and a cosine that ends
with the race; the second was ahead at most moments, and so it is what ours meets. Dice after 1, 2,
5 and 10 minutes:

    1e-3, constant               0.972  0.977  0.981  0.9833
    3e-3, cosine                 0.968  0.978  0.981  0.9836
"""

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone uses

from benchmarks.measure import REPO
from benchmarks.race import Curve, Runner, Turn
from benchmarks.sources import Source
from cache.files import write_json
from pipeline.params import read_params

SCRIPT = REPO / "benchmarks" / "peers" / "monai_train.py"
READABLE = (".nii", ".nii.gz")
SETTINGS = {
    "channels": [16, 32, 48, 64, 96],
    "residual_units": 0,
    "norm": "INSTANCE",
    "lr": 3e-3,
    "schedule": "cosine",
    "channels_last": False,
}


def train(turn: Turn) -> str:
    """One process for all of it."""
    turn.start_clock()
    _write_task(turn)
    with turn.process("train", _command(turn, "train")):
        pass
    said = json.loads((turn.folder / "summary.json").read_text(encoding="utf-8"))
    return f"first step after {said['first_step_s']:.0f} s; {said['steps']} steps"


def score(turn: Turn) -> Curve:
    """At every moment; before the first step there are no weights, and no liver is found."""
    with turn.process("predict", _command(turn, "predict")):
        pass
    return {moment: _score(turn, moment) for moment in turn.race.moments_s}


def _score(turn: Turn, moment: float) -> float:
    path = turn.folder / f"{moment:g}.npz"
    if not path.is_file():
        return 0.0
    with np.load(path) as masks:
        return turn.race.score(lambda case_id: masks[case_id])


def _command(turn: Turn, action: str) -> list[str | Path]:
    return [turn.race.peers_python, SCRIPT, action, turn.folder / "task.json"]


def _write_task(turn: Turn) -> None:
    """The race's parameters in MONAI's order of axes, and its own settings."""
    race, params = turn.race, read_params(turn.race.params)
    z, y, x = params.preprocess.spacing_zyx_mm or (None, None, None)
    task = {
        "train": [race.pairs[case_id] for case_id in race.train],
        "validation": [{"case_id": one, **race.pairs[one]} for one in race.validation],
        "out": str(turn.folder),
        "began": turn.began,
        "moments_s": race.moments_s,
        "threads": len(turn.cores),
        "seed": turn.seed,
        "spacing_xyz_mm": [x, y, z],
        "hu_window": params.train.hu_window,
        "patch_xyz": (params.train.patch_zyx or ())[::-1],
        "batch_size": params.train.batch_size,
        "foreground_share": params.train.foreground_share,
        **SETTINGS,
    }
    write_json(turn.folder / "task.json", task)


def readable_pair(source: Source, folder: Path) -> dict[str, str]:
    """Files of a case that MONAI reads without further packages; others are written as NIfTI."""
    return {
        kind: str(_readable(path, folder / f"{source.case_id}-{kind}.nii.gz"))
        for kind, path in (("image", source.ct), ("label", source.label))
    }


def _readable(path: Path, copy: Path) -> Path:
    if path.name.endswith(READABLE):
        return path
    sitk.WriteImage(sitk.ReadImage(str(path)), str(copy))
    return copy


MONAI = Runner("MONAI", train, score)
