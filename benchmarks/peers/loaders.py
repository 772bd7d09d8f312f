"""A peer's own loader on the same voxels: patches per second, as JSON.

    python benchmarks/peers/loaders.py KIND ARRAYS WORK

ARRAYS holds ``<case>-image.npy`` (int16 HU) and ``<case>-mask.npy`` (uint8); WORK is for what a
peer makes of them beforehand, which is not counted. Imports nothing of liver3d, so that it runs
in whatever environment has the peer.

The best reasonable settings:

- nnU-Net: its own files (float32, normalised, blosc2 with the block sizes it computes for this
  patch) and its own loader, no transforms, in this process or in two of its worker processes.
- MONAI: voxels stay int16 and uint8, without metadata; CacheDataset with ``copy_cache=False``.
  Crops around cached liver voxels, or anywhere (cheaper); PersistentDataset loads a case for two
  patches of a batch.
- TorchIO: uncompressed NIfTI, ten patches of each loaded case, two workers.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

PATCH_ZYX = (96, 128, 128)
BATCH = 2
WARM_UP = 8  # batches
MOST_BATCHES, LONGEST_S = 400, 15.0


def nnunet(arrays: Path, work: Path, processes: int) -> Iterator[Any]:
    """nnU-Net's loader, in this process or in worker processes."""
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    folder = work / "nnunet"
    if not folder.is_dir():
        write_nnunet(arrays, folder)
    labels = LabelManager({"background": 0, "liver": 1}, None)
    dataset = nnUNetDatasetBlosc2(str(folder))
    loader = nnUNetDataLoader(dataset, BATCH, PATCH_ZYX, PATCH_ZYX, labels, 0.5)
    if processes == 0:
        return loader
    from batchgenerators.dataloading.nondet_multi_threaded_augmenter import (
        NonDetMultiThreadedAugmenter,
    )

    return NonDetMultiThreadedAugmenter(
        loader, None, processes, num_cached=6, seeds=None, pin_memory=False, wait_time=0.002
    )


def write_nnunet(arrays: Path, folder: Path) -> None:
    """Cases as nnU-Net's preprocessing leaves them."""
    from nnunetv2.training.dataloading.nnunet_dataset import (
        comp_blosc2_params,
        nnUNetDatasetBlosc2,
    )

    folder.mkdir()
    for case_id, volume, mask in cases(arrays):
        data = ((volume.clip(-160, 240).astype(np.float32) - 40) / 90)[None]
        seg = mask.astype(np.int16)[None]
        voxels = np.argwhere(seg)[::97]
        blocks, chunks = comp_blosc2_params(data.shape, PATCH_ZYX, data.itemsize)
        seg_blocks, seg_chunks = comp_blosc2_params(seg.shape, PATCH_ZYX, seg.itemsize)
        nnUNetDatasetBlosc2.save_case(
            data,
            seg,
            {"class_locations": {1: voxels}},
            str(folder / case_id),
            chunks=chunks,
            blocks=blocks,
            chunks_seg=seg_chunks,
            blocks_seg=seg_blocks,
        )


def monai(arrays: Path, work: Path, *, is_persistent: bool, is_uniform: bool) -> Iterator[Any]:
    """MONAI's CacheDataset or PersistentDataset, in this process."""
    import torch
    from monai.data import CacheDataset, DataLoader, PersistentDataset
    from monai.transforms import (
        Compose,
        EnsureTyped,
        FgBgToIndicesd,
        Lambdad,
        RandCropByPosNegLabeld,
        RandSpatialCropSamplesd,
    )

    both = ["image", "label"]
    steps: list[Any] = [Lambdad(both, load_npy), EnsureTyped(both, track_meta=False)]
    if is_uniform:
        crop = RandSpatialCropSamplesd(both, PATCH_ZYX, num_samples=BATCH, random_size=False)
    else:
        steps.append(FgBgToIndicesd("label"))
        crop = RandCropByPosNegLabeld(
            both,
            "label",
            PATCH_ZYX,
            pos=1,
            neg=1,
            num_samples=BATCH,
            fg_indices_key="label_fg_indices",
            bg_indices_key="label_bg_indices",
        )
    pairs = [
        {"image": str(arrays / f"{one}-image.npy"), "label": str(arrays / f"{one}-mask.npy")}
        for one in case_ids(arrays)
    ]
    transform = Compose([*steps, crop])
    dataset: Any
    if is_persistent:
        dataset = PersistentDataset(pairs, transform, cache_dir=work / f"monai-{is_uniform}")
    else:
        dataset = CacheDataset(pairs, transform, copy_cache=False, progress=False)
    torch.manual_seed(0)
    loader = DataLoader(dataset, batch_size=1, shuffle=True)  # a crop gives a list of patches
    while True:
        yield from loader


def load_npy(path: str) -> Any:
    """A volume with a channel in front."""
    return np.load(path)[None]


def torchio(arrays: Path, work: Path) -> Iterator[Any]:
    """TorchIO's Queue with a uniform sampler."""
    import torch
    import torchio as tio

    folder = work / "torchio"
    if not folder.is_dir():
        folder.mkdir()
        for case_id, volume, mask in cases(arrays):
            for name, array in (("image", volume), ("mask", mask)):
                tio.ScalarImage(tensor=torch.from_numpy(array)[None]).save(
                    folder / f"{case_id}-{name}.nii"
                )
    subjects = [
        tio.Subject(
            image=tio.ScalarImage(folder / f"{one}-image.nii"),
            mask=tio.LabelMap(folder / f"{one}-mask.nii"),
        )
        for one in case_ids(arrays)
    ]
    # repeated, since a queue ends with its epoch and would start its workers anew
    dataset = tio.SubjectsDataset(subjects * 50)
    queue = tio.Queue(dataset, 40, 10, tio.UniformSampler(PATCH_ZYX), num_workers=2)
    yield from torch.utils.data.DataLoader(queue, batch_size=BATCH, num_workers=0)


def case_ids(arrays: Path) -> list[str]:
    """The cases there are."""
    return sorted(path.name.removesuffix("-image.npy") for path in arrays.glob("*-image.npy"))


def cases(arrays: Path) -> Iterator[tuple[str, Any, Any]]:
    """Id, volume and mask of each case."""
    for case_id in case_ids(arrays):
        volume = np.load(arrays / f"{case_id}-image.npy")
        yield case_id, volume, np.load(arrays / f"{case_id}-mask.npy")


KINDS: dict[str, Callable[[Path, Path], Iterator[Any]]] = {
    "nnunet": lambda arrays, work: nnunet(arrays, work, 0),
    "nnunet-workers": lambda arrays, work: nnunet(arrays, work, 2),
    "monai-cache": lambda a, w: monai(a, w, is_persistent=False, is_uniform=False),
    "monai-cache-uniform": lambda a, w: monai(a, w, is_persistent=False, is_uniform=True),
    "monai-persistent": lambda a, w: monai(a, w, is_persistent=True, is_uniform=True),
    "torchio": torchio,
}


def main(kind: str, arrays: Path, work: Path) -> None:
    """Read batches for a while."""
    batches = iter(KINDS[kind](arrays, work))
    for _ in range(WARM_UP):
        next(batches)
    count, began = 0, time.perf_counter()
    while count < MOST_BATCHES and time.perf_counter() - began < LONGEST_S:
        next(batches)
        count += 1
    seconds = time.perf_counter() - began
    print(json.dumps({"patches_per_s": count * BATCH / seconds}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
