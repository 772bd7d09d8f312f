"""A checkpoint with the key of a run, whole and of its network, that no training has left."""

import copy
import dataclasses

import pytest
import torch

from cache.errors import ModelError
from project import all_files
from stages.train.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from stages.train.checkpoints.going_on import load_unfinished, require_place
from tiny import one_thread

TALLY = {
    "loss": 1.5,
    "patches": 2,
    "counts": {
        "true_positive": 1,
        "false_positive": 2,
        "false_negative": 3,
        "true_negative": 4,
    },
    "gradient_norm": 0.5,
    "steps": 1,
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture
def read(trained, tmp_path):
    """Write the last checkpoint of a run with other fields, and read it to go on from."""

    def write_and_read(**fields):
        last = trained.last
        start = dataclasses.replace(last, epoch=0)
        save_checkpoint(tmp_path / "last.pt", dataclasses.replace(last, **fields))
        return load_unfinished(tmp_path / "last.pt", start)

    return write_and_read


def changed(optimizer, *path, value):
    """The state of an optimizer with another value at one place."""
    found = copy.deepcopy(optimizer)
    place = found
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return found


@pytest.mark.parametrize(
    ("fields", "fact"),
    [
        ({"epoch": 1_000_000}, "1000000 epochs of 2"),
        ({"epoch": 1}, "1 epochs, and has curves of 2"),
        ({"history": []}, "curves of 0"),
        ({"batch": 1}, "add up to"),
        ({"tally": TALLY}, "add up to"),
        ({"batch": 1, "tally": {"loss": "much"}}, "add up to"),
        ({"batch": 1, "tally": {**TALLY, "patches": 0}}, "add up to"),
        ({"batch": 1, "tally": {**TALLY, "loss": float("nan")}}, "add up to"),
        ({"batch": 1, "tally": {**TALLY, "counts": {"true_positive": 1}}}, "add up to"),
        ({"batch": 1, "tally": {**TALLY, "counts": [1, 2, 3, 4]}}, "add up to"),
        ({"trained_s": float("inf")}, "is not finite"),
        ({"best_dice": float("nan")}, "is not finite"),
        ({"seed": 1}, "its seed is not that of the run"),
        ({"split": {"train": [], "validation": [], "test": []}}, "its split is not"),
        ({"data_digest": "another"}, "its data_digest is not"),
        ({"optimizer": {}}, "no state of the optimizer, as best.pt has none"),
        ({"optimizer": {"state": [], "param_groups": []}}, "no state of the optimizer"),
        ({"optimizer": {"state": {}, "param_groups": [7]}}, "are not those of the network"),
        ({"scaler": {"scale": "large"}}, "gradient scaler"),
    ],
)
def test_what_no_training_has_left_is_refused_as_what_it_is(read, fields, fact):
    with pytest.raises(ModelError, match=f"nothing that this run can go on from: .*{fact}"):
        read(**fields)


@pytest.mark.parametrize(
    ("path", "value", "fact"),
    [
        (("state", 0), {}, "weight 0 makes no sense"),
        (("state", 0), "much", "weight 0 makes no sense"),
        (("state", 1, "exp_avg"), torch.zeros(1, 2, 3), "weight 1 makes no sense"),
        (("state", 2, "exp_avg_sq"), "much", "weight 2 makes no sense"),
        (("state", 0, "step"), torch.tensor(float("nan")), "weight 0 makes no sense"),
        (("state", 0, "step"), -3, "weight 0 makes no sense"),
        (("state", "a"), {}, "no state of some weights"),
        (("param_groups", 0, "lr"), float("nan"), "learning rate"),
        (("param_groups", 0, "params"), [0, 1], "not those of the network"),
    ],
)
def test_an_optimizer_of_nonsense_is_refused_as_such(read, trained, path, value, fact):
    with pytest.raises(ModelError, match=fact):
        read(optimizer=changed(trained.last.optimizer, *path, value=value))


def test_weights_that_the_optimizer_multiplied_to_no_number_are_refused(read, trained):
    state = copy.deepcopy(trained.last.optimizer)
    state["state"][0]["exp_avg"].view(-1)[0] = torch.inf
    with pytest.raises(ModelError, match="weight 0 makes no sense"):
        read(optimizer=state)
    model = copy.deepcopy(trained.last.model)
    next(iter(model.values())).view(-1)[0] = torch.nan
    with pytest.raises(ModelError, match="holds values that are not numbers"):
        read(model=model)


def test_a_checkpoint_of_another_run_is_not_judged_by_this_one(read):
    assert read(run_key="another", epoch=1_000_000).epoch == 1_000_000


@pytest.mark.parametrize(("batch", "is_place"), [(0, True), (2, True), (5, True), (3, False)])
def test_a_place_in_an_epoch_follows_a_step(trained, tmp_path, batch, is_place):
    last = dataclasses.replace(trained.last, batch=batch)
    if is_place:
        require_place(tmp_path, last, batches=5, accumulate=2)
        return
    with pytest.raises(ModelError, match="3 batches of an epoch are done; an epoch has 5"):
        require_place(tmp_path, last, batches=5, accumulate=2)


def test_a_place_beyond_the_epoch_ends_the_command_with_2(copied):
    previous = load_checkpoint(copied.models / "previous.pt")
    beyond = dataclasses.replace(previous, batch=50, tally=TALLY)
    save_checkpoint(copied.models / "last.pt", beyond)
    before = all_files(copied.models)
    assert "50 batches of an epoch are done" in copied.refused()
    assert all_files(copied.models) == before


def test_a_copy_of_the_best_in_the_place_of_the_last_is_gone_on_from_the_one_before(
    copied, trained, caplog
):
    (copied.models / "last.pt").write_bytes((copied.models / "best.pt").read_bytes())
    assert copied.train().exit_code == 0
    (warning,) = [one for one in caplog.messages if "the one before it" in one]
    assert "as best.pt has none" in warning
    assert copied.last.epoch == trained.last.epoch


def test_settings_of_the_optimizer_are_those_of_the_parameters(copied, trained):
    previous = load_checkpoint(copied.models / "previous.pt")
    spoilt = changed(previous.optimizer, "param_groups", 0, "betas", value="much")
    save_checkpoint(copied.models / "last.pt", dataclasses.replace(previous, optimizer=spoilt))
    assert copied.train().exit_code == 0
    assert torch.equal(*(one.last.model["out.conv.weight"] for one in (copied, trained)))
