"""The optimizers, the learning rate of every step, and averaged weights."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.train.average import Average
from stages.train.optimizer import make_optimizer, make_rate, set_rate
from stages.train.params import TrainParams
from tiny import TRAIN


def params(**changes):
    return TrainParams.model_validate({**TRAIN, "lr": 0.1, **changes})


def moved(changes, *gradients):
    """Where a weight of 1 is after steps with these gradients."""
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = make_optimizer([weight], params(**changes))
    for gradient in gradients:
        weight.grad = torch.tensor([float(gradient)])
        optimizer.step()
    return weight.item()


class TestOptimizers:
    def test_sgd_looks_ahead_as_nesterov_does(self):
        # velocity 2, then 0.5 · 2 + 2 = 3; a step is gradient + 0.5 · velocity: 3, then 3.5
        expected = 1 - 0.1 * 3 - 0.1 * 3.5
        assert moved({"optimizer": "sgd", "momentum": 0.5}, 2, 2) == pytest.approx(expected)

    def test_sgd_without_momentum_follows_the_gradient(self):
        assert moved({"optimizer": "sgd", "momentum": 0}, 2) == pytest.approx(1 - 0.1 * 2)

    @pytest.mark.parametrize("name", ["adam", "adamw"])
    def test_the_first_step_of_adam_is_the_learning_rate_however_large_the_gradient(self, name):
        assert moved({"optimizer": name}, 1000) == pytest.approx(0.9, abs=1e-5)

    def test_weight_decay_of_adamw_is_beside_the_gradient(self):
        changes = {"optimizer": "adamw", "weight_decay": 0.5}
        assert moved(changes, 1000) == pytest.approx(1 * (1 - 0.1 * 0.5) - 0.1, abs=1e-5)

    def test_weight_decay_of_adam_is_part_of_the_gradient(self):
        changes = {"optimizer": "adam", "weight_decay": 0.5}
        assert moved(changes, 1000) == pytest.approx(0.9, abs=1e-5)
        assert moved({**changes, "optimizer": "sgd", "momentum": 0}, 2) == pytest.approx(
            1 - 0.1 * (2 + 0.5)
        )

    def test_the_rate_of_the_next_step_can_be_set(self):
        weight = torch.nn.Parameter(torch.tensor([1.0]))
        optimizer = make_optimizer([weight], params(optimizer="sgd", momentum=0))
        set_rate(optimizer, 0.01)
        weight.grad = torch.tensor([2.0])
        optimizer.step()
        assert weight.item() == pytest.approx(1 - 0.02)


class TestRates:
    @pytest.mark.parametrize(
        ("schedule", "middle"), [("constant", 0.1), ("cosine", 0.05), ("poly", 0.1 * 0.5**0.9)]
    )
    def test_a_learning_rate_begins_whole_and_has_the_value_of_its_schedule_in_the_middle(
        self, schedule, middle
    ):
        rate = make_rate(params(schedule=schedule), 100)
        assert rate(0, 0) == pytest.approx(0.1)
        assert rate(50, 0) == pytest.approx(middle)

    @pytest.mark.parametrize("schedule", ["cosine", "poly"])
    def test_a_falling_learning_rate_ends_near_zero(self, schedule):
        assert 0 < make_rate(params(schedule=schedule), 100)(99, 0) < 0.002

    def test_a_learning_rate_rises_evenly_in_the_warm_up_and_falls_after_it(self):
        rate = make_rate(params(schedule="cosine", warmup_steps=4), 104)
        assert [rate(step, 0) for step in range(5)] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
        assert rate(54, 0) == pytest.approx(0.05)

    @pytest.mark.parametrize("schedule", ["cosine", "poly"])
    def test_the_clock_ends_it_where_it_is_ahead_of_the_steps(self, schedule):
        rate = make_rate(params(schedule=schedule), 100)
        assert rate(10, 0.5) == rate(50, 0)
        assert rate(50, 0.1) == rate(50, 0)
        assert rate(10, 1.5) == 0

    @given(
        schedule=st.sampled_from(["constant", "poly", "cosine"]),
        warmup_steps=st.integers(0, 30),
        steps=st.integers(1, 20),
        time_share=st.floats(0, 2),
    )
    def test_no_schedule_goes_above_the_learning_rate_or_below_zero(
        self, schedule, warmup_steps, steps, time_share
    ):
        rate = make_rate(params(schedule=schedule, warmup_steps=warmup_steps), steps)
        assert all(0 <= rate(step, time_share) <= 0.1 for step in range(steps))


class TestAverage:
    def network(self, value):
        network = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(network.weight, value)
        return network

    def test_a_step_takes_the_average_so_far_by_the_decay(self):
        average = Average(self.network(0), 0.5)
        average.add(self.network(8), 1000)
        average.add(self.network(8), 1001)
        assert average.network.weight.item() == pytest.approx(8 * 0.75)

    def test_the_first_steps_count_for_more(self):
        # a decay of 1/10 at step 0, of 2/11 at step 1
        average = Average(self.network(0), 0.99)
        average.add(self.network(10), 0)
        assert average.network.weight.item() == pytest.approx(9)
        average.add(self.network(10), 1)
        assert average.network.weight.item() == pytest.approx(9 * 2 / 11 + 10 * 9 / 11)

    def test_the_network_is_left_alone_and_the_average_learns_nothing(self):
        network = self.network(3)
        before = copy.deepcopy(network.state_dict())
        average = Average(network, 0.9)
        average.add(network, 0)
        assert torch.equal(network.weight, before["weight"])
        assert network.weight.requires_grad
        assert not average.network.weight.requires_grad
