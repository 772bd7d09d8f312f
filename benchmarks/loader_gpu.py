r"""Does training wait for data? UNet3d on a GPU, fed from each residency, in one run.

    python -m benchmarks.loader_gpu
    python -m benchmarks.loader_gpu --device cpu --cases 2 --shape-zyx 40 64 72 \
        --patch-zyx 16 32 32 --channels 8 --steps 6

Makes an HDF5 store of synthetic CTs in a temporary folder, then trains from it with every kind of
augmentation that presets/liver.yaml has on, in bfloat16 (float32 on the processor, where the second
command merely shows that it works). It needs torch, numpy, h5py, hdf5plugin, pydantic, click, tqdm
and psutil, and none of SimpleITK, TensorStore or MONAI.

The limit is the same step without loading: a few batches that stay on the device, taking turns,
augmented every time, before and after all else; beside it one batch that is not augmented. Loading
may also slow down what runs beside it, which is no waiting: that shows against the limit. Every row
waits for every case to arrive before its time starts. Each step ends when its loss is known, as in
training.
"""

import gc
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import click
import torch

from benchmarks.augmented_step import AUGMENTATION, trainer
from benchmarks.measure import machine, progress, versions
from benchmarks.stores import ellipsoids, write_store
from cache.grid import Triple, triple
from cache.reader import CaseStore
from stages.train.augment.params import AugmentationParams
from stages.train.loader.batches import Loader
from stages.train.loader.fill import Source
from stages.train.loader.host import decoded_bytes
from stages.train.loader.lazy import LazyCases
from stages.train.loader.residency import Kind, Residency, open_source
from stages.train.plan import Plan
from stages.train.sample import Batch

BATCH = 2
WARM_UP = 8  # steps, beside one for every case
HELD = 16  # batches of the limit: enough that augmentation costs what it costs on average
POOL_BYTES = 100 << 20
MOST_WAITING = 0.01  # of the time
KINDS: tuple[Kind, ...] = ("device", "host", "disk")
PACKAGES = ("torch", "numpy", "h5py")
HEADER = (
    f"{'':34}{'samples/s':>10}{'x limit':>9}{'waiting':>9}{'copying':>9}"
    f"{'computing':>11}{'augment':>9}{'peak GB':>9}"
)


