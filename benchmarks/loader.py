"""Patches per second of our loader, of plain copying and of peers, for the same cases, in one run.

    python -m benchmarks.loader --peers --out benchmarks/results/FILE.txt
    python -m benchmarks.loader --cases data/cases --rounds 1

Takes the cases of a store, or else makes phantom CTs, and writes them in both formats to a
temporary folder. Patches are 96·128·128, a batch has two, nothing is augmented; what counts is a
batch as it is handed to the device's copy. Ours and the limit's are int16 HU and uint8; nnU-Net's
are float32 and int16, from its own normalised files. Half of the patches are centred on liver,
those of MONAI's "anywhere", of PersistentDataset and of TorchIO on nothing.

The limit copies the same patches from arrays in memory into one buffer, in one thread or in two;
ours reads ahead in two. At "device", which here is the processor, a batch is a view and costs
nothing. Every figure is of a process of its own, files in the page cache; the rows of a round
take turns, and figures are medians. Memory is the peak over what imports take, of one process.

Then the same for many small cases: the first batch after imports, and whether a batch costs more
the more cases there are; chunks are not kept decoded, else few cases would be all in memory.

Peers are those of this Python (``pip install -e ".[peers]"``) or of --peers-python; one that is
not installed is a line that says so.
"""

import math
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from benchmarks.bench import at_least, at_most
from benchmarks.measure import machine, progress, versions
from benchmarks.rates import Rates
from benchmarks.stores import Scan, ellipsoids, scans_of, write_arrays, write_store
from cache.reader import CaseStore
from stages.phantom.make import make_phantom

PHANTOMS, SHAPE_ZYX, SEED = 4, (200, 512, 512), 2026
SMALL_SHAPE_ZYX, SMALL_PATCH_ZYX = (64, 64, 64), (48, 48, 48)
POOL_MB = 100  # too few for all chunks of four CTs
ALLOWED_MB = 300  # beside the pool, or beside the decoded set
MOST_FIRST_S = 2.0
PACKAGES = ("torch", "numpy", "tensorstore", "h5py")
PEERS = Path(__file__).parent / "peers" / "loaders.py"
LIMIT, LIMIT_2 = "limit: copying, 1 thread", "limit: copying, 2 threads"
HOST, ZARR, HDF5 = "ours, host", "ours, disk Zarr", "ours, disk HDF5"
OURS = {  # the kind of benchmarks.loading, and the format
    LIMIT: ("limit", "zarr"),
    LIMIT_2: ("limit-2", "zarr"),
    "ours, device": ("device", "zarr"),
    HOST: ("host", "zarr"),
    ZARR: ("disk", "zarr"),
    HDF5: ("disk", "hdf5"),
    "DataLoader, 0 workers, Zarr": ("dataloader-0", "zarr"),
    "DataLoader, 2 workers, Zarr": ("dataloader-2", "zarr"),
    "DataLoader, 2 workers, HDF5": ("dataloader-2", "hdf5"),
}
NNUNET = {"nnU-Net": "nnunet", "nnU-Net, 2 processes": "nnunet-workers"}
OTHERS = {
    "MONAI CacheDataset": "monai-cache",
    "MONAI CacheDataset, anywhere": "monai-cache-uniform",
    "MONAI PersistentDataset": "monai-persistent",
    "TorchIO Queue, 2 processes": "torchio",
}
SMALL = {name: OURS[name] for name in (HOST, ZARR, HDF5)}
FolderType = click.Path(path_type=Path, file_okay=False, exists=True)


