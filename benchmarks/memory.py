"""How much memory a training step of UNet3d takes, in MB and per patch voxel and channel.

    python -m benchmarks.memory

Prints a line per number of channels, upsampling, loss and patch; stages/train/memory.py has its
two constants from this table. Each line is measured in a process of its own: the highest resident
size during two steps on the CPU (the second has Adam's state), less the size just before, when
the network is already there. Only Linux tells that. All lines take some minutes and 2.5 GB; one
alone:

    python -m benchmarks.memory --row 8 trilinear dice_ce 48 64 64
"""

import itertools
import subprocess
import sys
from pathlib import Path

import click
import torch

from cache.grid import Box, triple
from pipeline.params import read_params
from stages.reuse import ALL, keep_freed_memory
from stages.train.build import Work, build_trainer
from stages.train.checkpoints.checkpoint import Checkpoint
from stages.train.params import TrainParams
from stages.train.ranks import Ranks
from stages.train.sample import Batch, Sample
from stages.train.step import Group, News, Trainer, train_batch

REPO = Path(__file__).parent.parent
BATCH_SIZE = 2
ROWS = itertools.product(
    (8, 24),
    ("trilinear", "transposed"),
    ("cross_entropy", "dice_ce"),
    ((48, 64, 64), (64, 96, 96)),
)
HEADER = f"{'channels':>8} {'upsampling':>11} {'loss':>14} {'patch':>9} {'MB':>6} {'bytes':>6}"
Choices = tuple[int, str, str, int, int, int]


@click.command()
@click.option("--row", type=(int, str, str, int, int, int), help="Measure one line alone.")
def main(row: Choices | None) -> None:
    """Print the table, or one line of it."""
    if row is not None:
        print(line(row))
        return
    print(HEADER, flush=True)
    for n_channels, upsampling, loss, patch_zyx in ROWS:
        words = map(str, (n_channels, upsampling, loss, *patch_zyx))
        # a fresh process: what the allocator keeps of one line would hide the next
        command = [sys.executable, "-m", "benchmarks.memory", "--row", *words]
        subprocess.run(command, cwd=REPO, check=True)


def line(row: Choices) -> str:
    """One line of the table."""
    n_channels, upsampling, loss, depth, height, width = row
    needed = step_bytes(row)
    each = needed / (BATCH_SIZE * depth * height * width * n_channels)
    patch = f"{depth}·{height}·{width}"
    return f"{n_channels:8} {upsampling:>11} {loss:>14} {patch:>9} {needed / 1e6:6.0f} {each:6.1f}"


def step_bytes(row: Choices) -> int:
    """Peak of two training steps over what the process held before them, bytes."""
    n_channels, upsampling, loss, *patch_zyx = row
    keep_freed_memory(most_bytes=ALL, one_arena=False)
    changes = {
        "n_channels": n_channels,
        "upsampling": upsampling,
        "loss": loss,
        "patch_zyx": patch_zyx,
    }
    params = (
        read_params(REPO / "params.yaml").train.model_dump()
        | {"precision": "fp32", "augmentation": None}
        | changes
    )
    trainer = make_trainer(TrainParams.model_validate(params))
    volume = torch.randint(-1000, 1000, (BATCH_SIZE, *patch_zyx), dtype=torch.int16)
    samples = [Sample(f"case-{index}", Box.whole(patch_zyx)) for index in range(BATCH_SIZE)]
    batch = Batch(samples, list(volume), list((volume > 0).to(torch.uint8)))
    forget_peak()
    before = status_bytes("VmRSS")
    for step in range(2):
        train_batch(trainer, batch, Group(size=1, is_last=True, step=step), News())
    return status_bytes("VmHWM") - before


def make_trainer(params: TrainParams) -> Trainer:
    """A network, its optimizer and its loss on the CPU, as training has them."""
    start = Checkpoint("", 0, {}, params.spec, train={}, preprocess={}, data_digest="")
    work = Work(1000, triple(params.patch_zyx or ()), torch.device("cpu"), Ranks())
    return build_trainer(params, start, work)


def forget_peak() -> None:
    """Let the highest resident size start anew from the present one."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def status_bytes(name: str) -> int:
    """A size that Linux tells of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    kilobytes = dict(line.split(":", 1) for line in lines)[name].split()[0]
    return int(kilobytes) * 1024


if __name__ == "__main__":
    main()
