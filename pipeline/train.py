"""``python -m pipeline.train``: train UNet3d on the store."""

import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

import click
from pydantic import ValidationError

from cache.errors import ParamsError
from pipeline.command import (
    STOPPED,
    PathType,
    command,
    device_option,
    params_option,
    place_option,
    say,
)
from pipeline.dvc_item import number_of
from pipeline.params import Params, read_params
from pipeline.processes import together
from pipeline.version import code_version
from stages.reuse import ALL, keep_freed_memory
from stages.train.device import choose_device
from stages.train.memory import explained_shortage
from stages.train.params import TrainParams
from stages.train.ranks import Ranks, everyones
from stages.train.run import Places, Process, run
from stages.train.stop import Stopped, listening


@command
@place_option("cases", "data/cases", "The store.")
@place_option("out", "models", "Folder for best.pt, last.pt and split.json.")
@place_option("curves", "training", "Folder for the curves.")
@click.option("--of-stage", is_flag=True, help="Train the fold dvc repro asks for, into folds/.")
@device_option
@click.option("--resume", is_flag=True, help="Go on or refuse; never start afresh.")
@click.option("--init-from", type=PathType, help="A model whose weights to begin with.")
@click.option("--fold", type=int, help="In place of train.fold.")
@params_option
def main(
    cases: Path,
    out: Path,
    curves: Path,
    of_stage: bool,
    device: str,
    resume: bool,
    init_from: Path | None,
    fold: int | None,
    params_file: Path,
) -> None:
    """Train UNet3d.

    A run that was stopped goes on by itself where it was; other parameters or other data start
    afresh. SIGTERM, SIGUSR1 and Ctrl-C save and end with exit code 75. On several GPUs:
    torchrun --standalone --nproc-per-node=N -m pipeline.train
    """
    _let_the_first_speak()
    if of_stage:
        fold = number_of("fold")
        out, curves = Path("folds", str(fold), "models"), Path("folds", str(fold), "training")
    with together() as join:
        params = read_params(params_file)
        train = _of_fold(params, fold)
        chosen = choose_device(device)
        if chosen.type == "cpu" and train.patch_zyx is not None:  # of equal shapes alone
            keep_freed_memory(most_bytes=ALL, one_arena=False)
        split_file = params.data.split_file
        ranks = join(chosen)
        with explained_shortage(chosen), listening() as stop:
            process = Process(chosen, ranks, stop, resume, init_from, code_version())
            try:
                last = run(
                    Places(cases, out, curves),
                    train,
                    seed=params.seed,
                    split_file=Path(split_file) if split_file else None,
                    process=process,
                )
            except Stopped as stopped:
                _end_stopped(stopped, ranks)
        if ranks.rank == 0:
            dice = "none" if last.best_dice is None else f"{last.best_dice:.4f}"
            model = out / "best.pt"
            say(f"{last.epoch} epochs; best validation Dice {dice}; model: {model}")


def _let_the_first_speak() -> None:
    """Of several processes only the first logs: all do the same, and errors are raised."""
    if int(os.environ.get("RANK", "0")) > 0:
        logging.disable(logging.WARNING)


def _end_stopped(stopped: Stopped, ranks: Ranks) -> NoReturn:
    if ranks.rank == 0:
        say(str(stopped), err=True)
    # torchrun ends the others as soon as one has gone; the first may not have saved all of it
    everyones(None, ranks)
    sys.exit(STOPPED)


def _of_fold(params: Params, fold: int | None) -> TrainParams:
    """The ``train`` section, for another fold than it names if one is given."""
    if fold is None:
        return params.train
    try:
        return TrainParams.model_validate({**params.train.model_dump(), "fold": fold})
    except ValidationError as error:
        fact = "; ".join(
            str(fault["msg"]).removeprefix("Value error, ") for fault in error.errors()
        )
        raise ParamsError("--fold", fact, "set train.folds, and count the folds from 0") from error


if __name__ == "__main__":
    main()
