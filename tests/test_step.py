"""One batch of training and what an epoch's batches add up to, worked by hand."""

import math

import pytest
import torch
from torch.amp import GradScaler

from cache.grid import Box
from stages.evaluate.overlap import Overlap
from stages.train.average import Average
from stages.train.losses import Loss, make_loss
from stages.train.optimizer import make_optimizer, make_rate
from stages.train.params import TrainParams
from stages.train.ranks import Ranks
from stages.train.sample import Batch, Sample
from stages.train.step import Group, Learnt, News, NotFinite, Trainer, train_batch
from stages.train.tally import Tally
from stages.train.tune import Engine
from tiny import TRAIN, one_thread

CPU = torch.device("cpu")
ALONE = Group(size=1, is_last=True, step=0)
UP, DOWN = [9, 9, -9, -9], [-9, -9, 9, 9]
LIVER_UP = [1, 1, 0, 0]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with one_thread():
        yield


class Brightness(torch.nn.Module):
    """A network in miniature: liver is what is above zero, and it is equally sure everywhere.

    Of a batch's cross-entropy, the gradient of a voxel is -1 for ``sureness`` where Brightness has
    it right and 1 where it is wrong, and for ``bias`` -1 in the liver and 1 outside, as long as
    both are zero; the batch's is the mean of its voxels'.
    """

    def __init__(self, sureness=0.0):
        super().__init__()
        self.sureness = torch.nn.Parameter(torch.tensor(float(sureness)))
        self.bias = torch.nn.Parameter(torch.tensor(0.0))

    def forward(self, inputs):
        liver = self.sureness * inputs[:, 0].sign() + self.bias
        return torch.stack([-liver, liver], dim=1)


def make_trainer(network, *, loss=None, scaler=None, **changes):
    """A trainer that moves the weights by the gradient times a rate of 1, unless told otherwise."""
    plain = {"optimizer": "sgd", "momentum": 0, "lr": 1, "schedule": "constant", "hu_window": None}
    params = TrainParams.model_validate({**TRAIN, **plain, "loss": "cross_entropy", **changes})
    return Trainer(
        network=network,
        forward=network,
        loss=loss or make_loss(params.loss),
        optimizer=make_optimizer(network.parameters(), params),
        rate=make_rate(params, 100),
        scaler=scaler,
        average=None if params.ema is None else Average(network, params.ema),
        params=params,
        device=CPU,
        ranks=Ranks(),
        engine=Engine("contiguous"),
    )


def batch_of(*patches):
    """Patches of four voxels each, as (HU, mask)."""
    volume = torch.tensor([hu for hu, _ in patches], dtype=torch.int16)
    mask = torch.tensor([mask for _, mask in patches], dtype=torch.uint8)
    box = Box((0, 0, 0), (1, 2, 2))
    samples = [Sample(f"case-{index}", box) for index in range(len(patches))]
    return Batch(samples, list(volume.view(-1, 1, 2, 2)), list(mask.view(-1, 1, 2, 2)))


RIGHT, WRONG = batch_of((UP, LIVER_UP)), batch_of((DOWN, LIVER_UP))
HALF = batch_of(([9, -9, 9, -9], LIVER_UP))


def weights(network):
    return [weight.item() for weight in network.parameters()]


class TestAccumulation:
    @pytest.mark.parametrize(
        ("batches", "gradient"),
        [([RIGHT], -1), ([RIGHT, HALF], -1 / 2), ([RIGHT, RIGHT, WRONG], -1 / 3)],
        ids=["one", "two", "three"],
    )
    def test_a_group_moves_the_weights_by_the_mean_of_its_batches_gradients(
        self, batches, gradient
    ):
        network = Brightness()
        trainer = make_trainer(network)
        for number, batch in enumerate(batches, 1):
            train_batch(trainer, batch, Group(len(batches), number == len(batches), 0), News())
        assert weights(network) == pytest.approx([-gradient, 0])

    def test_the_next_group_begins_without_the_gradient_of_the_one_before(self):
        network = Brightness()
        trainer = make_trainer(network, lr=1e-6)
        train_batch(trainer, RIGHT, ALONE, News())
        assert train_batch(trainer, HALF, ALONE, News()).gradient_norm == pytest.approx(0, abs=1e-5)

    def test_before_the_last_batch_nothing_moves_and_no_norm_is_told(self):
        network = Brightness()
        learnt = train_batch(make_trainer(network), RIGHT, Group(2, False, 0), News())
        assert learnt.gradient_norm is None
        assert weights(network) == [0, 0]

    def test_the_loss_told_is_the_batchs_however_large_the_group(self):
        learnt = train_batch(make_trainer(Brightness()), RIGHT, Group(4, False, 0), News())
        assert learnt.loss == pytest.approx(math.log(2))


