"""MONAI's way from raw CTs to a liver network: CacheDataset, its UNet, DiceCELoss, Adam.

    python benchmarks/peers/monai_train.py train TASK.json
    python benchmarks/peers/monai_train.py predict TASK.json

Needs MONAI and nibabel alone, so that it runs in an environment without liver3d. TASK.json says
which CTs, for how long and with what settings (``Task``). ``train`` leaves the weights at every
wanted moment in ``<seconds>.pt``; ``predict`` turns each into ``<seconds>.npz``, the masks of the
validation CTs on their own grid, (Z, Y, X).

The transforms are those of MONAI's spleen tutorial, fitted to the task: the same spacing, HU
window, patch, batch and share of patches around liver as ours, and like ours no flips. What is
done once is cached as plain tensors, liver voxels included, so that a step pays for cropping alone.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import (
    CastToTyped,
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    EnsureTyped,
    FgBgToIndicesd,
    Invertd,
    Lambdad,
    LoadImaged,
    Orientationd,
    RandCropByPosNegLabeld,
    ScaleIntensityRanged,
    Spacingd,
    SpatialPadd,
)
from torch import Tensor
from torch.utils.data import RandomSampler

BOTH = ["image", "label"]
THINNEST_BODY_HU = -300  # stage one's own threshold
MARGIN = 2  # voxels around the body
MOST_STEPS = 1_000_000
OVERLAP = 0.5  # of the sliding window's patches, as in evaluation


@dataclass(frozen=True)
class Task:
    """What to train on and how.

    Attributes:
        train: paths of "image" and "label" for training.
        validation: the same with a "case_id" for prediction.
        out: folder for weights and masks.
        began: when the clock started, seconds since 1970.
        moments_s: when to leave the weights, seconds on that clock; the last one ends the run.
        threads: of torch.
        seed: of weights and patches.
        spacing_xyz_mm: of the prepared CTs.
        hu_window: clipped to it and scaled to -1 to 1.
        patch_xyz: shape of a patch.
        batch_size: patches per step.
        foreground_share: of the patches, centred on a liver voxel.
        channels: of the network's levels.
        residual_units: of each level.
        norm: of the network's layers.
        lr: learning rate.
        schedule: constant, or cosine to the end of the run.
        channels_last: whether weights lie in that order.
    """

    train: list[dict[str, str]]
    validation: list[dict[str, str]]
    out: Path
    began: float
    moments_s: list[float]
    threads: int
    seed: int
    spacing_xyz_mm: list[float]
    hu_window: list[float]
    patch_xyz: list[int]
    batch_size: int
    foreground_share: float
    channels: list[int]
    residual_units: int
    norm: str
    lr: float
    schedule: str
    channels_last: bool

    def seconds(self) -> float:
        """What the clock says."""
        return time.time() - self.began


def is_body(volume: Any) -> Any:
    """Where something denser than air is."""
    return volume > THINNEST_BODY_HU


def is_liver(label: Any) -> Any:
    """Every value above 0, lesions included."""
    return label > 0


def prepared(task: Task, keys: list[str]) -> list[Any]:
    """Read, crop to the body, turn to LPS, resample, clip and scale."""
    modes = {"image": "bilinear", "label": "nearest"}
    low, high = task.hu_window
    return [
        LoadImaged(keys, dtype=torch.float32),
        EnsureChannelFirstd(keys),
        *([Lambdad("label", is_liver)] if "label" in keys else []),
        Orientationd(keys, axcodes="LPS", labels=None),
        Spacingd(
            keys,
            pixdim=task.spacing_xyz_mm,
            mode=[modes[key] for key in keys],
            dtype=torch.float32,
        ),
        CropForegroundd(
            keys, source_key="image", select_fn=is_body, margin=MARGIN, allow_smaller=True
        ),
        ScaleIntensityRanged("image", low, high, -1.0, 1.0, clip=True),
    ]


def batches(task: Task) -> Iterator[Any]:
    """Patches for ever."""
    transform = Compose(
        [
            *prepared(task, BOTH),
            SpatialPadd("image", task.patch_xyz, value=-1.0),
            SpatialPadd("label", task.patch_xyz),
            EnsureTyped(BOTH, track_meta=False),
            CastToTyped("label", dtype=torch.uint8),
            FgBgToIndicesd("label"),
            RandCropByPosNegLabeld(
                BOTH,
                "label",
                task.patch_xyz,
                pos=task.foreground_share,
                neg=1 - task.foreground_share,
                num_samples=1,
                fg_indices_key="label_fg_indices",
                bg_indices_key="label_bg_indices",
            ),
        ]
    )
    transform.set_random_state(task.seed)
    # shallow copies suffice: cropping leaves what is cached as it is
    dataset = CacheDataset(task.train, transform, copy_cache=False, progress=False)
    # one epoch without an end: each case comes up equally often, and no batch is left half full
    order = RandomSampler(dataset, num_samples=MOST_STEPS * task.batch_size)
    yield from DataLoader(dataset, batch_size=task.batch_size, sampler=order, collate_fn=stacked)


def stacked(samples: list[Any]) -> tuple[Tensor, Tensor]:
    """A batch of patches; the lists of voxels, of uneven length, stay behind."""
    patches = [patch for sample in samples for patch in sample]
    image = torch.stack([patch["image"] for patch in patches])
    return image, torch.stack([patch["label"] for patch in patches])


def network(task: Task) -> torch.nn.Module:
    """MONAI's UNet for one channel and two classes."""
    net = UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=2,
        channels=task.channels,
        strides=[2] * (len(task.channels) - 1),
        num_res_units=task.residual_units,
        norm=task.norm,
    )
    return net.to(memory_format=torch.channels_last_3d) if task.channels_last else net


