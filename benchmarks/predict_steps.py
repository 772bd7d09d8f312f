"""Ours in the benchmark of prediction: its model, and the command's steps with their seconds."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.memory import status_bytes
from benchmarks.sources import preset
from cache.grid import Triple, triple
from stages.evaluate.export import write_mask
from stages.evaluate.restore import Place, restore
from stages.evaluate.window import Probability, Windows
from stages.network import NetworkSpec
from stages.predict.model import load_ensemble
from stages.predict.one import Choices, network_planes
from stages.preprocess.inspect import ct_to_predict
from stages.preprocess.prepare import prepare_volume
from stages.train.checkpoints.checkpoint import Checkpoint, cpu_state, save_checkpoint
from stages.train.unet import UNet3d

STEPS = ("read", "prepare", "network", "restore", "write")
SPACING_MM = 1.5
Figures = dict[str, float]


def write_model(path: Path, channels: int, patch_zyx: Triple) -> Path:
    """A checkpoint that finds what is bright."""
    params = preset()
    train = {**params.train.model_dump(mode="json"), "n_channels": channels, "precision": "fp32"}
    train |= {"patch_zyx": list(patch_zyx), "upsampling": "trilinear"}
    spacing = {"grid": "spacing", "spacing_zyx_mm": [SPACING_MM] * 3, "crop": "body"}
    preprocess = {**params.preprocess.model_dump(mode="json"), **spacing}
    weights = cpu_state(finder_of_bright_things(channels))
    checkpoint = Checkpoint(
        run_key="benchmark",
        seed=0,
        split={"train": [], "validation": [], "test": []},
        spec=NetworkSpec.of_training(train),
        train=train,
        preprocess=preprocess,
        data_digest="",
        model=weights,
    )
    save_checkpoint(path, checkpoint)
    return path


def finder_of_bright_things(channels: int) -> UNet3d:
    """UNet3d in which one channel of the first level, its skip and the last level carry the CT.

    All other weights are small random numbers: they cost what trained ones cost, and change nothing
    that counts.
    """
    torch.manual_seed(0)
    network = UNet3d(1, 2, channels)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if not (name.endswith("weight") and value.ndim == 1):  # GroupNorm's scale stays 1
                value.mul_(1e-3)
        for double_conv in (network.conv, network.up4.conv):
            for layer in (0, 3):
                weight = double_conv.layers[layer].get_parameter("weight")
                weight[0].zero_()
                weight[0, 0, 1, 1, 1] = 1.0
        network.out.conv.weight.zero_()
        network.out.conv.weight[1, 0] = 4.0
        network.out.conv.bias.copy_(torch.tensor([4.0, 0.0]))
    return network


def predict_in_steps(model: Path, ct: Path, mask: Path) -> Figures:
    """What ``pipeline.predict`` does, with the seconds of each step and the peak memory."""
    ensemble, choices = load_ensemble([model], "cpu"), Choices()
    laps = [time.perf_counter()]
    source, hu, _ = ct_to_predict(ct)
    laps.append(time.perf_counter())
    cut = prepare_volume(source, hu, ensemble.preprocess)
    place = Place(cut.box, source.grid, source.orientation)
    volume = cut.volume
    del source, hu, cut
    laps.append(time.perf_counter())
    network_s: list[float] = []
    planes = timed(network_planes(volume, ensemble, choices), network_s)
    restored = restore(planes, len(volume), place)
    laps.append(time.perf_counter())
    write_mask(mask, restored.mask, place.source_grid)
    laps.append(time.perf_counter())
    read, prepare, both, write = np.diff(laps).tolist()
    network = sum(network_s)
    windows = Windows.over(triple(volume.shape), ensemble.window_zyx, choices.overlap).count
    seconds = dict(zip(STEPS, (read, prepare, network, both - network, write), strict=True))
    return {**seconds, "peak_bytes": status_bytes("VmHWM"), "windows": windows}


def timed(planes: Iterator[Probability], seconds: list[float]) -> Iterator[Probability]:
    """The planes, with the seconds that each took to come."""
    while True:
        start = time.perf_counter()
        plane = next(planes, None)
        seconds.append(time.perf_counter() - start)
        if plane is None:
            return
        yield plane