class TestClipping:
    # 3 of 4 voxels are right, 4 are liver: the gradient is -1/2 and -1
    BATCH = batch_of(([9, 9, 9, -9], [1, 1, 1, 1]))
    NORM = math.sqrt(1.25)

    def moved(self, clip_norm):
        network = Brightness()
        learnt = train_batch(make_trainer(network, clip_norm=clip_norm), self.BATCH, ALONE, News())
        return weights(network), learnt.gradient_norm

    def test_a_longer_gradient_is_shortened_and_keeps_its_direction(self):
        moved, _ = self.moved(0.1)
        assert moved == pytest.approx([0.1 * 0.5 / self.NORM, 0.1 * 1 / self.NORM], rel=1e-4)

    def test_a_shorter_gradient_stays_as_it_is(self):
        moved, _ = self.moved(2.0)
        assert moved == pytest.approx([0.5, 1])

    @pytest.mark.parametrize("clip_norm", [0.1, 2.0, None])
    def test_the_norm_is_told_as_it_was_before(self, clip_norm):
        _, told = self.moved(clip_norm)
        assert told == pytest.approx(self.NORM)


class TestRate:
    def test_a_step_is_of_its_own_rate(self):
        network = Brightness()
        train_batch(make_trainer(network, warmup_steps=4), RIGHT, Group(1, True, 1), News())
        assert weights(network)[0] == pytest.approx(2 / 4)

    def test_half_of_the_minutes_gone_is_half_of_the_schedule_gone(self):
        network = Brightness()
        trainer = make_trainer(network, schedule="cosine", max_minutes=2)
        train_batch(trainer, RIGHT, ALONE, News(elapsed_s=60))
        assert weights(network)[0] == pytest.approx(1 / 2)


class TestAverage:
    def test_the_average_follows_the_weights(self):
        trainer = make_trainer(Brightness(), ema=0.999)
        train_batch(trainer, RIGHT, ALONE, News())
        # the weight went from 0 to 1; of the average's first step 9 tenths are new
        assert weights(trainer.network) == pytest.approx([1, 0])
        assert weights(trainer.model) == pytest.approx([0.9, 0])

    def test_the_average_of_weights_waits_for_the_last_batch_of_a_group(self):
        trainer = make_trainer(Brightness(), ema=0.999)
        train_batch(trainer, RIGHT, Group(2, False, 0), News())
        assert weights(trainer.model) == [0, 0]


def steeper(factor):
    """Cross-entropy times a factor."""
    plain = make_loss("cross_entropy")
    return Loss(plain.sums, lambda sums: factor * plain.value(sums))


def infinitely_steep():
    """A loss of one whose gradient is not finite."""
    plain = make_loss("cross_entropy")
    return Loss(plain.sums, lambda sums: 1 + (plain.value(sums) * 0).sqrt())


class TestHalfPrecision:
    """The scaler is torch's; fp32 stands in for fp16, with a scale too large even for it."""

    def test_a_gradient_comes_back_to_its_true_size_before_it_is_told_and_clipped(self):
        network = Brightness()
        scaler = GradScaler("cpu", init_scale=1024.0)
        trainer = make_trainer(network, scaler=scaler, clip_norm=0.25)
        assert train_batch(trainer, RIGHT, ALONE, News()).gradient_norm == pytest.approx(1)
        assert weights(network) == pytest.approx([0.25, 0], abs=1e-5)

    def test_steps_that_overflow_are_left_out_with_half_the_scale_until_one_fits(self):
        network = Brightness()
        scaler = GradScaler("cpu", init_scale=2.0**120)
        trainer = make_trainer(network, scaler=scaler, loss=steeper(2.0**10), lr=2.0**-10, ema=0.5)
        seen = []
        for step in range(4):
            train_batch(trainer, RIGHT, Group(1, True, step), News())
            seen.append((math.log2(scaler.get_scale()), *weights(network)))
        # fp32 ends at 2^128: the gradient of 2^10 fits when the scale is 2^117
        assert seen == [(119, 0, 0), (118, 0, 0), (117, 0, 0), (117, 1, 0)]
        assert weights(trainer.model)[0] > 0

    def test_a_gradient_that_stays_no_number_is_told_once_the_scale_is_below_one(self):
        network = Brightness()
        scaler = GradScaler("cpu", init_scale=4.0)
        trainer = make_trainer(network, scaler=scaler, loss=infinitely_steep())
        for scale in (2, 1, 0.5):
            train_batch(trainer, RIGHT, ALONE, News())
            assert scaler.get_scale() == scale
        with pytest.raises(NotFinite, match="the gradient became nan"):
            train_batch(trainer, RIGHT, ALONE, News())
        assert weights(network) == [0, 0]

    def test_a_loss_that_is_no_number_is_told_whatever_the_scale(self):
        scaler = GradScaler("cpu", init_scale=4.0)
        trainer = make_trainer(Brightness(), scaler=scaler, loss=steeper(math.inf))
        with pytest.raises(NotFinite, match="the loss became inf"):
            train_batch(trainer, RIGHT, ALONE, News())


