"""``python -m pipeline.predict``: segment the liver in one CT never seen."""

from pathlib import Path

import click

from pipeline.command import PathType, command, device_option
from stages.evaluate.export import require_ending, write_mask
from stages.evaluate.restore import restore_mask
from stages.evaluate.window import liver_probability
from stages.preprocess.inspect import ct_to_predict
from stages.preprocess.params import preparation_of
from stages.preprocess.prepare import prepare_volume
from stages.train.checkpoints.checkpoint import load_checkpoint
from stages.train.device import choose_device, network_on_hu
from stages.train.memory import explained_shortage


@command
@click.option("--model", type=PathType, default=Path("models/best.pt"), show_default=True)
@click.option("--ct", type=PathType, required=True, help="The CT: a file, or a DICOM folder.")
@click.option("--out", type=PathType, required=True, help="The mask, for instance mask.nii.gz.")
@click.option("--overlap", type=click.FloatRange(0, 0.95), default=0.5, show_default=True)
@device_option
def main(model: Path, ct: Path, out: Path, overlap: float, device: str) -> None:
    """Segment the liver in one CT.

    The CT is prepared as the training data was, by the parameters in the model's file. The mask
    has the CT's size, spacing, origin and direction. Not for clinical use.
    """
    require_ending(out)
    chosen = choose_device(device)
    checkpoint = load_checkpoint(model)
    fix = "use the liver3d it was trained with, or train it again"
    preprocess = preparation_of(checkpoint.preprocess, model, made="was trained", fix=fix)
    if preprocess.crop == "label":
        click.echo("the model was trained on label crops; there is no label, so the body is taken")
    if preprocess.crop == "slices":
        click.echo("the model was trained on some slices alone; outside them no liver is predicted")
    source, hu, doubts = ct_to_predict(ct)
    for doubt in doubts:
        click.echo(f"warning: {ct}: {doubt.fact}")
    prepared = prepare_volume(source, hu, preprocess)
    train = checkpoint.params()
    with explained_shortage(chosen):
        probability = liver_probability(
            network_on_hu(checkpoint.network(), train, chosen),
            prepared.volume,
            window_zyx=train.patch_zyx,
            overlap=overlap,
            device=chosen,
        )
    mask = restore_mask(
        probability, box=prepared.box, source_grid=source.grid, orientation=source.orientation
    )
    write_mask(out, mask, source.grid)
    click.echo(f"liver {mask.sum() * source.grid.voxel_ml:.0f} ml; mask: {out}")


if __name__ == "__main__":
    main()