@click.command()
@click.option("--cases", type=FolderType, help="A store; else phantoms are made.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--seconds", default=4.0, show_default=True, help="Of every figure but peers'.")
@click.option("--small", type=click.IntRange(min=4), default=1000, show_default=True)
@click.option("--peers", is_flag=True, help="Measure nnU-Net, MONAI and TorchIO too.")
@click.option("--peers-python", default=sys.executable, help="The Python that has them.")
@click.option("--scratch", type=FolderType, help="Where the temporary folder is made.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="For the table.")
def main(
    cases: Path | None,
    rounds: int,
    seconds: float,
    small: int,
    peers: bool,
    peers_python: str,
    scratch: Path | None,
    out: Path | None,
) -> None:
    """Measure the loader and print one table."""
    lines = [*machine(), versions(PACKAGES)]  # before this run makes a load of its own
    rates = Rates(rounds)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        work = Path(folder)
        lines += [prepare(work, cases, has_peers=peers), f"rounds, in turns: {rounds}"]
        commands = {name: ours(work, *row, seconds) for name, row in OURS.items()}
        if peers:
            commands |= {
                # -P: else batchgenerators.py beside the script would hide nnU-Net's package
                name: [peers_python, "-P", PEERS, kind, work / "arrays", work]
                for name, kind in {**NNUNET, **OTHERS}.items()
            }
        rates.measure(commands)
        lines += ["", *speed(rates, commands)]
        print("\n".join(lines), flush=True)
        added = ["", *many(work, rounds, small, seconds), "", *bars(rates, decoded_mb(work))]
    print("\n".join(added), flush=True)
    if out:
        text = "\n".join([*lines, *added]) + "\n"
        out.write_text(text, encoding="utf-8", newline="\n")


def prepare(work: Path, cases: Path | None, *, has_peers: bool) -> str:
    """Write the cases in every form that is read; what they are, in a line."""
    progress("writing the cases")
    given = scans_of(CaseStore(cases)) if cases else phantoms()
    store = CaseStore(write_store(work / "zarr", given, "zarr"))
    write_store(work / "hdf5", scans_of(store), "hdf5")
    if has_peers:
        write_arrays(work / "arrays", scans_of(store))
    return f"{len(store.case_ids)} CTs, {decoded_mb(work):.0f} MB decoded, pool {POOL_MB} MB"


def phantoms() -> Iterator[Scan]:
    """Phantom CTs of full size, one by one."""
    for index in range(PHANTOMS):
        made = make_phantom(SEED, index, shape_zyx=SHAPE_ZYX)
        mask = (made.label_map > 0).astype("uint8")
        yield Scan(f"phantom-{index}", made.volume, mask, made.grid.spacing_zyx_mm)


def decoded_mb(work: Path) -> float:
    """Size of all volumes and masks in memory."""
    entries = CaseStore(work / "zarr").manifest.cases.values()
    return sum(3 * math.prod(entry.shape_zyx) for entry in entries) / 1e6


def ours(work: Path, kind: str, name: str, seconds: float, *more: str) -> list[str | Path]:
    """The command that measures one of our ways; ``more`` overrides what stands before it."""
    words: list[str | Path] = [sys.executable, "-m", "benchmarks.loading", kind]
    words += ["--cases", work / name, "--seconds", str(seconds), "--budget-mb", str(POOL_MB)]
    return [*words, *more]


def speed(rates: Rates, names: Iterable[str]) -> list[str]:
    """The table of patches per second."""
    head = f"{'':34}{'patches/s':>10}{'slowest':>9}{'fastest':>9}{'x limit':>9}{'x 2 thr.':>9}"
    return [f"{head}{'memory MB':>11}", *(speed_row(rates, name) for name in names)]


def speed_row(rates: Rates, name: str) -> str:
    """A line of it."""
    if name in rates.failures:
        return f"  {name:32} failed: {rates.failures[name]}"
    each = rates.values(name)
    rate = rates.median(name)
    text = f"  {name:32}{rate:10.1f}{min(each):9.1f}{max(each):9.1f}"
    text += f"{rate / rates.median(LIMIT):9.2f}{rate / rates.median(LIMIT_2):9.2f}"
    return f"{text}{memory_mb(rates, name):11.0f}" if name in SMALL else text


def memory_mb(rates: Rates, name: str) -> float:
    """The most that a process took beside its imports; NaN if it failed."""
    return max(rates.values(name, "memory_bytes"), default=math.nan) / 1e6


def bars(rates: Rates, set_mb: float) -> list[str]:
    """What was promised, and whether it is kept."""
    nnunet, best = fastest(rates, NNUNET), fastest(rates, {**NNUNET, **OTHERS})
    lines = [
        bar("host, of the limit", rates.median(HOST) / rates.median(LIMIT), 0.6),
        bar("host, of the best peer", rates.median(HOST) / best, 4),
        bar("disk Zarr, of nnU-Net", rates.median(ZARR) / nnunet, 2),
        bar("disk HDF5, of nnU-Net", rates.median(HDF5) / nnunet, 1.5),
    ]
    for name, budget in ((HOST, set_mb), (ZARR, POOL_MB), (HDF5, POOL_MB)):
        used = memory_mb(rates, name)
        limit = at_most(used, round(budget + ALLOWED_MB), "MB")
        lines.append(f"  {f'memory of {name}':32}{used:10.0f}   {limit}")
    return lines


def fastest(rates: Rates, names: Iterable[str]) -> float:
    """The best median of several; NaN if all failed."""
    return max((rates.median(name) for name in names if rates.has(name)), default=math.nan)


def bar(name: str, ratio: float, least: float) -> str:
    """A ratio and the bar it should reach."""
    return f"  {name:32}{ratio:10.2f}   {at_least(ratio, least, 'x')}"


def many(work: Path, rounds: int, small: int, seconds: float) -> list[str]:
    """What a batch costs with few and with many small cases, and how soon the first one comes."""
    counts = sorted({4, max(4, small // 10), small})
    commands: dict[str, list[str | Path]] = {}
    for count in counts:
        progress(f"writing {count} small cases")
        folder = work / f"small-{count}"
        for name in ("zarr", "hdf5"):
            write_store(folder / name, ellipsoids(count, SMALL_SHAPE_ZYX), name)
        how = ["--patch-zyx", *map(str, SMALL_PATCH_ZYX), "--budget-mb", "0"]
        for name, (kind, form) in SMALL.items():
            commands[f"{name}, {count}"] = ours(folder, kind, form, seconds, *how)
    rates = Rates(rounds)
    rates.measure(commands)
    columns = "".join(f"{f'{count} cases':>12}" for count in counts)
    head = f"{'small cases, ms a batch':34}{columns}{'times':>9}{'first batch s':>15}"
    return [head, *(many_row(rates, name, counts) for name in SMALL)]


def many_row(rates: Rates, name: str, counts: list[int]) -> str:
    """A line of that table: milliseconds by number of cases, and seconds to the first batch."""
    failed = [count for count in counts if not rates.has(f"{name}, {count}")]
    if failed:
        return f"  {name:32} failed: {rates.failures[f'{name}, {failed[0]}']}"
    milliseconds = [2e3 / rates.median(f"{name}, {count}") for count in counts]
    columns = "".join(f"{value:12.2f}" for value in milliseconds)
    first_s = rates.median(f"{name}, {counts[-1]}", "first_batch_s")
    verdict = at_most(first_s, MOST_FIRST_S, "s")
    times = milliseconds[-1] / milliseconds[0]
    return f"  {name:32}{columns}{times:9.2f}{first_s:15.2f}   {verdict}"


if __name__ == "__main__":
    main()