class TestNotFinite:
    @pytest.mark.parametrize(
        ("loss", "said"),
        [
            (steeper(math.nan), "the loss became nan"),
            (steeper(math.inf), "the loss became inf"),
            (infinitely_steep(), "the gradient became nan"),
        ],
        ids=["nan", "inf", "gradient"],
    )
    def test_a_loss_that_is_not_finite_is_reported_before_the_weights_and_their_average_change(
        self, loss, said
    ):
        trainer = make_trainer(Brightness(), loss=loss, ema=0.5, clip_norm=1.0)
        with pytest.raises(NotFinite, match=said):
            train_batch(trainer, RIGHT, ALONE, News())
        assert weights(trainer.network) == weights(trainer.model) == [0, 0]

    def test_a_loss_is_told_with_the_batch_that_has_it_not_at_the_groups_end(self):
        trainer = make_trainer(Brightness(), loss=steeper(math.nan))
        with pytest.raises(NotFinite):
            train_batch(trainer, RIGHT, Group(2, False, 0), News())


def test_news_reach_whoever_learns_of_the_batch():
    learnt = train_batch(make_trainer(Brightness()), RIGHT, ALONE, News(12.5, True))
    assert learnt.news == News(12.5, True)


class TestTally:
    """A voxel costs log(1 + exp(-4)) if Brightness has it right, 4 more if not."""

    SURE = math.log1p(math.exp(-4))

    def epoch(self, *batches):
        trainer, tally = make_trainer(Brightness(2), lr=1e-12), Tally()
        for batch in batches:
            tally.add(train_batch(trainer, batch, ALONE, News()))
        return tally.row()

    def test_the_loss_is_the_mean_over_patches_however_they_are_batched(self):
        right, wrong = ([9, 9, -9, -9], [1, 1, 0, 0]), ([9, 9, -9, -9], [0, 0, 1, 1])
        row = self.epoch(batch_of(right, right), batch_of(wrong))
        assert row["train/loss"] == pytest.approx(self.SURE + 4 / 3)

    def test_accuracy_and_iou_are_of_all_voxels_of_the_epoch(self):
        # 3 voxels are liver in both, 1 in the prediction alone, 2 in the truth alone, 2 in neither
        first = ([9, 9, 9, -9], [1, 1, 0, 1])
        second = ([9, -9, -9, -9], [1, 1, 0, 0])
        row = self.epoch(batch_of(first), batch_of(second))
        assert row["train/iou"] == 3 / 6
        assert row["train/accuracy"] == 5 / 8

    def test_an_epoch_without_any_liver_has_no_iou(self):
        row = self.epoch(batch_of(([-9, -9, -9, -9], [0, 0, 0, 0])))
        assert math.isnan(row["train/iou"])
        assert row["train/accuracy"] == 1

    def learnt(self, norm):
        return Learnt(0.5, norm, 2, Overlap(1, 2, 3, 4), News())

    def test_the_gradient_norm_is_the_mean_over_steps_not_over_batches(self):
        tally = Tally()
        for norm in (None, 1.0, None, 4.0):
            tally.add(self.learnt(norm))
        assert tally.row()["train/gradient_norm"] == 2.5

    def test_a_step_that_overflowed_does_not_count_in_the_gradient_norm(self):
        tally = Tally()
        for norm in (math.inf, 1.0, math.nan, 4.0):
            tally.add(self.learnt(norm))
        assert tally.row()["train/gradient_norm"] == 2.5

    def test_what_was_saved_in_the_midst_of_an_epoch_goes_on_as_if_it_had_not_been(self):
        tally = Tally()
        tally.add(self.learnt(1.0))
        again = Tally.of(tally.saved())
        for one in (tally, again):
            one.add(self.learnt(4.0))
        assert again == tally

    def test_an_epoch_that_begins_is_empty(self):
        assert Tally.of({}) == Tally()
