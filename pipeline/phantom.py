"""``python -m pipeline.phantom``: make synthetic CTs with a known liver."""

from pathlib import Path

import click

from pipeline.command import PathType, command, params_option, say
from pipeline.dvc_item import item_of
from pipeline.params import read_params
from stages.phantom.run import run


@command
@click.option(
    "--out", type=PathType, help="Folder to write image/ and label/ to.  [default: data/phantoms]"
)
@click.option(
    "--of-stage", is_flag=True, help="Write to the folder below data/ that dvc repro asks for."
)
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
    out: Path | None,
    of_stage: bool,
    count: int | None,
    shape_zyx: tuple[int, int, int] | None,
    seed: int | None,
    params_file: Path,
) -> None:
    """Make synthetic abdominal CTs with liver labels.

    Each is a pure function of the seed and its number: the same call writes the same bytes.
    """
    params = read_params(params_file)
    out = out or Path("data", item_of("phantom") if of_stage else "phantoms")
    case_ids = run(
        out,
        count=count or params.phantom.count,
        shape_zyx=shape_zyx or params.phantom.shape_zyx,
        seed=params.seed if seed is None else seed,
    )
    say(f"{len(case_ids)} phantoms in {out}")


if __name__ == "__main__":
    main()
