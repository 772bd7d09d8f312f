"""Seconds per training step of UNet3d in each memory layout and precision, in one run.

    python benchmarks/step.py --channels 24 --shape-zyx 50 96 96

Prints one line per variant, with its ratio to the naive one (contiguous, fp32); the fastest of
the rounds counts, and the variants take turns, so that a machine that slows down slows all.
"""

import time
from collections.abc import Callable

import click
import torch
from torch.nn import functional as F

from stages.train.unet import UNet3d

VARIANTS = {
    "contiguous fp32 (naive)": (torch.contiguous_format, False),
    "channels last fp32": (torch.channels_last_3d, False),
    "contiguous bf16": (torch.contiguous_format, True),
    "channels last bf16": (torch.channels_last_3d, True),
}


@click.command()
@click.option("--channels", default=24, show_default=True)
@click.option("--shape-zyx", nargs=3, type=int, default=(50, 96, 96), show_default=True)
@click.option("--batch", default=2, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def main(
    channels: int, shape_zyx: tuple[int, int, int], batch: int, rounds: int, device: str
) -> None:
    """Time a forward pass, a backward pass and an Adam update."""
    steps = {name: make_step(*variant, channels, (batch, 1, *shape_zyx), torch.device(device))
             for name, variant in VARIANTS.items()}  # fmt: skip
    seconds = {name: float("inf") for name in steps}
    for _ in range(rounds + 1):  # the slowest, first round never counts, as the fastest does
        for name, step in steps.items():
            seconds[name] = min(seconds[name], timed(step, device))
    naive = next(iter(seconds.values()))
    threads = torch.get_num_threads()
    print(f"UNet3d(1, 2, {channels}), {batch}·1·{'·'.join(map(str, shape_zyx))}, {device},"
          f" torch {torch.__version__}, {threads} threads")  # fmt: skip
    for name, value in seconds.items():
        print(f"  {name:26}{value:8.3f} s a step   {naive / value:5.2f} x")


def make_step(
    layout: torch.memory_format,
    is_bf16: bool,
    channels: int,
    shape: tuple[int, ...],
    device: torch.device,
) -> Callable[[], None]:
    """A function that does one training step on random numbers."""
    network = UNet3d(1, 2, channels).to(device=device, memory_format=layout)
    optimizer = torch.optim.Adam(network.parameters())
    volume = torch.randn(shape, device=device)
    mask = torch.randint(0, 2, (shape[0], *shape[2:]), device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
            logits = network(volume)
        F.cross_entropy(logits.float(), mask).backward()
        optimizer.step()

    return step


def timed(step: Callable[[], None], device: str) -> float:
    """Wall seconds of one step."""
    start = time.perf_counter()
    step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
