"""``python -m pipeline.preprocess``: from a folder of CTs and labels to the store."""

import os
from pathlib import Path

import click

from pipeline.command import PathType, command, params_option, place_option
from pipeline.params import read_params
from stages.preprocess.problems import Problem
from stages.preprocess.run import Summary, run

SHOWN = 20  # problems; the rest stands in problems.json


@command
@click.option("--src", type=PathType, help="Folder with image/ and label/; else data.src.")
@place_option("out", "data/cases", "The store.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes; else one per processor. Fewer need less memory.",
)
@click.option("--prune", is_flag=True, help="Also delete stored cases that are no longer in --src.")
@params_option
def main(src: Path | None, out: Path, workers: int | None, prune: bool, params_file: Path) -> None:
    """Check every CT and label, and bring them to one orientation, crop and grid.

    Cases that are already there, from the same files and parameters, are kept. Faults of single
    cases go to problems.json beside --out and never stop the others.
    """
    params = read_params(params_file)
    summary = run(
        src or Path(params.data.src),
        out,
        params.preprocess,
        exclude=params.data.exclude,
        workers=workers or _processors(),
        prune=prune,
    )
    _print(summary, out)


def _processors() -> int:
    """Processors this process may use, which a scheduler can make fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _print(summary: Summary, out: Path) -> None:
    cases, kept = len(summary.manifest.cases), summary.kept
    click.echo(f"{cases} cases in {out}, {cases - kept} prepared now, {kept} kept")
    told = [problem for problem in summary.problems if problem.severity != "ignored"]
    for problem in told[:SHOWN]:
        click.echo(_line(problem))
    ignored = len(summary.problems) - len(told)
    if summary.problems:
        more = f"{len(told)} problems, {ignored} files ignored"
        click.echo(f"{more}; all of them: {out.parent / 'problems.json'}")


def _line(problem: Problem) -> str:
    return f"  {problem.severity} {problem.path}: {problem.fact}\n    fix: {problem.fix}"


if __name__ == "__main__":
    main()
