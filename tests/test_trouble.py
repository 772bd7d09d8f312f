"""A batch whose loss is not finite: what is said and kept, and that it shows the same again."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from cache.errors import ModelError
from cache.grid import Box
from project import assert_same
from stages.train.augment.apply import network_input
from stages.train.augment.draw import Draw
from stages.train.augment.warp import Warp
from stages.train.build import Work, build_trainer
from stages.train.checkpoints.checkpoint import Checkpoint, cpu_state
from stages.train.params import TrainParams
from stages.train.ranks import Ranks
from stages.train.sample import Batch, Sample
from stages.train.step import Group, News, NotFinite, train_batch
from stages.train.trouble import explained, replayed
from tiny import TRAIN, one_thread

BOX = Box((2, 3, 4), (18, 19, 20))
ALONE = Group(size=1, is_last=True, step=0)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with one_thread():
        yield


def make_trainer():
    """A trainer of a new network."""
    params = TrainParams.model_validate({**TRAIN, "loss": "cross_entropy"})
    train = params.model_dump(mode="json")
    state = Checkpoint("key", 1, {}, params.spec, train, preprocess={}, data_digest="digest")
    work = Work(steps=10, largest_zyx=(16, 16, 16), device=torch.device("cpu"), ranks=Ranks())
    return build_trainer(params, state, work)


def make_batch(*, draw=None):
    """Two patches of noise without liver, of a case each."""
    random = torch.Generator().manual_seed(3)
    volumes = torch.randint(-300, 400, (2, 16, 16, 16), generator=random).short()
    samples = [Sample("case-7", BOX, draw), Sample("case-2", BOX, draw)]
    return Batch(samples, list(volumes), list(torch.zeros(2, 16, 16, 16, dtype=torch.uint8)))


@dataclass
class Trouble:
    """A step that met trouble, and what was made of it."""

    weights: dict[str, torch.Tensor]
    batch: Batch
    error: ModelError
    path: Path
    kept: dict[str, Any]


@pytest.fixture
def meet(tmp_path):
    """Learn from a batch with this much added to the logit of liver."""

    def meet(bias=math.nan, *, draw=None):
        trainer, batch = make_trainer(), make_batch(draw=draw)
        with torch.no_grad():
            trainer.network.out.conv.bias[1] += bias
        before = cpu_state(trainer.network)
        with pytest.raises(NotFinite) as caught:
            train_batch(trainer, batch, ALONE, News())
        path = tmp_path / "training" / "nonfinite.pt"
        error = explained(caught.value, trainer, batch, path)
        return Trouble(before, batch, error, path, torch.load(path, weights_only=True))

    return meet


class TestMessage:
    def test_a_loss_that_is_no_number_names_the_parameter_the_cases_the_file_and_the_fix(
        self, meet
    ):
        trouble = meet()
        assert str(trouble.error) == (
            f"train.lr: the loss became nan on a batch of case-2, case-7; {trouble.path} has the"
            " batch and the weights before it, and stages.train.trouble.replayed gives its loss"
            " again\n"
            "  fix: lower train.lr, set train.clip_norm or train.hu_window, or look at these cases"
        )

    def test_a_disk_that_keeps_no_batch_is_told_beside_what_happened_not_in_its_place(
        self, tmp_path
    ):
        trainer, batch = make_trainer(), make_batch()
        (tmp_path / "training").write_text("a file in the place of the folder")
        path = tmp_path / "training" / "nonfinite.pt"
        told = str(explained(NotFinite("the loss became nan"), trainer, batch, path))
        assert told.startswith("train.lr: the loss became nan on a batch of case-2, case-7; ")
        assert f"{path} cannot be written (FileExistsError: " in told
        assert "lower train.lr" in told

    def test_a_full_disk_is_told_beside_what_happened(self, tmp_path):
        resource = pytest.importorskip("resource", reason="a limit plays the full disk")
        trainer, batch = make_trainer(), make_batch()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            told = str(explained(NotFinite("nan"), trainer, batch, tmp_path / "nonfinite.pt"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert told.startswith("train.lr: nan on a batch of case-2, case-7; ")
        assert "nonfinite.pt cannot be written (" in told
        assert list(tmp_path.iterdir()) == []


class TestKept:
    def test_the_weights_are_those_before_the_step(self, meet):
        trouble = meet(math.inf)
        assert_same(trouble.kept["model"], trouble.weights)

    def test_the_samples_say_which_patches_they_are(self, meet):
        where = [[2, 3, 4], [18, 19, 20]]
        assert meet().kept["samples"] == [
            {"case": "case-7", "box": where},
            {"case": "case-2", "box": where},
        ]

    def test_the_inputs_are_windowed_as_the_network_got_them(self, meet):
        trouble = meet()
        assert trouble.kept["inputs"].shape == (2, 1, 16, 16, 16)
        assert trouble.kept["inputs"].abs().max() == 1
        assert torch.equal(trouble.kept["inputs"], network_input(trouble.batch, (-160, 240))[0])

    def test_the_inputs_are_augmented_as_the_network_got_them(self, meet):
        plain, flipped = meet(), meet(draw=Draw(Warp(flips_zyx=(True, False, False))))
        assert torch.equal(flipped.kept["inputs"], plain.kept["inputs"].flip(2))

    def test_no_path_of_the_machine_is_in_it(self, meet, tmp_path):
        assert str(tmp_path).encode() not in meet().path.read_bytes()

    def test_what_an_earlier_trouble_left_gives_way(self, meet):
        meet()
        assert math.isinf(replayed(meet(math.inf).path)[0])


class TestReplayed:
    def test_a_kept_batch_of_which_a_value_was_changed_is_refused(self, meet):
        path = meet().path
        kept = torch.load(path, weights_only=True)
        kept["inputs"][0, 0, 0, 0, 0] += 1
        torch.save(kept, path)
        with pytest.raises(ModelError, match="its values are not those that were written"):
            replayed(path)

    def test_a_loss_that_was_no_number_is_none_again(self, meet):
        loss, _ = replayed(meet(math.nan).path)
        assert math.isnan(loss)

    def test_a_loss_that_was_infinite_is_so_again(self, meet):
        loss, _ = replayed(meet(math.inf).path)
        assert loss == math.inf

    def test_a_sound_batch_that_is_replayed_gives_the_loss_of_training_and_every_gradient(
        self, tmp_path
    ):
        trainer, batch = make_trainer(), make_batch()
        path = tmp_path / "nonfinite.pt"
        explained(NotFinite("the gradient became inf"), trainer, batch, path)
        loss, gradients = replayed(path)
        assert loss == pytest.approx(train_batch(trainer, batch, ALONE, News()).loss, rel=1e-5)
        assert gradients.keys() == dict(trainer.network.named_parameters()).keys()
        assert all(0 < largest < math.inf for largest in gradients.values())
