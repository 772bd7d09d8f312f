"""What is minimised, as a function of sums over voxels, which several processes can add up."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

SMOOTH = 1e-5  # keeps a batch without liver, found or true, at a Dice of one


@dataclass(frozen=True)
class Loss:
    """A loss in two steps, so that it is of the whole batch wherever its patches are.

    Attributes:
        sums: logits float32 (B, 2, D, H, W) and mask uint8 (B, D, H, W) -> sums over their
            voxels, float32 (k,); those of two halves of a batch add up to the batch's.
        value: sums (k,) -> the loss, a scalar.

    Example:
        >>> loss = make_loss("dice_ce")
        >>> loss(logits, mask).backward()
    """

    sums: Callable[[Tensor, Tensor], Tensor]
    value: Callable[[Tensor], Tensor]

    def __call__(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The loss of a batch that is all here."""
        return self.value(self.sums(logits, mask))


def make_loss(name: Literal["cross_entropy", "dice_ce"]) -> Loss:
    """The loss of this name, as torch's ``CrossEntropyLoss`` and MONAI's ``DiceCELoss`` define it.

    ``dice_ce`` is the sum of cross-entropy and one minus the soft Dice of the liver over the whole
    batch, so that a patch without liver does not count as a failure of its own.
    """
    if name == "cross_entropy":
        return Loss(_cross_entropy_sums, _cross_entropy)
    return Loss(_dice_ce_sums, _dice_ce)


def _cross_entropy_sums(logits: Tensor, mask: Tensor) -> Tensor:
    """The summed cross-entropy, and the number of voxels."""
    odds, truth = _odds(logits), mask.to(logits.dtype)
    return torch.stack([_summed_cross_entropy(odds, truth), odds.new_full((), odds.numel())])


def _cross_entropy(sums: Tensor) -> Tensor:
    return sums[0] / sums[1]


def _dice_ce_sums(logits: Tensor, mask: Tensor) -> Tensor:
    """The same, and the liver's soft intersection, its predicted and its true volume."""
    odds, truth = _odds(logits), mask.to(logits.dtype)
    liver = odds.sigmoid()
    sums = [
        _summed_cross_entropy(odds, truth),
        odds.new_full((), odds.numel()),
        (liver * truth).sum(),
        liver.sum(),
        truth.sum(),
    ]
    return torch.stack(sums)


def _dice_ce(sums: Tensor) -> Tensor:
    dice = (2 * sums[2] + SMOOTH) / (sums[3] + sums[4] + SMOOTH)
    return _cross_entropy(sums) + 1 - dice


def _odds(logits: Tensor) -> Tensor:
    """Two logits are a softmax; their difference is the same as one logit of a sigmoid."""
    return logits[:, 1] - logits[:, 0]


def _summed_cross_entropy(odds: Tensor, truth: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(odds, truth, reduction="sum")
