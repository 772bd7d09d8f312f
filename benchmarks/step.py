"""Seconds and memory of a training step: the notebook's loop, and ours, of the same network.

    python -m benchmarks.step
    python -m benchmarks.step --device cuda --rounds 20

One step is what a batch costs from its int16 and uint8 voxels to moved weights, with loss,
accuracy and IoU known as numbers. The notebook's loop (contiguous, fp32, eager, cross-entropy,
Adam) and ours (``stages.train.step``, the same loss and optimizer, precision and layout as
``precision: auto`` and ``compile: auto`` choose them on that device) each run in a process of their
own, since ours changes how its process keeps memory; the two take turns, the first steps do not
count, and the fastest of the rounds does, so that a machine that slows down slows both. The last
column is what the network's multiplications of a step take of the rate that a large matrix product
reaches on the same device in the same precision.

It needs torch, numpy, pydantic, click, tqdm and psutil, and none of SimpleITK, MONAI or
TensorStore.
"""

import itertools
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import machine, progress, versions
from cache.grid import Box, Triple, triple
from stages.train.build import Work, build_trainer
from stages.train.checkpoints.checkpoint import Checkpoint
from stages.train.device import chosen_precision, settings
from stages.train.params import TrainParams
from stages.train.ranks import Ranks
from stages.train.reuse import keep_freed_memory
from stages.train.sample import Batch, Sample
from stages.train.step import Group, News, train_batch
from stages.train.unet import UNet3d

REPO = Path(__file__).parent.parent
CHANNELS = (24, 32)
SHAPES_ZYX: tuple[Triple, ...] = ((50, 96, 96), (96, 128, 128))
BATCH = 2
WARM_UP = 2
MATRIX = {"cpu": 2048, "cuda": 8192}  # side of the product that gives the rate to compare with
VARIANTS = ("notebook", "ours")
BARS = {"cpu": 1.6, "cuda": 2.0}
Step = Callable[[], None]


@dataclass(frozen=True)
class Size:
    """What is trained: first-level channels, and voxels of a patch."""

    channels: int
    shape_zyx: Triple

    def __str__(self) -> str:
        return f"{self.channels} channels, {BATCH}·1·{'·'.join(map(str, self.shape_zyx))}"


@click.command()
@click.option("--device", default="cpu", show_default=True)
@click.option("--rounds", default=4, show_default=True)
@click.option("--channels", type=int, multiple=True, default=CHANNELS, show_default=True)
@click.option("--shape-zyx", type=(int, int, int), multiple=True, default=SHAPES_ZYX)
@click.option("--worker", type=click.Choice(VARIANTS), hidden=True)
def main(
    device: str,
    rounds: int,
    channels: tuple[int, ...],
    shape_zyx: tuple[Triple, ...],
    worker: str | None,
) -> None:
    """Print the table; ``--worker`` is for its own use."""
    if worker:
        work(worker, Size(channels[0], triple(shape_zyx[0])), torch.device(device))
        return
    print("python -m benchmarks.step", f"--device {device} --rounds {rounds}")
    print("\n".join([*machine(), versions(["torch", "numpy"])]))
    print(f"\n{'':44}{'s a step':>10}{'x notebook':>12}{'peak GB':>9}{'TFLOP/s':>9}{'share':>7}")
    for n_channels, shape in itertools.product(channels, shape_zyx):
        table(Size(n_channels, triple(shape)), device, rounds)


def table(size: Size, device: str, rounds: int) -> None:
    """Measure one size and print its two lines."""
    workers = {name: Worker(name, size, device) for name in VARIANTS}
    for _ in range(rounds):
        for name, worker in workers.items():
            seconds = worker.step()
            progress(f"{size}, {name}: {seconds:.3f} s")
    flops = step_flops(size)
    print(f"{size}, {device}")
    seconds = {name: min(worker.seconds) for name, worker in workers.items()}
    for name, worker in workers.items():
        memory, rate, words = worker.end()
        ratio = seconds["notebook"] / seconds[name]
        reached = flops / seconds[name]
        print(
            f"  {f'{name} ({words})':42}{seconds[name]:10.3f}{ratio:12.2f}{memory / 1e9:9.2f}"
            f"{reached / 1e12:9.3f}{reached / rate:7.0%}"
        )
    bar = BARS["cuda" if device.startswith("cuda") else "cpu"]
    ratio = seconds["notebook"] / seconds["ours"]
    print(f"  bar >= {bar:g} x: {'met' if ratio >= bar else 'MISSED'}", flush=True)


