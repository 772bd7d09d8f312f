"""What is minimised, worked by hand on a handful of voxels."""

import math

import pytest
import torch
from monai.losses import DiceCELoss

from stages.train.losses import make_loss

NAMES = ("cross_entropy", "dice_ce")


def logits_of(liver):
    """Logits (B, 2, D, H, W): of liver so much above background's, which is 3 for no reason."""
    liver = torch.as_tensor(liver, dtype=torch.float32) + 3
    return torch.stack([torch.full_like(liver, 3), liver], dim=1)


def mask_of(values):
    return torch.as_tensor(values, dtype=torch.uint8)


def confident(mask):
    """Logits of a network that is sure of exactly this mask."""
    return logits_of(80.0 * mask.float() - 40.0)


@pytest.fixture
def mask():
    """A liver of 8 of 64 voxels in the first of two patches; none in the second."""
    mask = torch.zeros(2, 4, 4, 4, dtype=torch.uint8)
    mask[0, 1:3, 1:3, 1:3] = 1
    return mask


def test_cross_entropy_is_the_mean_of_minus_the_log_of_the_true_class():
    # probabilities of liver 1/2, 3/4 and 1/4; truth liver, liver and background
    logits = logits_of([[[[0.0, math.log(3), -math.log(3)]]]])
    loss = make_loss("cross_entropy")(logits, mask_of([[[[1, 1, 0]]]]))
    expected = (math.log(2) + math.log(4 / 3) + math.log(4 / 3)) / 3
    assert loss.item() == pytest.approx(expected)


def test_dice_ce_adds_one_minus_the_soft_dice_of_the_liver():
    # as above: shared is 1/2 + 3/4, so Dice is 2 · 5/4 / (3/2 + 2) = 5/7
    logits = logits_of([[[[0.0, math.log(3), -math.log(3)]]]])
    loss = make_loss("dice_ce")(logits, mask_of([[[[1, 1, 0]]]]))
    cross_entropy = (math.log(2) + math.log(4 / 3) + math.log(4 / 3)) / 3
    assert loss.item() == pytest.approx(cross_entropy + 2 / 7, abs=1e-5)


def test_dice_counts_the_voxels_of_the_whole_batch_at_once():
    # probability 1/2 everywhere: shared 1, sums 2 and 2 over both patches, so Dice is 1/2; a mean
    # over the two patches, of 2/3 and 0, would be 1/3
    loss = make_loss("dice_ce")(torch.zeros(2, 2, 1, 1, 2), mask_of([[[[1, 1]]], [[[0, 0]]]]))
    assert loss.item() == pytest.approx(math.log(2) + 1 / 2, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_and_sure_prediction_costs_nothing(name, mask):
    assert make_loss(name)(confident(mask), mask).item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_prediction_costs_more_than_an_unsure_one_and_that_more_than_a_right_one(
    name, mask
):
    loss = make_loss(name)
    wrong, unsure = confident(1 - mask), torch.zeros(2, 2, 4, 4, 4)
    costs = [loss(logits, mask).item() for logits in (wrong, unsure, confident(mask))]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > 5


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_liver_predicted_without_liver_costs_nothing(name):
    empty = torch.zeros(2, 4, 4, 4, dtype=torch.uint8)
    assert make_loss(name)(confident(empty), empty).item() == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_liver_has_a_finite_gradient(name):
    logits = torch.zeros(1, 2, 4, 4, 4, requires_grad=True)
    make_loss(name)(logits, torch.zeros(1, 4, 4, 4, dtype=torch.uint8)).backward()
    assert logits.grad.isfinite().all()
    # background up, liver down
    assert (logits.grad[:, 0] < 0).all()
    assert (logits.grad[:, 1] > 0).all()


@pytest.fixture
def random_batch():
    """Logits and masks of three patches with unequal sides, liver in two of them."""
    random = torch.Generator().manual_seed(7)
    mask = (torch.rand(3, 5, 6, 7, generator=random) < 0.2).to(torch.uint8)
    mask[2] = 0
    return 4 * torch.randn(3, 2, 5, 6, 7, generator=random), mask


def gradient(loss, logits):
    logits = logits.clone().requires_grad_()
    loss(logits).backward()
    return logits.grad


def test_our_cross_entropy_is_that_of_torch(random_batch):
    logits, mask = random_batch
    torchs = torch.nn.CrossEntropyLoss()
    ours = make_loss("cross_entropy")
    assert ours(logits, mask).item() == pytest.approx(torchs(logits, mask.long()).item(), rel=1e-6)
    expected = gradient(lambda one: torchs(one, mask.long()), logits)
    assert torch.allclose(gradient(lambda one: ours(one, mask), logits), expected, atol=1e-7)


def test_our_dice_ce_is_that_of_monai(random_batch):
    logits, mask = random_batch
    monais = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)
    ours = make_loss("dice_ce")
    target = mask.unsqueeze(1).long()
    assert ours(logits, mask).item() == pytest.approx(monais(logits, target).item(), rel=1e-6)
    expected = gradient(lambda one: monais(one, target), logits)
    assert torch.allclose(gradient(lambda one: ours(one, mask), logits), expected, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_the_sums_of_a_batchs_parts_give_the_loss_of_the_batch(name, random_batch):
    logits, mask = random_batch
    loss = make_loss(name)
    parts = loss.sums(logits[:1], mask[:1]) + loss.sums(logits[1:], mask[1:])
    assert loss.value(parts).item() == pytest.approx(loss(logits, mask).item(), rel=1e-6)
