"""What is minimised."""

from collections.abc import Callable
from typing import Literal

from monai.losses import DiceCELoss
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


def make_loss(name: Literal["cross_entropy", "dice_ce"]) -> Loss:
    """A function of logits (B, 2, D, H, W) and mask (B, D, H, W) uint8 -> scalar.

    ``dice_ce`` is the sum of cross-entropy and soft Dice of the liver over the whole batch, so
    that a patch without liver does not count as a failure of its own.
    """
    if name == "cross_entropy":
        cross_entropy = nn.CrossEntropyLoss()
        return lambda logits, mask: cross_entropy(logits, mask.long())
    dice_ce = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)
    return lambda logits, mask: dice_ce(logits, mask.unsqueeze(1).long())