def train(task: Task) -> None:
    """Train until the last moment has come, leaving the weights at each."""
    torch.manual_seed(task.seed)
    net = network(task).train()
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True)
    optimizer = torch.optim.Adam(net.parameters(), lr=task.lr)
    left, steps = list(task.moments_s), 0
    for image, label in batches(task):
        if steps == 0:
            first_s = task.seconds()
            left = [moment for moment in left if moment > first_s]
        for group in optimizer.param_groups:
            group["lr"] = rate(task)
        optimizer.zero_grad(set_to_none=True)
        loss_of(net(image), label).backward()
        optimizer.step()
        steps += 1
        if left and task.seconds() >= left[0]:
            torch.save(net.state_dict(), task.out / f"{left.pop(0):g}.pt")
        if not left:
            break
    summary = {"first_step_s": first_s, "steps": steps, "seconds": task.seconds()}
    (task.out / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


def rate(task: Task) -> float:
    """The learning rate of this moment."""
    if task.schedule == "constant":
        return task.lr
    share = min(1.0, task.seconds() / task.moments_s[-1])
    return float(task.lr * 0.5 * (1 + np.cos(np.pi * share)))


@torch.inference_mode()
def predict(task: Task) -> None:
    """The validation masks of every snapshot, on the grid of the CT's file."""
    transform = Compose(prepared(task, ["image"]))
    invert = Invertd("liver", transform, orig_keys="image", nearest_interp=False)
    cases = [(one["case_id"], transform({"image": one["image"]})) for one in task.validation]
    net = network(task).eval()
    for path in sorted(task.out.glob("*.pt")):
        net.load_state_dict(torch.load(path, weights_only=True))
        masks = {}
        for case_id, case in cases:
            probability = sliding_window_inference(
                case["image"][None],
                task.patch_xyz,
                1,
                lambda patch: net(patch).softmax(dim=1)[:, 1:],
                overlap=OVERLAP,
                mode="gaussian",
                cval=-1.0,
            )
            restored = invert({**case, "liver": probability[0]})["liver"]
            mask = np.asarray(restored[0].numpy() > 0.5, np.uint8)
            masks[case_id] = np.ascontiguousarray(mask.transpose(2, 1, 0))
        np.savez_compressed(path.with_suffix(".npz"), **masks)


def main(action: str, path: Path) -> None:
    """Train or predict."""
    fields = json.loads(path.read_text(encoding="utf-8"))
    task = Task(**{**fields, "out": Path(fields["out"])})
    torch.set_num_threads(task.threads)
    {"train": train, "predict": predict}[action](task)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
