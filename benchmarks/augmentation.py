"""Milliseconds of augmentation per sample: ours, its kinds one by one, and peers', in one run.

    PYTHONPATH=. python -m benchmarks.augmentation --samples 100
    PYTHONPATH=. python -m benchmarks.augmentation --device cuda

The kinds, probabilities and ranges are those of nnU-Net's default pipeline, as far as a peer has
them. All take turns, sample by sample, so that a machine that slows down slows all. Reading is not
counted, nor is drawing, which our loader does elsewhere (a quarter of a millisecond). Where other
programs run meanwhile, wall times say little: compare processor time, with --threads 1.
"""

import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import machine, progress, versions
from benchmarks.peers import batchgenerators, kornia_augment, monai_augment
from cache.grid import Box, Triple
from stages.train.augment.apply import network_input
from stages.train.augment.draw import KINDS, draw
from stages.train.augment.intensity import change_intensities
from stages.train.augment.params import AugmentationParams
from stages.train.intensity import to_network_input
from stages.train.sample import Batch, Sample

Work = Callable[[], object]
SPACING_ZYX_MM = (1.5, 1.5, 1.5)
HU_WINDOW = (-160.0, 240.0)
WARM_UP = 20  # samples
LEAST_FASTER = 3.0  # x, than nnU-Net's pipeline on the processor
NNUNET = {
    "flip": {"probability_zyx": (0.5, 0.5, 0.5)},
    "rotation": {"probability": 0.2, "degrees": 30},
    # nnU-Net's 0.7 to 1.4 is by how much more is shown, ours by how much larger it is shown
    "scaling": {"probability": 0.2, "factor": (1 / 1.4, 1 / 0.7)},
    "noise": {"probability": 0.1, "sd": (0, 0.1)},
    "blur": {"probability": 0.1, "sigma_voxels": (0.5, 1)},
    "brightness": {"probability": 0.15, "factor": (0.75, 1.25)},
    "contrast": {"probability": 0.15, "factor": (0.75, 1.25)},
    "low_resolution": {"probability": 0.125, "factor": (0.5, 1)},
    "gamma": {"probability": 0.3, "probability_inverted": 0.1, "exponent": (0.7, 1.5)},
}
NOT_NNUNETS = {
    "shift": {"probability": 1.0, "mm": 20},
    "elastic": {"probability": 1.0, "spacing_mm": 40, "sd_mm": 4},
}
OURS, PLAIN, BGV2 = "ours, all kinds", "plain torch", "batchgeneratorsv2 (nnU-Net)"
PEERS = {
    BGV2: batchgenerators,
    "MONAI, dictionary": monai_augment,
    "kornia, spatial": kornia_augment,
}


@dataclass
class Variant:
    """One way to augment: what it reads and does for sample ``i``, and how long each took."""

    prepare: Callable[[int], tuple[Work, int]]  # the timed work, and the voxels it reads
    milliseconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)  # milliseconds too, of all threads
    voxels: list[int] = field(default_factory=list)


@click.command()
@click.option("--patch-zyx", nargs=3, type=int, default=(96, 128, 128), show_default=True)
@click.option("--samples", default=100, show_default=True, help="Of each variant.")
@click.option("--threads", default=2, show_default=True, help="Of torch.")
@click.option("--device", default="cpu", show_default=True)
def main(patch_zyx: Triple, samples: int, threads: int, device: str) -> None:
    """Time augmentation per sample."""
    warnings.filterwarnings("ignore")  # the peers'
    torch.set_num_threads(threads)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    lines = machine()
    variants, skipped = dict(ours(patch_zyx, device)), []
    for name, module in PEERS.items():
        try:
            variants[name] = peer(module, patch_zyx, device)
        except (ImportError, AttributeError) as error:
            skipped.append(f"{name:30} skipped: {error}")
    if not device.startswith("cpu") and variants.pop(BGV2, None):
        skipped.append(f"{BGV2:30} skipped: works on the processor alone")
    progress(f"{WARM_UP + samples} samples of {len(variants)} variants")
    for index in range(-WARM_UP, samples):
        for variant in variants.values():
            measure(variant, index, device)
    voxels = int(np.prod(patch_zyx))
    print(*lines, versions(["torch", "numpy", "batchgeneratorsv2", "monai", "kornia"]), sep="\n")
    print(f"patch {'·'.join(map(str, patch_zyx))}, {device}, {threads} threads,"
          f" {samples} samples each")  # fmt: skip
    heads = ("mean", "median", "slowest", "x ours", "processor", "x ours", "read")
    print(f"\n{'ms a sample':30}" + "".join(f"{head:>10}" for head in heads))
    for name, variant in variants.items():
        print(row(name, variant, variants[OURS], voxels))
    print(*skipped, sep="\n")
    if BGV2 in variants:
        faster = mean(variants[BGV2]) / mean(variants[OURS])
        verdict = "met" if faster >= LEAST_FASTER else "MISSED"
        print(f"{BGV2} takes {faster:.1f} x ours, bar >= {LEAST_FASTER:g} x: {verdict}")


