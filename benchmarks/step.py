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
import subprocess
import sys
from pathlib import Path

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import machine, progress, versions
from benchmarks.step_size import BATCH, Size
from cache.grid import Triple, triple
from stages.train.unet import UNet3d

REPO = Path(__file__).parent.parent
CHANNELS = (24, 32)
SHAPES_ZYX: tuple[Triple, ...] = ((50, 96, 96), (96, 128, 128))
VARIANTS = ("notebook", "ours")
BARS = {"cpu": 1.6, "cuda": 2.0}


@click.command()
@click.option("--device", default="cpu", show_default=True)
@click.option("--rounds", default=4, show_default=True)
@click.option("--channels", type=int, multiple=True, default=CHANNELS, show_default=True)
@click.option("--shape-zyx", type=(int, int, int), multiple=True, default=SHAPES_ZYX)
def main(
    device: str,
    rounds: int,
    channels: tuple[int, ...],
    shape_zyx: tuple[Triple, ...],
) -> None:
    """Print the table."""
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
        words = [name, "--device", device, "--channels", str(size.channels), "--shape-zyx", *shape]
        command = [sys.executable, "-m", "benchmarks.step_worker", *words]
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


def step_flops(size: Size) -> int:
    """Multiplications and additions of a forward and a backward pass, counted by torch."""
    with torch.device("meta"):
        network = UNet3d(1, 2, size.channels)
        volume = torch.empty(BATCH, 1, *size.shape_zyx)
    with FlopCounterMode(display=False) as counter:
        network(volume).sum().backward()
    return int(counter.get_total_flops())


if __name__ == "__main__":
    main()
