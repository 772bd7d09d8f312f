"""``python -m pipeline.preprocess``: from a folder of CTs and labels to the store."""

import time
from collections import Counter
from pathlib import Path

import click

from cache.shown import shown
from pipeline.command import PathType, command, params_option, place_option, say
from pipeline.params import Params, read_params
from stages.machine import processors
from stages.preprocess.policy import OTHER_FILES
from stages.preprocess.problems import LEFT_OUT, Problem
from stages.preprocess.reading.dicom import NO_DICOM
from stages.preprocess.run import Manner, Sources, run
from stages.preprocess.tell import Summary
from stages.preprocess.times import note_time

SHOWN = 20  # problems; the rest stands in problems.json
ID_WIDTH = 60  # of the first column; problems.json has a longer id whole
COLUMNS = ("case", "severity", "rule", "what")


@command
@click.option("--src", type=PathType, help="Folder of scans, or a list of them; else data.src.")
@place_option("out", "data/cases", "The store; problems.json and qc.html go beside it.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes, fewer at a time where the memory is short; else one per processor, at least "
    "two. With 1, all is done in this process.",
)
@click.option("--scheduler", help="Address of a Dask scheduler, to use its workers instead.")
@click.option("--check-only", is_flag=True, help="Hold all files against the rules; store nothing.")
@click.option("--prune", is_flag=True, help="Also delete stored cases that are no longer in --src.")
@click.option("--deep", is_flag=True, help="Read every file, also if size and time are unchanged.")
@params_option
def main(
    src: Path | None,
    out: Path,
    workers: int | None,
    scheduler: str | None,
    check_only: bool,
    prune: bool,
    deep: bool,
    params_file: Path,
) -> None:
    """Check every CT and label, and bring them to one orientation, crop and grid.

    Cases that are already there, from the same files and parameters, are kept. Faults of single
    cases go to problems.json beside --out and never stop the others; the rules section of the
    parameter file says which of them are errors, and which are mended.
    """
    params = read_params(params_file)
    began = time.perf_counter()
    # two at least: a case that is killed for memory must not take the command with it
    workers = workers or max(2, processors())
    manner = Manner(workers, scheduler, prune=prune, deep=deep, check_only=check_only)
    summary = run(sources_of(params, src), out, params.preprocess, params.rules, manner)
    if not check_only and summary.refusal is None:
        seconds = time.perf_counter() - began
        note_time(out, seconds, prepared=len(summary.cases) - summary.kept, kept=summary.kept)
    _print(summary, out, check_only=check_only)
    end_badly(summary)


def end_badly(summary: Summary) -> None:
    """End with what a run met, if it is not to end well.

    Raises:
        SourceError: there is no manifest, by the rules.
        RuntimeError: a case met a bug of liver3d.
    """
    if summary.bugs:
        raise RuntimeError("a bug, which left out " + "\n".join(summary.bugs))
    if summary.refusal is not None:
        raise summary.refusal


def sources_of(params: Params, src: Path | None) -> Sources:
    """Where the scans are: what the parameters say, and ``--src`` above them."""
    data = params.data
    return Sources(src or Path(data.src), data.layout, data.exclude, data.patient_id)


def _print(summary: Summary, out: Path, *, check_only: bool) -> None:
    told = [problem for problem in summary.problems if problem.severity != "ignored"]
    for line in _table(sorted(told, key=_worst_first)[:SHOWN]):
        say(line)
    if len(told) > SHOWN:
        say(f"… and {len(told) - SHOWN} more")
    for line in _left_aside(summary.problems):
        say(line)
    counts = Counter(problem.severity for problem in summary.problems)
    found = ", ".join(f"{count} {severity}" for severity, count in sorted(counts.items()))
    say(f"{found or 'no problems'}; see {out.parent / 'problems.json'} and qc.html beside it")
    cases, kept = len(summary.cases), summary.kept
    if summary.refusal is not None:
        return
    if check_only:
        say(f"{cases} cases can be prepared; nothing was stored")
    else:
        say(f"{cases} cases in {out}, {cases - kept} prepared now, {kept} kept")


def _left_aside(problems: list[Problem]) -> list[str]:
    """What else lies in the folders of DICOM series: of which one was taken, and which were not."""
    told = [p for p in problems if p.rule == OTHER_FILES and not p.fact.endswith(NO_DICOM)]
    lines = [f"beside case {shown(one.case_id)}: {shown(one.fact)}" for one in told[:SHOWN]]
    return lines + ([f"… and {len(told) - SHOWN} more"] if len(told) > SHOWN else [])


def _worst_first(problem: Problem) -> tuple[bool, bool, str]:
    return problem.severity not in LEFT_OUT, problem.severity == "fixed", problem.case_id


def _table(problems: list[Problem]) -> list[str]:
    """The problems as lines of columns; the file and the fix are under each."""
    if not problems:
        return []
    rows = [COLUMNS, *(_row(problem) for problem in problems)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
        for row in rows
    ]
    indent = " " * (sum(widths) + 6)
    more = [(f"{indent}{shown(p.path)}", f"{indent}fix: {shown(p.fix)}") for p in problems]
    return [
        lines[0],
        *(line for row, two in zip(lines[1:], more, strict=True) for line in (row, *two)),
    ]


def _row(problem: Problem) -> tuple[str, str, str, str]:
    case_id = shown(problem.case_id) or "-"
    short = case_id if len(case_id) <= ID_WIDTH else f"{case_id[: ID_WIDTH - 1]}…"
    return short, problem.severity, problem.rule, shown(problem.fact)


if __name__ == "__main__":
    main()
