"""Dice against wall time: ours and MONAI's way from the same raw CTs, in one run.

    python -m benchmarks.accuracy --peers-python PYTHON --out FILE.txt --plot FILE.png
    python -m benchmarks.accuracy --peers-python PYTHON --src D:/LiverDataset

Phantoms of params.yaml, or a data set of yours; the same cases train and validate, with the same
spacing, HU window, patch, batch size and share of patches around liver. Wall time starts with the
first process and includes everything: interpreters, imports, reading, preparing, caching. Ours is
``pipeline.preprocess`` and ``pipeline.train``; MONAI's is ``benchmarks/peers/monai_train.py``.
With --src nothing is judged.

Both run at the same time, one core and one thread each, which they swap from seed to seed, so that
whatever disturbs the machine disturbs both; with --alone one after the other on all cores. Scores
are of the weights there were at a moment, found out afterwards: mean Dice over the validation
cases on the grids of their label files, whole CTs, nothing removed. Before the first weights it
is 0. Ours are the newest checkpoint's, up to six seconds old; MONAI's are of the moment itself.
"""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from benchmarks.curve_plot import plot_curves
from benchmarks.measure import REPO, CommandError, machine, progress, run_timed, settle, versions
from benchmarks.peers.compare import version_in
from benchmarks.race import Curve, Race, Runner, Turn
from benchmarks.race_monai import MONAI, readable_pair
from benchmarks.race_ours import OURS
from benchmarks.sources import sources_in
from cache.manifest import read_manifest
from cache.reader import CaseStore
from pipeline.params import Params, read_params
from stages.train.split import Split, split_patients, write_split

PARAMS = REPO / "params.yaml"
VALIDATION_SHARE = 0.4  # nobody is kept for testing: the more are scored, the less chance counts
MARKS_MINUTES = (2.0, 5.0, 10.0)
RUNNERS = (OURS, MONAI)
FolderType = click.Path(path_type=Path, file_okay=False, exists=True)
FileType = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--peers-python", default=sys.executable, help="The Python that has MONAI.")
@click.option("--src", type=FolderType, help="A data set, reported and not judged; else phantoms.")
@click.option("--minutes", default=10.0, show_default=True, help="Of each run.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--cores", default="0,1", show_default=True, help="Numbers of the cores to run on.")
@click.option("--alone", is_flag=True, help="One after the other, each on all of the cores.")
@click.option("--scratch", type=FolderType, help="Where the temporary folder is made.")
@click.option("--out", type=FileType, help="For the table.")
@click.option("--plot", type=FileType, help="For the picture.")
def main(
    peers_python: str,
    src: Path | None,
    minutes: float,
    seeds: int,
    cores: str,
    alone: bool,
    scratch: Path | None,
    out: Path | None,
    plot: Path | None,
) -> None:
    """Race to accuracy and print one table."""
    lines = [*machine(), versions(["torch", "numpy"])]  # before this run makes a load of its own
    numbers = [int(core) for core in cores.split(",")]
    if not alone and len(numbers) != len(RUNNERS):
        raise click.UsageError("--cores: name one core for each of the two, or run them --alone")
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        try:
            lines.append(f"MONAI {version_in(peers_python, 'monai')}")
            race = prepare(Path(folder), src, moments_s(minutes), peers_python)
            curves, told = run(race, seeds, numbers, alone=alone)
        except CommandError as error:
            raise click.ClickException(str(error)) from error
    lines += [described(race, src, numbers, alone=alone), *told]
    lines += ["", *table(curves, marks_s(minutes), is_judged=src is None)]
    print("\n".join(lines), flush=True)
    if out:
        out.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    if plot:
        counts = f"{len(race.train)} CTs to train on, {len(race.validation)} to validate"
        plot_curves(plot, curves, marks_s(minutes), title=f"{counts}, {seeds} seeds")


def marks_s(minutes: float) -> list[float]:
    """When the two are compared: 2, 5 and 10 minutes, as far as they go, and the end."""
    return [60 * mark for mark in sorted({*MARKS_MINUTES, minutes}) if mark <= minutes]


def moments_s(minutes: float) -> list[float]:
    """When weights are wanted: often at first, where they change most, and at all marks."""
    early, middle, late = range(15, 120, 15), range(120, 300, 30), range(300, 36_000, 60)
    every = {float(moment) for moment in (*early, *middle, *late) if moment <= 60 * minutes}
    return sorted(every | set(marks_s(minutes)))


