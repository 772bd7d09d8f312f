"""MONAI's way from a CT's file to its mask, with a network of ours.

    python benchmarks/peers/monai_predict.py MODEL CT MASK OVERLAP

Needs MONAI, nibabel and torch, and of liver3d the folder alone: the network and its parameters are
imported from there, so that both ways compute the very same. Prints the seconds of each step, its
own peak memory and the number of windows as JSON.

The transforms are those of MONAI's tutorials in their best order: the crop to the body comes first,
so that air is never resampled; Spacingd works in float32; the inverse interpolates the probability,
which is cut at one half after that, as ours is. ``sliding_window_inference`` predicts one window at
a time, with Gaussian weights.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    SaveImage,
    Spacingd,
)
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from stages.train.checkpoints.checkpoint import load_checkpoint
from stages.train.device import network_on_hu

CPU = torch.device("cpu")
AIR_HU = -1000
THINNEST_BODY_HU = -300  # stage one's own threshold


def is_body(volume: Any) -> Any:
    """Where something denser than air is."""
    return volume > THINNEST_BODY_HU


class Watch:
    """Seconds since it was last asked, by a name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Book what passed since the last lap."""
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now


@torch.inference_mode()
def main(model: Path, ct: Path, mask: Path, overlap: float) -> None:
    """Predict one CT."""
    checkpoint = load_checkpoint(model)
    spec = checkpoint.spec
    network = network_on_hu(checkpoint.network(), spec, CPU)
    z, y, x = checkpoint.preprocess["spacing_zyx_mm"]
    shown = []

    def probability(patch: Tensor) -> Tensor:
        shown.append(patch.shape)
        # arrays of MONAI are (X, Y, Z): the network sees them as it was trained
        turned = patch.permute(0, 1, 4, 3, 2)
        return network(turned).softmax(dim=1)[:, 1:].permute(0, 1, 4, 3, 2)

    watch = Watch()
    read = Compose([LoadImaged("image", dtype=torch.float32), EnsureChannelFirstd("image")])
    case = read({"image": str(ct)})
    watch.lap("read")
    prepare = Compose(
        [
            CropForegroundd("image", source_key="image", select_fn=is_body, allow_smaller=True),
            Orientationd("image", axcodes="LPS", labels=None),
            Spacingd("image", pixdim=[x, y, z], mode="bilinear", dtype=torch.float32),
        ]
    )
    case = prepare(case)
    watch.lap("prepare")
    found = sliding_window_inference(
        case["image"][None],
        spec.patch_zyx[::-1],
        1,
        probability,
        overlap=overlap,
        mode="gaussian",
        cval=AIR_HU,
    )
    watch.lap("network")
    invert = Invertd("liver", prepare, orig_keys="image", nearest_interp=False)
    restored = invert({**case, "liver": found[0]})["liver"]
    liver = MetaTensor((restored.as_tensor() > 0.5).to(torch.uint8), meta=restored.meta)
    watch.lap("restore")
    save = SaveImage(
        output_dir=mask.parent,
        output_postfix="",
        output_dtype=np.uint8,
        separate_folder=False,
        print_log=False,
        resample=False,
    )
    save(liver, filename=str(mask).removesuffix(".nii.gz"))
    watch.lap("write")
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    print(json.dumps({**watch.seconds, "peak_bytes": peak, "windows": len(shown)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
