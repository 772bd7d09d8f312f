"""A process that makes one training step whenever it is told to, for benchmarks/step.py.

    python -m benchmarks.step_worker ours --device cpu --channels 24 --shape-zyx 50 96 96

It says ``> ready``, then reads words from its standard input: ``step`` is answered with seconds,
``end`` with its peak memory, the rate of a large matrix product, and how it computes.
"""

import resource
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

import click
import torch
from torch.nn import functional as F

from benchmarks.step_size import BATCH, Size
from cache.grid import Box, triple
from stages.reuse import ALL, keep_freed_memory
from stages.train.build import Work, build_trainer
from stages.train.checkpoints.checkpoint import Checkpoint
from stages.train.device import chosen_precision, settings
from stages.train.params import TrainParams
from stages.train.ranks import Ranks
from stages.train.sample import Batch, Sample
from stages.train.step import Group, News, train_batch
from stages.train.unet import UNet3d

WARM_UP = 2
MATRIX = {"cpu": 2048, "cuda": 8192}  # side of the product that gives the rate to compare with
Step = Callable[[], None]


@click.command()
@click.argument("name", type=click.Choice(["notebook", "ours"]))
@click.option("--device", required=True)
@click.option("--channels", type=int, required=True)
@click.option("--shape-zyx", type=(int, int, int), required=True)
def main(name: str, device: str, channels: int, shape_zyx: tuple[int, int, int]) -> None:
    """Be a worker."""
    work(name, Size(channels, shape_zyx), torch.device(device))


def work(name: str, size: Size, device: torch.device) -> None:
    """Be a worker."""
    params = make_params(size)
    if name == "ours" and device.type == "cpu":
        keep_freed_memory(most_bytes=ALL, one_arena=False)
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
    start = Checkpoint("", 0, {}, params.spec, train={}, preprocess={}, data_digest="")
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
