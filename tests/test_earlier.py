"""A finished model is never overwritten: another run puts it aside, and its own moves it back."""

import dataclasses
import json
import logging
import shutil

import pytest
import torch

from cache.errors import ModelError
from cache.lock import only_writer
from project import all_files, assert_same
from stages.train.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from stages.train.checkpoints.earlier import EARLIER, MOST, bring_back, put_aside
from tiny import names, one_thread

KEY = "0123456789abcdef" * 4
PLACE = KEY[:12]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture
def write_run(trained, tmp_path):
    """Write the models of a run with this key into a folder, as training leaves them."""
    whole = trained.last

    def write(key=KEY, *, trained_s=10.0, models=tmp_path / "models"):
        for epoch, name in ((1, "previous.pt"), (2, "last.pt"), (2, "best.pt")):
            one = dataclasses.replace(whole, run_key=key, epoch=epoch, trained_s=trained_s)
            save_checkpoint(models / name, one if name != "best.pt" else one.to_keep())
        return models

    return write


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content[: len(content) - 100])


class TestPutAside:
    def test_best_last_and_the_split_of_a_run_go_under_its_key(self, write_run, trained):
        models = write_run()
        before = {name: (models / name).read_bytes() for name in ("best.pt", "last.pt")}
        put_aside(models)
        assert names(models) == [EARLIER]
        assert names(models / EARLIER) == [PLACE]
        assert names(models / EARLIER / PLACE) == ["best.pt", "last.pt", "split.json"]
        for name, content in before.items():
            assert (models / EARLIER / PLACE / name).read_bytes() == content
        split = json.loads((models / EARLIER / PLACE / "split.json").read_text(encoding="utf-8"))
        assert split["train"] == trained.last.split["train"]

    def test_epochs_kept_for_their_iou_go_with_their_run_and_the_notebooks_own_stay(
        self, write_run
    ):
        models = write_run()
        shutil.copy(models / "best.pt", models / "1_trainIOU_0.900_testIOU_0.800.pth")
        torch.save({"conv.weight": torch.zeros(3)}, models / "2_trainIOU_0.950_testIOU_0.910.pth")
        put_aside(models)
        assert names(models) == ["2_trainIOU_0.950_testIOU_0.910.pth", EARLIER]
        assert "1_trainIOU_0.900_testIOU_0.800.pth" in names(models / EARLIER / PLACE)

    def test_where_last_is_damaged_the_one_before_it_takes_its_name(self, write_run):
        models = write_run()
        flip_a_byte(models / "last.pt")
        put_aside(models)
        assert load_checkpoint(models / EARLIER / PLACE / "last.pt").epoch == 1
        unread = next((models / EARLIER).glob("unread-*"))
        assert names(unread) == ["damaged-last.pt"]

    def test_a_model_that_cannot_be_read_is_kept_too(self, tmp_path):
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "best.pt").write_bytes(b"of another version")
        put_aside(tmp_path / "models")
        (place,) = (tmp_path / "models" / EARLIER).iterdir()
        assert (place / "best.pt").read_bytes() == b"of another version"

    def test_other_weights_under_the_same_key_do_not_replace_those_kept(self, write_run):
        models = write_run(trained_s=10.0)
        put_aside(models)
        write_run(trained_s=20.0)
        put_aside(models)
        kept = [models / EARLIER / name / "best.pt" for name in (PLACE, f"{PLACE}-2")]
        assert [load_checkpoint(path).trained_s for path in kept] == [10.0, 20.0]

    def test_a_run_that_learnt_nothing_yet_is_not_kept(self, write_run):
        models = write_run()
        start = dataclasses.replace(load_checkpoint(models / "last.pt"), epoch=0, batch=0)
        for name in ("best.pt", "previous.pt"):
            (models / name).unlink()
        save_checkpoint(models / "last.pt", start)
        put_aside(models)
        assert names(models) == []

    def test_of_too_many_those_that_took_the_least_to_train_give_way_and_are_named(
        self, write_run, caplog
    ):
        caplog.set_level(logging.WARNING)
        for number in range(MOST):
            put_aside(write_run(f"{number:064x}"[::-1], trained_s=100.0 - number))
        models = write_run(KEY, trained_s=1.0)  # of all the shortest, and the one just put aside
        put_aside(models)
        assert names(models / EARLIER) == sorted(
            [PLACE, *(f"{number:064x}"[::-1][:12] for number in range(MOST - 1))]
        )
        (line,) = caplog.messages
        assert f"deleting {models / EARLIER / f'{MOST - 1:064x}'[::-1][:12]}" in line

    def test_a_model_that_cannot_be_read_never_gives_way_to_other_runs(self, write_run, tmp_path):
        models = tmp_path / "models"
        models.mkdir()
        (models / "best.pt").write_bytes(b"of a newer version")
        for number in range(MOST + 1):
            put_aside(models)
            write_run(f"{number:064x}"[::-1])
        put_aside(models)
        assert len(names(models / EARLIER)) == MOST + 1
        (place,) = (models / EARLIER).glob("unread-*")
        assert (place / "best.pt").read_bytes() == b"of a newer version"

    def test_whatever_is_left_by_a_crash_nothing_is_lost_and_the_run_goes_on(
        self, write_run, start, tmp_path
    ):
        whole = write_run()
        best, last = (load_checkpoint(whole / name) for name in ("best.pt", "last.pt"))
        for gone in range(4):  # the files that a crash after the links had already removed
            models = tmp_path / f"crashed-{gone}"
            shutil.copytree(whole, models)
            put_aside(models)
            for name in ("best.pt", "last.pt", "previous.pt")[: 3 - gone]:
                shutil.copy(whole / name, models / name)
            put_aside(models)
            assert names(models / EARLIER) == [PLACE]
            assert bring_back(models, start()).epoch == 2
            assert_same(vars(load_checkpoint(models / "best.pt")), vars(best))
            assert_same(vars(load_checkpoint(models / "last.pt")), vars(last))


