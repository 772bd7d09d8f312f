"""Stage one as a whole process: against plain reading, its memory bar and its peers, in one run.

    python -m benchmarks.preprocess --out DIR --peers --results benchmarks/results/FILE.txt

Makes phantom CTs (kept in --out for the next run), then measures: seconds against SimpleITK
reading the same files with as many processes; peak memory of the largest worker; many tiny cases,
and a run that has nothing to do; with --peers nnU-Net and MONAI; sizes. Every time is wall time of
a whole process, start-up included, files in the page cache. The runs of a round take turns, and
ratios are of medians. Each bar stands beside its figure, met or missed; a missed one fails nothing.

--src takes any data set that stage one recognises, as long as its CTs and labels are files: folders
of slices, DICOM or PNG, are refused, for the limit reads files. --peers takes .nii.gz alone.

Peers are those of this Python (``pip install -e ".[peers]"``) or of --peers-python. With them and
all else as given the run takes about 12 minutes on two cores.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.bench import Bench, at_most, failed_row, require_cases
from benchmarks.measure import (
    CommandError,
    machine,
    progress,
    run_timed,
    run_watched,
    tree_bytes,
    versions,
)
from benchmarks.peers.compare import OURS, SPACING_MM, list_file, monai, nnunet, write_list
from benchmarks.sources import (
    largest_bytes,
    phantoms,
    require_nifti,
    small_cases,
    sources_in,
)
from cache.files import remove
from cache.grid import Triple

LIMIT = "SimpleITK reads, nothing else"
KEEP = {"format": "zarr", "crop": "none", "grid": "keep"}
BODY = {"format": "zarr", "crop": "body", "grid": "spacing", "spacing_zyx_mm": [SPACING_MM] * 3}
HDF5 = {"format": "hdf5"}
VARIANTS: dict[str, dict[str, Any]] = {
    "native Zarr": KEEP,
    "native HDF5": {**KEEP, **HDF5},
    OURS: BODY,
    "1.5 mm HDF5": {**BODY, **HDF5},
}
MOST_OF_THE_LIMIT = {"native": 1.8, "1.5 mm": 2.3}  # x, by how a variant's name begins
MOST_IDLE_S = 3.0  # for 1000 cases
WORKER_BYTES = 200e6  # allowed beside four times the CT as int16
PACKAGES = ("SimpleITK", "numpy", "scipy", "tensorstore", "h5py")
PEERS = Path(__file__).parent / "peers"
Section = Callable[[Bench], list[str]]
FolderType = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.option("--out", type=FolderType, required=True, help="For the phantoms, and for scratch.")
@click.option("--src", type=FolderType, help="Data set of files, no DICOM; else phantoms.")
@click.option("--count", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--shape-zyx", nargs=3, type=int, default=(200, 512, 512), show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--small", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--peers", is_flag=True, help="Also nnU-Net and MONAI, once each.")
@click.option("--peers-python", default=sys.executable, help="Of the environment they are in.")
@click.option("--results", type=click.Path(path_type=Path), help="Also write the table here.")
def main(
    out: Path,
    src: Path | None,
    count: int,
    shape_zyx: Triple,
    workers: int,
    rounds: int,
    small: int,
    peers: bool,
    peers_python: str,
    results: Path | None,
) -> None:
    """Measure stage one and print one table."""
    lines = [*machine(), versions(PACKAGES)]  # before this run makes a load of its own
    out = out.absolute()
    src = src.absolute() if src else phantoms(out, count, shape_zyx)
    sources = sources_in(src)
    if peers:
        require_nifti(sources)
    bench = Bench(src, sources, out / "benchmark-scratch", workers, rounds)
    remove(bench.scratch)
    write_list(bench)
    sections: list[Section] = [heading, speed, memory, partial(many, out=out, small=small)]
    if peers:
        sections += [
            partial(nnunet, python=peers_python, ours=BODY),
            partial(monai, python=peers_python),
        ]
    print("\n".join(lines), flush=True)
    for section in [*sections, sizes]:
        added = section(bench)
        print("\n".join(added), flush=True)
        lines += added
        if results:  # after every section, so that a run cut short leaves what it has
            results.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    if bench.failures:
        progress(f"something failed; all that was prepared stays in {bench.scratch}")
    else:
        remove(bench.scratch)


def heading(bench: Bench) -> list[str]:
    """What all the figures below are about."""
    cts = tree_bytes([one.ct for one in bench.sources])
    return [
        f"{len(bench.sources)} CTs, {cts / 1e6:.0f} MB of files,"
        f" the largest {largest_bytes(bench.sources) / 1e6:.0f} MB as int16;"
        f" {bench.workers} workers, {bench.rounds} rounds in turns"
    ]


def speed(bench: Bench) -> list[str]:
    """Whole runs of stage one against reading the same files."""
    read = partial(run_timed, read_command(bench))
    try:
        read()  # not counted: it brings the files into the page cache
    except CommandError as error:
        bench.failures[LIMIT] = str(error)
    for number in range(bench.rounds):
        progress(f"round {number + 1} of {bench.rounds}")
        bench.time(LIMIT, read)
        for name, changes in VARIANTS.items():
            bench.time(name, partial(bench.prepare, name, changes))
    bench.sizes.update({name: tree_bytes([bench.store(name)]) for name in VARIANTS})
    lines = ["", f"{'seconds':34}{'min':>9}{'median':>9}{'x limit':>9}{'of mins':>9}"]
    return [*lines, _speed_row(bench, LIMIT), *(_speed_row(bench, name) for name in VARIANTS)]


def read_command(bench: Bench) -> list[str | Path]:
    """The limit: reading every file, with as many processes."""
    return [sys.executable, PEERS / "plain_read.py", list_file(bench), str(bench.workers)]


def _speed_row(bench: Bench, name: str) -> str:
    if not bench.has(name):
        return failed_row(bench, name)
    ratio = bench.median(name) / bench.median(LIMIT)
    of_mins = bench.least(name) / bench.least(LIMIT)
    bars = [most for start, most in MOST_OF_THE_LIMIT.items() if name.startswith(start)]
    bar = at_most(ratio, bars[0], "x") if bars else ""
    times = f"{bench.least(name):9.2f}{bench.median(name):9.2f}"
    return f"  {name:32}{times}{ratio:9.2f}{of_mins:9.2f}   {bar}".rstrip()


def memory(bench: Bench) -> list[str]:
    """The largest worker of each variant, in runs of their own."""
    allowed = 4 * largest_bytes(bench.sources) + WORKER_BYTES
    lines = ["", f"{'peak resident memory, MB':34}{'worker':>9}{'main':>9}{'of bar':>9}"]
    for name, changes in VARIANTS.items():
        remove(bench.store(name))
        progress(f"memory of {name}")
        try:
            peaks = run_watched(bench.command(name, changes))
            require_cases(bench.store(name), len(bench.sources))
        except CommandError as error:
            bench.failures[f"memory of {name}"] = str(error)
            lines.append(f"  {name:32} failed: {error}")
            continue
        worker = max(peaks.worker, peaks.main)  # one worker may be the command itself
        bar = at_most(worker / 1e6, round(allowed / 1e6), "MB")
        sizes_mb = f"{worker / 1e6:9.0f}{peaks.main / 1e6:9.0f}"
        lines.append(f"  {name:32}{sizes_mb}{worker / allowed:9.2f}   {bar}")
    return lines


def many(bench: Bench, *, out: Path, small: int) -> list[str]:
    """First runs over more and more tiny cases, then runs with nothing left to do."""
    counts = sorted({max(1, small // 100), max(1, small // 10), small})
    lines = ["", f"{'tiny cases, first run':34}{'seconds':>9}{'ms each':>9}{'marginal':>10}"]
    before, told = 0.0, 0
    for count in counts:
        name, src = f"{count} tiny cases", small_cases(out, count)
        command = bench.command(name, KEEP, src)
        bench.time(name, partial(_run_and_count, bench, name, command, count))
        if not bench.has(name):
            lines.append(failed_row(bench, name))
            continue
        seconds = bench.median(name)
        more = f"{(seconds - before) / (count - told) * 1e3:10.1f}" if told else ""
        lines.append(f"  {count:<32}{seconds:9.2f}{seconds / count * 1e3:9.1f}{more}")
        before, told = seconds, count
    return [*lines, *_idle(bench, counts[-1], small_cases(out, counts[-1]))]


def _idle(bench: Bench, count: int, src: Path) -> list[str]:
    """The same command over a store that has everything."""
    store, name = f"{count} tiny cases", f"nothing to do, {count} tiny cases"
    command = bench.command(store, KEEP, src)
    for _ in range(bench.rounds):
        bench.time(name, partial(_run_and_count, bench, store, command, count))
    if not bench.has(name):
        return [failed_row(bench, name)]
    times = f"{bench.least(name):9.2f}{bench.median(name):9.2f}"
    bar = at_most(bench.median(name), MOST_IDLE_S, "s")
    return [
        f"{'second run':34}{'min':>9}{'median':>9}",
        f"  {name:32}{times}{bar:>{len(bar) + 12}}",
    ]


def _run_and_count(bench: Bench, store: str, command: list[str | Path], count: int) -> float:
    seconds = run_timed(command)
    require_cases(bench.store(store), count)
    return seconds


def sizes(bench: Bench) -> list[str]:
    """What the prepared data take on the disk."""
    source = tree_bytes([file for one in bench.sources for file in (one.ct, one.label)])
    rows = {"source CTs and labels": source, **bench.sizes}
    lines = ["", f"{'size, MB':34}{'MB':>9}{'x source':>9}"]
    for name, size in rows.items():
        if name in bench.failures:
            lines.append(failed_row(bench, name))
        else:
            lines.append(f"  {name:32}{size / 1e6:9.1f}{size / source:9.2f}")
    return lines


if __name__ == "__main__":
    main()
