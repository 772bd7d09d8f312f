"""MONAI's way to a prepared data set: a PersistentDataset filled once by a DataLoader.

    python benchmarks/peers/monai_cache.py SOURCES.json CACHE WORKERS SPACING_MM

Needs MONAI and nibabel alone, so that it runs in an environment without liver3d.

The best reasonable settings, each of which makes MONAI faster or the comparison fairer: the crop
to the body comes first, as in MONAI's own spleen tutorial, so that air is never resampled;
Spacingd works in float32 (its default is float64); the label is stored as uint8; workers send
nothing back to the loader, since only the cache is wanted. nibabel is MONAI's default reader for
NIfTI. Spacingd does not smooth before it coarsens; stage one does.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader, PersistentDataset
from monai.transforms import (
    CastToTyped,
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    Spacingd,
)

BOTH = ["image", "label"]
THINNEST_BODY_HU = -300  # stage one's own threshold


def is_body(volume: Any) -> Any:
    """Where something denser than air is."""
    return volume > THINNEST_BODY_HU


def nothing(_: Any) -> int:
    """A batch of nothing: a worker has written the case, and nobody asks for the voxels."""
    return 0


def prepare(spacing_mm: float) -> Compose:
    """Read, crop to the body, turn to LPS and resample."""
    return Compose(
        [
            LoadImaged(BOTH, dtype=torch.float32),
            EnsureChannelFirstd(BOTH),
            CropForegroundd(BOTH, source_key="image", select_fn=is_body, allow_smaller=True),
            Orientationd(BOTH, axcodes="LPS", labels=None),
            Spacingd(
                BOTH, pixdim=[spacing_mm] * 3, mode=("bilinear", "nearest"), dtype=torch.float32
            ),
            CastToTyped("label", dtype=torch.uint8),
        ]
    )


def main(sources: Path, cache: Path, workers: int, spacing_mm: float) -> None:
    """Fill the cache."""
    pairs = json.loads(sources.read_text(encoding="utf-8"))
    dataset = PersistentDataset(pairs, prepare(spacing_mm), cache_dir=cache)
    for _ in DataLoader(dataset, batch_size=1, num_workers=workers, collate_fn=nothing):
        pass
    written = len(list(cache.glob("*.pt")))
    if written != len(pairs):
        raise SystemExit(f"{written} cases in the cache, {len(pairs)} wanted")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