@pytest.fixture
def start(trained):
    """A run with the same parameters and data at its beginning."""

    def make(key=KEY):
        return dataclasses.replace(trained.last, run_key=key, epoch=0)

    return make


class TestBringBack:
    def test_a_run_takes_the_place_of_another_that_is_put_aside(self, write_run, start):
        models = write_run()
        before = {name: (models / name).read_bytes() for name in ("best.pt", "last.pt")}
        put_aside(models)
        write_run("f" * 64)
        assert bring_back(models, start()).run_key == KEY
        assert {name: (models / name).read_bytes() for name in before} == before
        assert names(models / EARLIER) == ["f" * 12]

    def test_of_two_copies_of_a_run_the_one_that_got_further_comes_back(self, write_run, start):
        models = write_run()
        last = load_checkpoint(models / "last.pt")
        earlier = dataclasses.replace(last, epoch=1, history=last.history[:1])
        save_checkpoint(models / "last.pt", earlier)
        put_aside(models)
        write_run()  # as after a crash: it went on beside the copy put aside
        put_aside(models)
        write_run("f" * 64)
        assert bring_back(models, start()).epoch == 2

    def test_a_run_that_cannot_go_on_stays_where_it_was_put(self, write_run, start):
        models = write_run()
        last = load_checkpoint(models / "last.pt")
        save_checkpoint(models / "last.pt", dataclasses.replace(last, optimizer={}))
        put_aside(models)
        assert bring_back(models, start()) is None
        assert names(models / EARLIER) == [PLACE]

    def test_to_ask_for_a_run_that_is_not_there_changes_nothing(self, write_run, start):
        models = write_run()
        put_aside(models)
        write_run("f" * 64)
        before = all_files(models)
        assert bring_back(models, start("e" * 64)) is None
        assert all_files(models) == before


class TestTraining:
    def test_a_model_outlives_a_run_with_other_parameters_and_comes_back_with_its_own(
        self, copied, trained, caplog
    ):
        caplog.set_level(logging.INFO)
        place = copied.models / EARLIER / trained.last.run_key[:12]
        before = {name: (trained.models / name).read_bytes() for name in ("best.pt", "last.pt")}
        assert copied.train(epochs=1).exit_code == 0
        assert copied.last.train["epochs"] == 1
        assert {name: (place / name).read_bytes() for name in before} == before
        assert any(f"are kept in {place}" in line for line in caplog.messages)
        ended = copied.train("--resume")
        assert ended.exit_code == 0
        assert {name: (copied.models / name).read_bytes() for name in before} == before
        (other,) = (copied.models / EARLIER).iterdir()
        assert load_checkpoint(other / "last.pt").train["epochs"] == 1

    def test_a_second_training_in_the_same_folder_is_refused_by_name(self, copied):
        before = all_files(copied.models)
        with only_writer(copied.models, ModelError("here", "busy", "wait")):
            message = copied.refused(epochs=1)
        assert f"{copied.models}: another training is writing to this folder" in message
        assert all_files(copied.models) == before