def ours(patch_zyx: Triple, device: str) -> Iterator[tuple[str, Variant]]:
    """Ours with all of nnU-Net's kinds, with none, with each alone in every sample; plain torch."""
    off = dict.fromkeys(KINDS)
    everything = AugmentationParams(**{**off, **NNUNET})
    yield OURS, drawn_variant(everything, patch_zyx, device, network_input)
    yield PLAIN, drawn_variant(everything, patch_zyx, device, plain_torch)
    yield "  none (window alone)", drawn_variant(None, patch_zyx, device, network_input)
    for kind, section in {**NNUNET, **NOT_NNUNETS}.items():
        always = {key: (1, 1, 1) if key == "probability_zyx" else 1.0 for key in section
                  if key.startswith("probability")}  # fmt: skip
        always |= {"probability_inverted": 0.0} if kind == "gamma" else {}
        alone = AugmentationParams(**{**off, kind: {**section, **always}})
        yield f"  {kind} alone, always", drawn_variant(alone, patch_zyx, device, network_input)


def drawn_variant(
    params: AugmentationParams | None,
    patch_zyx: Triple,
    device: str,
    augment: Callable[[Batch, tuple[float, float]], object],
) -> Variant:
    """A variant that augments what our plan would draw, from int16 HU as they are stored."""

    def prepare(index: int) -> tuple[Work, int]:
        generator = np.random.default_rng((index + WARM_UP, 1))
        drawn = draw(params, generator, SPACING_ZYX_MM) if params else None
        sample = Sample("case", Box.whole(patch_zyx), drawn)
        volume, mask = voxels(sample.source.box.shape_zyx, device)
        batch = Batch([sample], [volume], [mask])
        return lambda: augment(batch, HU_WINDOW), volume.numel()

    return Variant(prepare)


def peer(module: object, patch_zyx: Triple, device: str) -> Variant:
    """A peer's variant, from floats of its window, as its loader would hand them over."""
    read_zyx, augment = module.make(patch_zyx, device)

    def prepare(index: int) -> tuple[Work, int]:
        volume, mask = voxels(read_zyx, device)
        floats = to_network_input(volume, HU_WINDOW)[None]
        mask = mask[None].short() if module is batchgenerators else mask[None]
        return lambda: augment(floats, mask), floats.numel()

    return Variant(prepare)


def plain_torch(batch: Batch, hu_window: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """One sample by ``affine_grid`` and ``grid_sample``, whether or not anything moves."""
    sample, source = batch.samples[0], batch.volumes[0]
    size = (1, 1, *sample.box.shape_zyx)
    linear = sample.draw.warp.linear * size[2:] / np.array(source.shape)[:, None]
    theta = torch.tensor(np.column_stack([linear[::-1, ::-1], np.zeros(3)]), dtype=torch.float32)
    grid = F.affine_grid(theta[None].to(source.device), size, align_corners=False)
    volume = F.grid_sample(source.float()[None, None], grid, align_corners=False)
    mask = batch.masks[0].float()[None, None]
    mask = F.grid_sample(mask, grid, mode="nearest", align_corners=False).byte()
    windowed = to_network_input(volume, hu_window)
    change_intensities(windowed[0, 0], sample.draw)
    return windowed, mask[:, 0]


def voxels(shape_zyx: Triple, device: str) -> tuple[Tensor, Tensor]:
    """HU from -300 to 399, int16, and a mask whose middle is 1, uint8, both (D, H, W)."""
    numbers = torch.arange(int(np.prod(shape_zyx)), dtype=torch.int32, device=device)
    volume = (numbers * 7919 % 700 - 300).short().view(tuple(shape_zyx))
    mask = torch.zeros(tuple(shape_zyx), dtype=torch.uint8, device=device)
    mask[tuple(slice(side // 4, 3 * side // 4) for side in shape_zyx)] = 1
    return volume, mask


def measure(variant: Variant, index: int, device: str) -> None:
    """Time a sample of a variant; those of the warm-up are not kept."""
    work, read = variant.prepare(index)
    finish(device)
    start, processor = time.perf_counter(), time.process_time()
    work()
    finish(device)
    if index >= 0:
        variant.processor.append(1000 * (time.process_time() - processor))
        variant.milliseconds.append(1000 * (time.perf_counter() - start))
        variant.voxels.append(read)


def finish(device: str) -> None:
    """Wait until a GPU has done all it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def mean(variant: Variant) -> float:
    """Mean milliseconds of a sample."""
    return statistics.fmean(variant.milliseconds)


def row(name: str, variant: Variant, reference: Variant, patch_voxels: int) -> str:
    """A line of the table; what is read, in patches."""
    times = variant.milliseconds
    processor = statistics.fmean(variant.processor)
    values = (mean(variant), statistics.median(times), max(times))
    ratios = (mean(variant) / mean(reference), processor / statistics.fmean(reference.processor))
    read = statistics.fmean(variant.voxels) / patch_voxels
    return (f"{name:30}" + "".join(f"{value:10.1f}" for value in values)
            + f"{ratios[0]:10.2f}{processor:10.1f}{ratios[1]:10.2f}{read:10.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
