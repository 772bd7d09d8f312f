"""``python -m pipeline.predict``: segment the liver in CTs never seen."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from cache.errors import DataError, ParamsError, SourceError
from pipeline.command import PathType, command, device_option, say
from pipeline.version import liver3d_version
from stages.machine import MORE_MEMORY, naming_shortage
from stages.predict.dicom_seg import require_highdicom
from stages.predict.find import Task, find_tasks
from stages.predict.model import load_ensemble
from stages.predict.one import Choices, Predictor, predict_one
from stages.predict.run import Outcome, left_behind, run

SHOWN = 5  # files in a message
CROPS = {
    "label": "the model was trained on label crops; there is no label, so the body is taken",
    "slices": "the model was trained on some slices alone; outside them no liver is predicted",
}


def flag(name: str, text: str) -> Callable[[Any], Any]:
    """An option that is on or off."""
    return click.option(f"--{name}", is_flag=True, help=text)


@command
@click.option(
    "--model",
    "models",
    type=PathType,
    multiple=True,
    default=[Path("models/best.pt")],
    show_default=True,
    help="A checkpoint, or a folder of pipeline.export. Several: their mean is taken.",
)
@click.option("--ct", type=PathType, required=True, help="A CT, a DICOM folder, or many below one.")
@click.option("--out", type=PathType, required=True, help="The mask, or the folder for the masks.")
@click.option(
    "--overlap",
    type=click.FloatRange(0, 0.95),
    default=0.5,
    show_default=True,
    help="Of neighbouring patches, as a share of their side.",
)
@flag("tta", "Average over the eight mirrorings of every patch; takes eight times as long.")
@flag("keep-largest", "Keep the largest connected piece of the mask alone.")
@flag("fill-holes", "Fill what the mask encloses on all sides.")
@flag("probabilities", "Also write the probability of liver, <name>_probability, beside the mask.")
@flag("dicom-seg", "Also write a DICOM segmentation of a DICOM series, <name>.dcm.")
@flag("any-values", "Predict CTs whose values are not HU, too: for a model trained on such.")
@device_option
def main(models: tuple[Path, ...], ct: Path, out: Path, device: str, **choices: Any) -> None:
    """Segment the liver in a CT, or in every CT below a folder.

    The CT is prepared as the training data was, by the parameters in the model's file. The mask
    has the CT's size, spacing, origin and direction. Of a folder, what an earlier run finished is
    left as it is. Not for clinical use.
    """
    chosen = Choices(**choices)
    tasks, are_many, unlisted, notes = find_tasks(ct, out, chosen.beside_masks)
    if chosen.dicom_seg:
        _require_dicom_seg(tasks, are_many=are_many)
    with naming_shortage("the model", f"use --device cpu, {MORE_MEMORY}"):
        predictor = Predictor(load_ensemble(models, device), chosen, liver3d_version())
    for fault in unlisted:
        say(f"not searched: {_line(fault)}", err=True)
    for place, what in notes[:SHOWN]:
        say(f"not predicted: {place}: {what}")
    if len(notes) > SHOWN:
        say(f"not predicted: {len(notes) - SHOWN} more folders with DICOM files that are not a CT")
    crop = predictor.ensemble.preprocess.crop
    if crop in CROPS:
        say(CROPS[crop])
    if are_many:
        bugs, faults = _tell_all(run(tasks, out, predictor), len(tasks))
        _tell_left_behind(left_behind(tasks, out), ct)
        end_badly(bugs, faults, ct, len(tasks))
    else:
        predicted = predict_one(tasks[0], predictor)
        _warn(tasks[0], predicted.warnings)
        say(f"liver {predicted.liver_ml:.0f} ml; mask: {out}")
    if unlisted:
        fact = f"{len(unlisted)} of its folders could not be searched for CTs"
        raise SourceError(ct, fact, "let them be read; run again, and what is predicted is left")


def _require_dicom_seg(tasks: list[Task], *, are_many: bool) -> None:
    if not are_many and not tasks[0].is_series:
        fact = f"{tasks[0].path} is no DICOM series"
        raise ParamsError("--dicom-seg", fact, "leave it out, or name the folder of a series")
    require_highdicom()


def _tell_all(outcomes: Iterable[Outcome], count: int) -> tuple[list[str], int]:
    """A line for each CT as soon as it is done, and one for all; bugs, and CTs without a mask."""
    bugs: list[str] = []
    faults = old = 0
    for number, outcome in enumerate(outcomes, 1):
        name = f"{number}/{count} {outcome.task.name}"
        faults += outcome.fault is not None
        old += outcome.is_old
        bugs += [outcome.bug] * bool(outcome.bug)
        if outcome.fault is not None:
            say(f"{name}: not predicted: {_line(outcome.fault)}", err=True)
        else:
            _warn(outcome.task, outcome.warnings)
            say(f"{name}: liver {outcome.liver_ml:.0f} ml{', as before' * outcome.is_old}")
    say(f"{count - faults - old} predicted, {old} left from an earlier run")
    return bugs, faults


def _tell_left_behind(files: list[str], ct: Path) -> None:
    if files:
        more = f", … and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
        say(
            f"left by earlier runs, of CTs that are not below {ct}:"
            f" {', '.join(files[:SHOWN])}{more}; delete what is not wanted"
        )


def end_badly(bugs: list[str], faults: int, ct: Path, count: int) -> None:
    """End with what kept CTs from being predicted, if anything did.

    Raises:
        RuntimeError: one met a bug of liver3d.
        DataError: some could not be used.
    """
    if bugs:
        raise RuntimeError("a bug, which left out " + "\n".join(bugs))
    if faults:
        fix = "mend them or take them out of the folder; run again, and the others are left"
        raise DataError(ct, f"{faults} of {count} CTs could not be predicted", fix)


def _warn(task: Task, warnings: list[str]) -> None:
    for warning in warnings:
        say(f"warning: {task.path}: {warning}")


def _line(fault: DataError) -> str:
    return f"{fault.where}: {fault.fact}; {fault.fix}"


if __name__ == "__main__":
    main()
