"""Find the liver in a prepared CT with onnxruntime and numpy alone. Not for clinical use.

    import numpy as np
    from example import liver_probability

    mask = liver_probability(np.load("prepared.npy")) > 0.5

What "prepared" means stands in preparation.json, and in README.md beside this file.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

BUNDLE = Path(__file__).parent


def liver_probability(volume: NDArray[np.int16]) -> NDArray[np.float32]:
    """The probability of liver at every voxel.

    Args:
        volume: HU, (Z, Y, X), turned to LPS, cropped and brought to the model's grid.

    Returns:
        float32 in [0, 1], (Z, Y, X); overlapping windows are blended with Gaussian weights.
    """
    preparation = json.loads((BUNDLE / "preparation.json").read_text(encoding="utf-8"))
    smallest, overlap = preparation["graph"]["smallest_side"], preparation["overlap"]
    window = preparation["window_zyx"] or [max(smallest, side) for side in volume.shape]
    session = onnxruntime.InferenceSession(str(BUNDLE / preparation["graph"]["file"]))
    missing = [max(w - side, 0) for w, side in zip(window, volume.shape, strict=True)]
    padding = [(n // 2, n - n // 2) for n in missing]
    padded = np.pad(volume.astype(np.float32), padding, constant_values=preparation["outside_hu"])
    weight = gaussian(window)
    total, weights = np.zeros_like(padded), np.zeros_like(padded)
    for starts in itertools.product(*map(window_starts, padded.shape, window, [overlap] * 3)):
        box = tuple(slice(a, a + w) for a, w in zip(starts, window, strict=True))
        [logits] = session.run(["logits"], {"hu": padded[box][None, None]})
        background, liver = logits[0].astype(np.float64)
        total[box] += weight / (1 + np.exp(np.clip(background - liver, -80, 80)))
        weights[box] += weight
    inside = tuple(slice(a, a + side) for (a, _), side in zip(padding, volume.shape, strict=True))
    probability: NDArray[np.float32] = (total / weights)[inside]
    return probability


def window_starts(side: int, window: int, overlap: float) -> list[int]:
    """Where windows begin along an axis; the last one ends where the volume does."""
    step = max(1, int(window * (1 - overlap)))
    return [*range(0, side - window, step), side - window]


def gaussian(window: list[int]) -> NDArray[np.float32]:
    """Weights that are highest in a window's middle, with a sigma of an eighth of its sides."""
    weight = np.ones(1)
    for side in window:
        places = np.arange(side) - (side - 1) / 2
        weight = weight[..., None] * np.exp(-0.5 * (places / (side / 8)) ** 2)
    highest: NDArray[np.float32] = np.maximum(weight[0], 1e-3).astype(np.float32)
    return highest
