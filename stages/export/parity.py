"""Whether an exported graph computes what the trained network does."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cache.errors import ModelError
from cache.grid import Triple, triple
from stages.evaluate.overlap import overlap
from stages.evaluate.window import Network, Probability, liver_probability
from stages.export.sample import Sample

CPU = torch.device("cpu")
# batches and how far each side is above the smallest: unequal, even and odd, one or two in a batch
SHAPES = ((1, (0, 3, 7)), (2, (5, 0, 2)), (1, (17, 2, 11)))
HU = (-1000, 1000)
OVERLAP = 0.5  # of the windows, as pipeline.predict has it
THRESHOLD = 0.5
# What may differ: float32 rounds otherwise in another order of adding up. Measured figures are in
# docs/decisions/0016-export.md.
MOST_PROBABILITY = 1e-4
MOST_LOGITS = 1e-4  # of the largest logit, or of one where all are smaller
LEAST_DICE = 0.999


@dataclass(frozen=True)
class Difference:
    """How far two networks are apart on one random input.

    Attributes:
        shape: of the input, (batch, 1, depth, height, width).
        logits: largest absolute difference.
        largest_logit: absolute value, of the trained network.
        probability: largest absolute difference of the probability of liver.
    """

    shape: tuple[int, ...]
    logits: float
    largest_logit: float
    probability: float


@dataclass(frozen=True)
class Parity:
    """How far an exported graph is from the trained network.

    Attributes:
        random: on random HU of several shapes.
        origin: of the CT, in words that name no case.
        shape_zyx: of the part of it that was compared, voxels.
        probability: largest absolute difference of the probability of liver there.
        dice: of the two masks; None where both are empty.
        liver_voxels: of the trained network's mask.
    """

    random: tuple[Difference, ...]
    origin: str
    shape_zyx: Triple
    probability: float
    dice: float | None
    liver_voxels: int


def compared(
    trained: Network,
    exported: Network,
    sample: Sample,
    *,
    window_zyx: Triple | None,
    smallest_side: int,
) -> Parity:
    """Compare two networks on random inputs and, by sliding window, on a CT.

    Args:
        trained: HU as float32 (B, 1, D, H, W) -> logits (B, 2, D, H, W), on the CPU.
        exported: the same.
        sample: of a CT.
        window_zyx: shape of the windows; None for the sample at once.
        smallest_side: that both take, voxels.
    """
    window = window_zyx or triple(max(smallest_side, side) for side in sample.volume.shape)
    ours, theirs = (_probability(one, sample, window) for one in (trained, exported))
    shapes = [(batch, 1, *(smallest_side + n for n in more)) for batch, more in SHAPES]
    counts = overlap(theirs > THRESHOLD, ours > THRESHOLD)
    return Parity(
        random=tuple(_difference(trained, exported, shape) for shape in shapes),
        origin=sample.origin,
        shape_zyx=sample.volume.shape,
        probability=float(np.abs(ours - theirs).max()),
        dice=None if np.isnan(counts.dice) else counts.dice,
        liver_voxels=counts.true_positive + counts.false_negative,
    )


def require_parity(parity: Parity, where: str) -> None:
    """Refuse a graph that computes something else.

    Args:
        parity: what was found.
        where: the graph, for the message.

    Raises:
        ModelError: names what differs, by how much and how much may.
    """
    faults = [*_faults_on_random(parity), *_faults_on_case(parity)]
    if faults:
        fact = f"does not compute what the trained network does: {'; '.join(faults)}"
        fix = "nothing was written; report it, with the versions of torch, onnx and onnxruntime"
        raise ModelError(where, fact, fix)


def allowed() -> dict[str, Any]:
    """What may differ, for the record."""
    return {
        "probability": MOST_PROBABILITY,
        "logits_of_the_largest": MOST_LOGITS,
        "dice_at_least": LEAST_DICE,
    }


def _faults_on_random(parity: Parity) -> list[str]:
    faults = []
    for one in parity.random:
        most = MOST_LOGITS * max(1.0, one.largest_logit)
        shape = "·".join(map(str, one.shape))
        # NaN is not at most anything
        if not one.logits <= most:
            faults.append(
                f"logits of random {shape} differ by {one.logits:.3g} (at most {most:.3g})"
            )
        if not one.probability <= MOST_PROBABILITY:
            faults.append(f"probabilities of random {shape} differ by {one.probability:.3g}")
    return faults


def _faults_on_case(parity: Parity) -> list[str]:
    faults = []
    if not parity.probability <= MOST_PROBABILITY:
        faults.append(
            f"on {parity.origin} probabilities differ by {parity.probability:.3g}"
            f" (at most {MOST_PROBABILITY:g})"
        )
    if parity.dice is not None and not parity.dice >= LEAST_DICE:
        faults.append(f"the Dice of the masks is {parity.dice:.4f} (at least {LEAST_DICE})")
    return faults


def _probability(network: Network, sample: Sample, window_zyx: Triple) -> Probability:
    return liver_probability(
        network, sample.volume, window_zyx=window_zyx, overlap=OVERLAP, device=CPU
    )


@torch.inference_mode()
def _difference(trained: Network, exported: Network, shape: tuple[int, ...]) -> Difference:
    rng = np.random.default_rng(shape)
    hu = torch.from_numpy(rng.integers(*HU, shape).astype(np.float32))
    ours, theirs = trained(hu).float(), exported(hu).float()
    liver = [logits.softmax(dim=1)[:, 1] for logits in (ours, theirs)]
    return Difference(
        shape=shape,
        logits=float((ours - theirs).abs().max()),
        largest_logit=float(ours.abs().max()),
        probability=float((liver[0] - liver[1]).abs().max()),
    )
