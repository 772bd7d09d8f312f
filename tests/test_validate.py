"""The scores of whole cases between epochs, against a network whose answer is known."""

import math

import pytest
import torch

from cache.reader import CaseStore
from stages.train.params import TrainParams
from stages.train.ranks import Ranks
from stages.train.stop import Stop
from stages.train.validate import Score, Validation, mean_scores
from tiny import TRAIN, ball_case, one_thread, without_liver, write_store

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with one_thread():
        yield


class AboveTheMiddle(torch.nn.Module):
    """Liver is what is above the middle of the window."""

    def forward(self, inputs):
        return torch.cat([-inputs, inputs], dim=1)


def validation(root, case_ids, *, hu_window=(-160, 240), stop=None):
    params = TrainParams.model_validate({**TRAIN, "hu_window": hu_window})
    return Validation(CaseStore(root), case_ids, params, CPU, Ranks(), stop or Stop())


def scores(root, case_ids, **how):
    return validation(root, case_ids, **how).scores(AboveTheMiddle())


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A store of one case with liver and one without; the same brighter ball is in both."""
    cases = [ball_case("with"), without_liver(ball_case("without"))]
    return write_store(tmp_path_factory.mktemp("half") / "cases", cases)


class TestScores:
    def test_a_network_that_finds_every_liver_scores_one(self, cases):
        # the ball is above the middle of the window, the body below
        assert scores(cases, ["case-0", "case-1"]) == [
            Score("case-0", 1.0, 1.0),
            Score("case-1", 1.0, 1.0),
        ]

    def test_every_validated_case_has_its_own_scores(self, cases):
        # above -700 HU lies everything: Dice is 2v / (v + n), IoU v / n of v liver voxels among n
        liver = [int(CaseStore(cases).mask(case_id).sum()) for case_id in ("case-0", "case-1")]
        voxels = 20 * 24 * 28
        found = scores(cases, ["case-0", "case-1"], hu_window=(-1000, -400))
        assert [one.dice for one in found] == [2 * v / (v + voxels) for v in liver]
        assert [one.iou for one in found] == [v / voxels for v in liver]

    def test_validation_scores_are_sorted_by_case(self, cases):
        found = scores(cases, ["case-2", "case-0", "case-1"])
        assert [one.case for one in found] == ["case-0", "case-1", "case-2"]

    def test_liver_found_where_there_is_none_is_zero_and_none_found_is_no_number(self, half):
        (found,) = scores(half, ["without"])
        (nothing,) = scores(half, ["without"], hu_window=(300, 500))
        assert (found.dice, found.iou) == (0, 0)
        assert math.isnan(nothing.dice)
        assert math.isnan(nothing.iou)

    def test_liver_that_is_not_found_is_zero(self, half):
        assert scores(half, ["with"], hu_window=(300, 500)) == [Score("with", 0, 0)]

    def test_the_network_is_asked_as_it_will_be_used(self, cases):
        network = AboveTheMiddle().train()
        validation(cases, ["case-0"]).scores(network)
        assert not network.training

    def test_a_score_is_saved_as_plain_values(self):
        assert Score("case-0", 0.5, 0.25).saved() == {"case": "case-0", "dice": 0.5, "iou": 0.25}

    def test_validation_without_cases_has_no_scores(self, cases):
        assert scores(cases, []) == []


class TestStopping:
    def test_asked_to_stop_it_has_no_scores(self, cases):
        stop = Stop()
        stop.ask("SIGTERM")
        assert scores(cases, ["case-0"], stop=stop) is None

    def test_no_case_is_begun_after_the_request(self, cases):
        class Asking(AboveTheMiddle):
            """Somebody asks while the first case is being predicted."""

            def forward(self, inputs):
                stop.ask("SIGTERM")
                shapes.append(inputs.shape)
                return super().forward(inputs)

        stop, shapes = Stop(), []
        one = validation(cases, ["case-0", "case-1", "case-2"], stop=stop)
        assert one.scores(Asking()) is None
        asked = len(shapes)
        validation(cases, ["case-0"]).scores(Asking())
        assert len(shapes) == 2 * asked


class TestMeans:
    def test_validation_means_are_over_cases(self):
        row = mean_scores([Score("a", 0.5, 0.2), Score("b", 1.0, 0.6)])
        assert row == pytest.approx({"validation/dice": 0.75, "validation/iou": 0.4})

    def test_a_case_in_which_there_is_no_liver_and_none_is_found_does_not_count(self):
        row = mean_scores([Score("a", 0.5, 0.25), Score("b", math.nan, math.nan)])
        assert row == {"validation/dice": 0.5, "validation/iou": 0.25}

    def test_liver_found_where_there_is_none_counts_as_zero(self, half):
        assert mean_scores(scores(half, ["with", "without"]))["validation/dice"] == 0.5

    def test_without_a_case_that_counts_there_is_no_mean(self):
        assert all(math.isnan(mean) for mean in mean_scores([]).values())
        assert math.isnan(mean_scores([Score("a", math.nan, math.nan)])["validation/dice"])