@dataclass(frozen=True)
class Run:
    """What every row is measured with.

    Attributes:
        train: does one training step and tells the milliseconds of its augmentation.
        steps: of a row.
    """

    store: CaseStore
    device: torch.device
    train: Callable[[Batch], float]
    patch_zyx: Triple
    steps: int

    def plan(self, augmentation: AugmentationParams | None = AUGMENTATION) -> Plan:
        """A plan whose epochs have as many batches as a row has steps, or a few more."""
        cases = len(self.store.case_ids)
        batches = max(self.steps, HELD)
        return Plan.of_store(
            self.store,
            patch_zyx=self.patch_zyx,
            patches_per_case=-(-batches * BATCH // cases),
            augmentation=augmentation,
            seed=1,
        )

    def open(self, kind: Kind, plan: Plan) -> tuple[Source, Loader]:
        """A residency and our loader that reads from it."""
        budget = POOL_BYTES if kind == "disk" else decoded_bytes(plan.shapes_zyx)
        chosen = Residency(kind, budget, "measured")
        source = open_source(self.store, plan, chosen, device=self.device)
        return source, Loader(source, plan, batch_size=BATCH, device=self.device)


@dataclass(frozen=True)
class Figures:
    """What a row says; shares are of the row's time, ``augment_ms`` is of a batch."""

    samples_per_s: float
    waiting: float
    copying: float
    augment_ms: float
    peak_bytes: int


@click.command()
@click.option("--device", default="cuda", show_default=True)
@click.option("--cases", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--shape-zyx", nargs=3, type=int, default=(200, 512, 512), show_default=True)
@click.option("--patch-zyx", nargs=3, type=int, default=(96, 128, 128), show_default=True)
@click.option("--channels", default=32, show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=300, show_default=True)
def main(
    device: str, cases: int, shape_zyx: Triple, patch_zyx: Triple, channels: int, steps: int
) -> None:
    """Train for some steps from each residency and print one table."""
    lines = [*machine(), versions(PACKAGES)]
    target = torch.device(device)
    with tempfile.TemporaryDirectory() as folder:
        progress(f"writing {cases} CTs")
        root = write_store(Path(folder) / "cases", ellipsoids(cases, triple(shape_zyx)), "hdf5")
        store = CaseStore(root)
        run = Run(store, target, trainer(channels, target), triple(patch_zyx), steps)
        print(*lines, *setting(run, channels), "", HEADER, sep="\n", flush=True)
        measure(run)
        store.close()


def setting(run: Run, channels: int) -> list[str]:
    """What all rows are about."""
    is_cuda = run.device.type == "cuda"
    name = torch.cuda.get_device_name(run.device) if is_cuda else "the processor"
    shapes = run.plan().shapes_zyx
    return [
        f"{name}, {'bf16' if is_cuda else 'fp32'}, UNet3d(1, 2, {channels}),"
        f" patch {'·'.join(map(str, run.patch_zyx))}, batch {BATCH}, {run.steps} steps",
        f"{len(shapes)} CTs, {decoded_bytes(shapes) / 1e9:.2f} GB decoded, HDF5;"
        f" on disk {POOL_BYTES >> 20} MB for decoded chunks",
    ]


def measure(run: Run) -> None:
    """Print the rows; the limit comes first and last, so that a drift of the machine shows."""
    batches = held(run, HELD, AUGMENTATION)
    limit = without_loading(run, batches)
    print(row("limit: held batches, augmented", limit, limit), flush=True)
    print(row("one held batch, not augmented", without_loading(run, held(run, 1, None)), limit))
    bars = []
    for kind in KINDS:
        figures = with_loading(run, kind)
        print(row(kind, figures, limit), flush=True)
        verdict = "met" if figures.waiting <= MOST_WAITING else "MISSED"
        bars.append(f"{kind}: waiting, bar <= {MOST_WAITING:.0%} of the time: {verdict}")
    print(row("limit, once more", without_loading(run, batches), limit))
    print("", *bars, sep="\n")


def held(run: Run, count: int, augmentation: AugmentationParams | None) -> list[Batch]:
    """The first batches of an epoch, copied, so that they stay."""
    _, loader = run.open("disk", run.plan(augmentation))
    return [
        Batch(batch.samples, [v.clone() for v in batch.volumes], [m.clone() for m in batch.masks])
        for batch in islice(loader.epoch(0), count)
    ]


def without_loading(run: Run, batches: Sequence[Batch]) -> Figures:
    """Steps on batches that are there already."""
    forget_peak(run.device)
    train_on(run, islice(cycle(batches), WARM_UP))
    began = time.perf_counter()
    augment_ms = train_on(run, islice(cycle(batches), run.steps))
    seconds = time.perf_counter() - began
    return Figures(run.steps * BATCH / seconds, 0.0, 0.0, augment_ms, peak(run.device))


def with_loading(run: Run, kind: Kind) -> Figures:
    """An epoch of our loader at a residency, when every case has arrived there."""
    forget_peak(run.device)
    source, loader = run.open(kind, run.plan())
    train_on(run, warm_up(source, loader, len(run.store.case_ids) + WARM_UP))
    augment_ms = train_on(run, loader.epoch(0))
    names = ("samples_per_s", "waiting", "copying")
    said = [loader.meter.row()[f"loader/{name}"] for name in names]
    return Figures(*said, augment_ms, peak(run.device))


def warm_up(source: Source, loader: Loader, count: int) -> Iterator[Batch]:
    """Batches until all cases have arrived, and some more, of epochs that are not measured."""
    batches = (batch for epoch in itertools.count(1) for batch in loader.epoch(epoch))
    while isinstance(source, LazyCases) and source.missing:
        yield next(batches)
    yield from islice(batches, count)


def train_on(run: Run, batches: Iterable[Batch]) -> float:
    """Train on batches; mean milliseconds of augmenting one."""
    return statistics.fmean([run.train(batch) for batch in batches])


def forget_peak(device: torch.device) -> None:
    """Give back what an earlier row held, and let the peak start anew."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> int:
    """The most memory that tensors took on the device, bytes; 0 on the processor."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def row(name: str, figures: Figures, limit: Figures) -> str:
    """A line of the table."""
    ratio = figures.samples_per_s / limit.samples_per_s
    size = f"{figures.peak_bytes / 1e9:9.2f}" if figures.peak_bytes else f"{'-':>9}"
    return (
        f"  {name:32}{figures.samples_per_s:10.1f}{ratio:9.2f}{figures.waiting:9.1%}"
        f"{figures.copying:9.1%}{1 - figures.waiting:11.1%}{figures.augment_ms:6.1f} ms{size}"
    )


if __name__ == "__main__":
    main()
