"""Stores, parameters and a network so small that a training run takes seconds.

Every case is a body at -100 HU in which the liver is a brighter ball, each elsewhere.
"""

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from cache.case import CaseInfo, PreparedCase
from cache.formats import backends
from cache.grid import Box, Grid
from cache.manifest import Manifest, entry_of, write_manifest
from cache.writer import write_case
from stages.network import NetworkSpec
from stages.train.unet import UNet3d

REPO = Path(__file__).parent.parent
SHAPE_ZYX = (20, 24, 28)
SPACING_ZYX_MM = (5.0, 4.0, 3.0)
RADIUS = 6  # voxels, of the liver
PREPROCESS = {
    "format": "zarr",
    "liver_values": "any",
    "crop": "body",
    "slices": None,
    "margin_mm": 5.0,
    "grid": "spacing",
    "shape_zyx": None,
    "spacing_zyx_mm": list(SPACING_ZYX_MM),
}
TRAIN = {
    "n_channels": 8,
    "upsampling": "trilinear",
    "patch_zyx": [16, 16, 16],
    "batch_size": 2,
    "patches_per_case": 1,
    "foreground_share": 0.5,
    "hu_window": [-160, 240],
    "augmentation": None,
    "residency": "auto",
    "epochs": 2,
    "steps_per_epoch": None,
    "max_minutes": None,
    "early_stopping": None,
    "accumulate": 1,
    "optimizer": "adam",
    "momentum": 0.9,
    "weight_decay": 0.0,
    "lr": 0.003,
    "schedule": "cosine",
    "warmup_steps": 0,
    "clip_norm": None,
    "ema": None,
    "loss": "dice_ce",
    "precision": "fp32",
    "compile": "never",
    "deterministic": False,
    "validate_every": 1,
    "validation_share": 0.15,
    "test_share": 0.25,
    "folds": None,
    "fold": 0,
    "cross_validate": [],
    "save_minutes": 5.0,
    "keep_above_iou": None,
    "trackers": [],
}


def spec_of(**train):
    """The network that the tiny ``train`` section describes, some of its values changed."""
    return NetworkSpec.of_training({**TRAIN, **train})


def ball(shape_zyx, centre_zyx, radius):
    """A ball of ones in an array of zeros, bool; centre and radius in voxels."""
    offsets = np.ogrid[tuple(slice(0, side) for side in shape_zyx)]
    squares = [(o - c) ** 2 for o, c in zip(offsets, centre_zyx, strict=True)]
    return sum(squares) <= radius**2


def block(*, start=(2, 2, 2), stop=(8, 8, 8), shape=(10, 12, 14)):
    """A mask of one cuboid."""
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = 1
    return mask


def voxels(*places, shape=(10, 12, 14)):
    """A mask of single voxels."""
    mask = np.zeros(shape, np.uint8)
    for place in places:
        mask[place] = 1
    return mask


def ball_case(case_id, *, shape_zyx=SHAPE_ZYX, seed=0, patient_id=None):
    """A prepared case with its liver somewhere inside; the same seed gives the same case."""
    rng = np.random.default_rng((seed, 30))
    reach = [min(RADIUS, (side - 1) // 2) for side in shape_zyx]
    centre = [rng.integers(r, side - r) for r, side in zip(reach, shape_zyx, strict=True)]
    mask = ball(shape_zyx, centre, RADIUS)
    volume = np.where(mask, 150, -100) + rng.integers(-20, 21, shape_zyx)
    grid = Grid(tuple(shape_zyx), SPACING_ZYX_MM)
    info = CaseInfo(
        case_id=case_id,
        patient_id=patient_id or case_id,
        key=f"{seed:064x}",
        source_grid=grid,
        orientation="LPS",
        box=Box.whole(shape_zyx),
        prepared_grid=grid,
        liver_ml=float(mask.sum() * grid.voxel_ml),
        source_digests={"ct": "c" * 64, "label": "d" * 64},
        ct_digest=f"{seed:064x}",
        params=PREPROCESS,
        findings=[],
    )
    mask = mask.astype(np.uint8)
    voxels = np.argwhere(mask).astype(np.int32)
    return PreparedCase(info, volume.astype(np.int16), mask, mask, voxels)


def without_liver(case):
    """The same case as if nothing in it were liver."""
    return replace(
        case,
        mask=np.zeros_like(case.mask),
        source_mask=np.zeros_like(case.source_mask),
        foreground_zyx=case.foreground_zyx[:0],
    )


def write_store(root, cases, *, format="zarr"):  # noqa: A002 - the parameter's own name
    """Write prepared cases and their manifest."""
    entries = {}
    for case in cases:
        path = write_case(root, case, backends()[format])
        entries[case.info.case_id] = entry_of(case.info, root, path)
    write_manifest(root, Manifest(entries, {**PREPROCESS, "format": format}))
    return root


def write_balls(root, *, count=8, shapes_zyx=(SHAPE_ZYX,), format="zarr"):  # noqa: A002
    """Write a store of cases ``case-0``, ``case-1``, …, taking turns with the shapes."""
    cases = [
        ball_case(f"case-{index}", shape_zyx=shapes_zyx[index % len(shapes_zyx)], seed=index)
        for index in range(count)
    ]
    return write_store(root, cases, format=format)


def write_params(path, *, seed=2026, split_file=None, **train):
    """Write a parameter file with the tiny ``train`` section and some of its values changed."""
    yaml = YAML(typ="safe")
    document = yaml.load((REPO / "params.yaml").read_text(encoding="utf-8"))
    document["seed"] = seed
    document["data"]["split_file"] = None if split_file is None else str(split_file)
    document["train"] = {**TRAIN, **train}
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(document, file)
    return path


def brightness_network():
    """UNet3d with weights set by hand: liver is what is much brighter than the volume's mean.

    Only the first channel of the first level, its skip and the last level carry anything: each of
    their convolutions hands its middle voxel on. GroupNorm then has mean 0 and variance 1.
    """
    network = UNet3d(1, 2, 8)
    with torch.no_grad():
        for name, value in network.named_parameters():
            is_scale = name.endswith("weight") and value.ndim == 1  # GroupNorm's
            value.fill_(1.0 if is_scale else 0.0)
        for double_conv in (network.conv, network.up4.conv):
            for layer in (0, 3):
                double_conv.layers[layer].weight[0, 0, 1, 1, 1] = 1.0
        network.out.conv.weight[1, 0] = 1.0
        network.out.conv.bias[0] = 1.5
    return network


@contextmanager
def one_thread():
    """Let torch compute in one thread: of volumes so small, more only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def names(folder):
    """What lies in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


def python(*args, cwd, wait=True):
    """Run Python in a process of its own, our packages at hand, whatever the folder.

    With ``wait`` the ended process with its output, else the running one.
    """
    inherited = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join(part for part in (str(REPO), inherited) if part)
    command = [sys.executable, "-B", *map(str, args)]
    # one thread, as one_thread() gives this process: bits are compared between the two
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    if wait:
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@contextmanager
def small_disk(folder, *, kilobytes):
    """A disk of its own that is soon full, where the system lets us make one; else skip."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if (
        sys.platform != "linux"
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("only root on Linux can make a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def unlistable_below(folder):
    """Make folders below this one whose paths get too long: even root cannot list the last."""
    if sys.platform != "linux":
        pytest.skip("paths have other limits elsewhere")
    place = os.open(folder, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=place)
        place, above = os.open("d" * 250, os.O_RDONLY, dir_fd=place), place
        os.close(above)
    os.close(place)