def prepare(folder: Path, src: Path | None, moments: list[float], peers_python: str) -> Race:
    """Phantoms if there is no data set, all cases once for the truth, and the split.

    Raises:
        CommandError: the data cannot be prepared.
    """
    params, store = read_params(PARAMS), folder / "reference" / "cases"
    if src is None:
        src = folder / "phantoms"
        run_timed([sys.executable, "-m", "pipeline.phantom", "--out", src, "--params", PARAMS])
    places = ["--src", src, "--out", store, "--params", PARAMS]
    run_timed([sys.executable, "-m", "pipeline.preprocess", *places])
    split = _split(store, params)
    split_file = folder / "split.json"
    write_split(split_file, split)
    manifest, copies = read_manifest(store), folder / "readable"
    copies.mkdir()
    sources = [one for one in sources_in(src) if one.case_id in manifest.cases]
    return Race(
        src=src,
        params=PARAMS,
        store=CaseStore(store),
        split_file=split_file,
        train=split.cases(manifest, "train"),
        validation=split.cases(manifest, "validation"),
        pairs={one.case_id: readable_pair(one, copies) for one in sources},
        moments_s=moments,
        peers_python=peers_python,
        folder=folder,
    )


def _split(store: Path, params: Params) -> Split:
    patients = [entry.patient_id for entry in read_manifest(store).cases.values()]
    return split_patients(
        patients, seed=params.seed, validation_share=VALIDATION_SHARE, test_share=0.0
    )


def run(
    race: Race, seeds: int, cores: list[int], *, alone: bool
) -> tuple[dict[str, list[Curve]], list[str]]:
    """All runs and their scores.

    Returns:
        The curves of all seeds by runner, and a line on each run.

    Raises:
        CommandError: one failed.
    """
    curves: dict[str, list[Curve]] = {runner.name: [] for runner in RUNNERS}
    told, first = [], read_params(race.params).seed
    for number in range(seeds):
        settle()
        turns = [_turn(race, runner, first + number, cores) for runner in RUNNERS]
        if not alone:
            for place, turn in enumerate(turns):
                turn.cores = [cores[(place + number) % len(cores)]]
        with ThreadPoolExecutor(1 if alone else len(RUNNERS)) as pool:
            facts = list(pool.map(lambda runner, turn: runner.train(turn), RUNNERS, turns))
            scored = list(pool.map(lambda runner, turn: runner.score(turn), RUNNERS, turns))
        for runner, fact, curve, turn in zip(RUNNERS, facts, scored, turns, strict=True):
            curves[runner.name].append(curve)
            told.append(f"seed {turn.seed}, {runner.name} on {_named(turn.cores)}: {fact}")
            progress(f"{told[-1]}; Dice {list(curve.values())[-1]:.4f}")
    return curves, told


def _turn(race: Race, runner: Runner, seed: int, cores: list[int]) -> Turn:
    folder = race.folder / f"{runner.name}-{seed}"
    folder.mkdir()
    return Turn(race, folder, cores, seed)


def _named(cores: list[int]) -> str:
    return f"core{'s' * (len(cores) > 1)} {', '.join(map(str, cores))}"


def described(race: Race, src: Path | None, cores: list[int], *, alone: bool) -> str:
    """What was raced on, in a line."""
    kind = "phantoms" if src is None else f"CTs of {src.name}"
    together = (
        f"one after the other on {_named(cores)}" if alone else "at the same time, a core each"
    )
    return f"{len(race.train)} {kind} to train on, {len(race.validation)} to validate; {together}"


def table(curves: dict[str, list[Curve]], marks: Sequence[float], *, is_judged: bool) -> list[str]:
    """Dice of every seed and their mean at the marks, then the means at all moments."""
    heads = "".join(f"{name:>9}" for name in (*curves, "ahead"))
    lines = [f"{'mean Dice':22}{heads}"]
    for mark in marks:
        seeds = list(zip(*([curve[mark] for curve in own] for own in curves.values()), strict=True))
        for number, scores in enumerate(seeds, 1):
            lines.append(_row(f"  {mark / 60:g} min, seed {number}", scores))
        means = [statistics.fmean(scores) for scores in zip(*seeds, strict=True)]
        verdict = "   bar: ours ahead: " + ("met" if means[0] > means[1] else "MISSED")
        lines.append(_row(f"  {mark / 60:g} min, mean", means) + verdict * is_judged)
    lines += ["", f"{'mean of the seeds':22}{heads}"]
    for moment in next(iter(curves.values()))[0]:
        means = [statistics.fmean(curve[moment] for curve in own) for own in curves.values()]
        lines.append(_row(f"  {moment:g} s", means))
    return lines


def _row(name: str, scores: Sequence[float]) -> str:
    ours, theirs = scores
    return f"{name:22}{ours:9.4f}{theirs:9.4f}{ours - theirs:+9.4f}"


if __name__ == "__main__":
    main()