class Worker:
    """A process that does one step whenever it is told to."""

    def __init__(self, name: str, size: Size, device: str) -> None:
        shape = map(str, size.shape_zyx)
        words = ["--worker", name, "--device", device, "--channels", str(size.channels)]
        command = [sys.executable, "-m", "benchmarks.step", *words, "--shape-zyx", *shape]
        self.seconds: list[float] = []
        self._process = subprocess.Popen(
            command, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._ask("")  # ready, warmed up

    def step(self) -> float:
        """Wall seconds of one step."""
        self.seconds.append(float(self._ask("step")))
        return self.seconds[-1]

    def end(self) -> tuple[int, float, str]:
        """Peak memory, bytes; rate of a matrix product, 1/s; how it computed, in words."""
        memory, rate, words = self._ask("end").split(maxsplit=2)
        self._process.wait()
        return int(memory), float(rate), words

    def _ask(self, word: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if word:
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
        while not (line := self._process.stdout.readline()).startswith("> "):
            if not line:
                raise SystemExit(f"a worker ended with code {self._process.wait()}")
        return line.removeprefix("> ").strip()


def work(name: str, size: Size, device: torch.device) -> None:
    """Be a worker."""
    params = make_params(size)
    if name == "ours" and device.type == "cpu":
        keep_freed_memory()
    batch = make_batch(size, device)
    with settings(params, device) if name == "ours" else nullcontext():
        step, words = ours(batch, params, device) if name == "ours" else notebook(batch, size)
        for _ in range(WARM_UP):
            timed(step, device)
        answer("ready")
        for line in sys.stdin:
            if line.strip() == "end":
                break
            answer(f"{timed(step, device):.6f}")
        memory = peak_bytes(device)
        answer(f"{memory} {matrix_rate(device, words)} {words}")


def make_params(size: Size) -> TrainParams:
    """The ``train`` section, as the notebook has it but for precision and compiling."""
    return TrainParams.model_validate(
        {
            "n_channels": size.channels,
            "upsampling": "trilinear",
            "patch_zyx": size.shape_zyx,
            "batch_size": BATCH,
            "patches_per_case": 1,
            "foreground_share": 0.5,
            "hu_window": [-160, 240],
            "augmentation": None,
            "residency": "auto",
            "epochs": 1000,
            "steps_per_epoch": 250,
            "max_minutes": None,
            "early_stopping": None,
            "accumulate": 1,
            "optimizer": "adam",
            "momentum": 0,
            "weight_decay": 0,
            "lr": 1e-4,
            "schedule": "constant",
            "warmup_steps": 0,
            "clip_norm": None,
            "ema": None,
            "loss": "cross_entropy",
            "precision": "auto",
            "compile": "auto",
            "deterministic": False,
            "validate_every": 1,
            "validation_share": 0.1,
            "test_share": 0.1,
            "folds": None,
            "fold": 0,
            "cross_validate": [],
            "save_minutes": 5,
            "keep_above_iou": None,
            "trackers": [],
        }
    )


def make_batch(size: Size, device: torch.device) -> Batch:
    """Random voxels as the loader gives them, a ball of liver among them."""
    random = torch.Generator().manual_seed(0)
    shape = (BATCH, *size.shape_zyx)
    volumes = torch.randint(-200, 200, shape, dtype=torch.int16, generator=random)
    masks = (volumes > 100).to(torch.uint8)
    samples = [Sample(f"case-{index}", Box.whole(size.shape_zyx)) for index in range(BATCH)]
    return Batch(samples, list(volumes.to(device)), list(masks.to(device)))


def ours(batch: Batch, params: TrainParams, device: torch.device) -> tuple[Step, str]:
    """A step of ours, and how it computes."""
    start = Checkpoint(run_key="", seed=0, split={}, train={}, preprocess={}, data_digest="")
    work = Work(250_000, triple(params.patch_zyx or ()), device, Ranks())
    trainer = build_trainer(params, start, work)
    trainer.network.train()
    group = Group(size=1, is_last=True, step=0)

    def step() -> None:
        train_batch(trainer, batch, group, News())

    return step, f"{chosen_precision(params, device)}, {trainer.engine}"


def notebook(batch: Batch, size: Size) -> tuple[Step, str]:
    """A step of the notebook's loop: its loss, its optimizer, its figures."""
    torch.manual_seed(0)
    device = batch.volumes[0].device
    network = UNet3d(1, 2, size.channels).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    volume = torch.stack(list(batch.volumes)).float()[:, None].cpu()
    mask = torch.stack(list(batch.masks)).long().cpu()

    def step() -> None:
        inputs, truth = volume.to(device), mask.to(device)
        logits = network(inputs)
        loss = F.cross_entropy(logits, truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            liver = logits.argmax(dim=1)
            (liver == truth).sum().item()
            loss.item()
            intersection = torch.logical_and(truth, liver).sum()
            (intersection / torch.logical_or(truth, liver).sum()).item()

    return step, "fp32, contiguous, eager"


def timed(step: Step, device: torch.device) -> float:
    """Wall seconds of one step."""
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def step_flops(size: Size) -> int:
    """Multiplications and additions of a forward and a backward pass, counted by torch."""
    with torch.device("meta"):
        network = UNet3d(1, 2, size.channels)
        volume = torch.empty(BATCH, 1, *size.shape_zyx)
    with FlopCounterMode(display=False) as counter:
        network(volume).sum().backward()
    return int(counter.get_total_flops())


def matrix_rate(device: torch.device, words: str) -> float:
    """Multiplications and additions a second of a large matrix product, in the step's precision."""
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    kind = kinds.get(words.partition(",")[0], torch.float32)
    side = MATRIX[device.type]
    one, other = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    seconds = min(timed(lambda: torch.mm(one, other), device) for _ in range(10))
    return 2.0 * side**3 / seconds


def peak_bytes(device: torch.device) -> int:
    """The most memory so far: allocated on the GPU, or resident of the whole process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def answer(text: str) -> None:
    """Tell the process that asked."""
    print("> " + text, flush=True)


if __name__ == "__main__":
    main()
