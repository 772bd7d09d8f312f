"""``python -m pipeline.train``: train UNet3d on the store."""

from pathlib import Path

import click

from pipeline.command import command, device_option, params_option, place_option
from pipeline.params import read_params
from stages.train.device import choose_device
from stages.train.memory import explained_shortage
from stages.train.run import Places, run


@command
@place_option("cases", "data/cases", "The store.")
@place_option("out", "models", "Folder for best.pt, last.pt and split.json.")
@place_option("curves", "training", "Folder for the curves.")
@device_option
@click.option("--resume", is_flag=True, help="Go on or refuse; never start afresh.")
@params_option
def main(
    cases: Path, out: Path, curves: Path, device: str, resume: bool, params_file: Path
) -> None:
    """Train UNet3d.

    A run that was stopped goes on by itself where it was; other parameters or other data start
    afresh.
    """
    params = read_params(params_file)
    split_file = params.data.split_file
    chosen = choose_device(device)
    with explained_shortage(chosen):
        last = run(
            Places(cases, out, curves),
            params.train,
            seed=params.seed,
            split_file=Path(split_file) if split_file else None,
            device=chosen,
            resume=resume,
        )
    dice = "none" if last.best_dice is None else f"{last.best_dice:.4f}"
    click.echo(f"{last.epoch} epochs; best validation Dice {dice}; model: {out / 'best.pt'}")


if __name__ == "__main__":
    main()
