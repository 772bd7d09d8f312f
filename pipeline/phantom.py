"""``python -m pipeline.phantom``: make synthetic CTs with a known liver."""

from pathlib import Path

import click

from pipeline.command import command, params_option, place_option
from pipeline.params import read_params
from stages.phantom.run import run


@command
@place_option("out", "data/phantoms", "Folder to write image/ and label/ to.")
@click.option("--count", type=click.IntRange(min=1), help="How many; else phantom.count.")
@click.option(
    "--shape-zyx",
    type=click.IntRange(min=16),
    nargs=3,
    help="Typical shape in voxels, slices first; else phantom.shape_zyx.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Else the seed of the parameter file.")
@params_option
def main(
    out: Path,
    count: int | None,
    shape_zyx: tuple[int, int, int] | None,
    seed: int | None,
    params_file: Path,
) -> None:
    """Make synthetic abdominal CTs with liver labels.

    Each is a pure function of the seed and its number: the same call writes the same bytes.
    """
    params = read_params(params_file)
    case_ids = run(
        out,
        count=count or params.phantom.count,
        shape_zyx=shape_zyx or params.phantom.shape_zyx,
        seed=params.seed if seed is None else seed,
    )
    click.echo(f"{len(case_ids)} phantoms in {out}")


if __name__ == "__main__":
    main()
