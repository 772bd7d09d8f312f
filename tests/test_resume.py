"""Stopped, killed, damaged: how a training run goes on, and what its checkpoints hold."""

import dataclasses
import itertools
import json
import logging
import random
import shutil
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import ModelError
from cache.manifest import read_manifest
from pipeline.params import read_params
from pipeline.version import code_version
from project import Project, all_files, assert_same, learning_curves
from stages.train.augment.params import AugmentationParams
from stages.train.checkpoints.checkpoint import (
    CHECKPOINT_VERSION,
    OLDEST_VERSION,
    load_checkpoint,
    save_checkpoint,
)
from stages.train.checkpoints.resume import resumed, run_key
from stages.train.loop import seed_generators
from stages.train.params import TrainParams
from stages.train.run import Places, Process, run
from stages.train.split import Split
from stages.train.stop import Stop, Stopped
from tiny import ball_case, one_thread, python, write_store

CPU = torch.device("cpu")
PATIENCE_S = 120.0
FLIPS = {"flip": {"probability_zyx": [0.5, 0.5, 0.5]}}
# all that a checkpoint has to carry, and a save after every step
HARD = {
    "epochs": 3,
    "steps_per_epoch": 4,
    "accumulate": 2,
    "clip_norm": 0.5,
    "ema": 0.9,
    "augmentation": dict.fromkeys(AugmentationParams.model_fields) | FLIPS,
    "validation_share": 0.3,
    "save_minutes": 1e-6,
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    """A model, the bytes of its file, and where to write damaged ones."""
    whole = trained.models / "best.pt"
    return load_checkpoint(whole), whole.read_bytes(), tmp_path_factory.mktemp("d") / "a.pt"


@pytest.fixture
def twins(cases, tmp_path):
    """Two projects to be trained alike."""
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
    return [Project(folder, cases) for folder in folders]


def train_until_killed(project, saves, wait_s, **changes):
    """Train in a process that is killed some time after so many writes of ``last.pt``.

    Returns:
        Whether it had come to its end before.
    """
    last, deadline = project.models / "last.pt", time.monotonic() + PATIENCE_S
    seen = _identity(last)
    arguments = project.arguments(**changes)
    process = python("-m", "pipeline.train", *arguments, cwd=project.root, wait=False)
    try:
        while saves and process.poll() is None and time.monotonic() < deadline:
            before, seen = seen, _identity(last)
            saves -= seen != before
            time.sleep(0.001)
        time.sleep(wait_s)
    finally:
        process.kill()
    return process.wait() == 0


def _identity(path):
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def stop_after_a_step(project, **changes):
    """Train one step more in this process, since somebody asked to stop; gives what it says."""
    project.arguments(**changes)
    params = read_params(project.root / "params.yaml")
    split_file = params.data.split_file
    stop = Stop()
    stop.ask("SIGTERM")
    with pytest.raises(Stopped) as caught:
        run(
            Places(project.cases, project.models, project.curves),
            params.train,
            seed=params.seed,
            split_file=None if split_file is None else Path(split_file),
            process=Process(CPU, stop=stop, code=code_version()),
        )
    return str(caught.value)


def assert_same_run(one, other):
    """The same checkpoints to the last bit, and the same curves."""
    for name in ("last.pt", "best.pt"):
        assert_same(*(vars(load_checkpoint(p.models / name)) for p in (one, other)))
    assert learning_curves(one) == learning_curves(other)


def damage(path):
    path.write_bytes(path.read_bytes()[:-1000])


class TestResumingEqualsNeverStopping:
    @pytest.mark.slow
    def test_after_kills_at_any_moment(self, twins):
        killed, never = twins
        draw = random.Random(2026)
        for _ in range(2):
            train_until_killed(killed, draw.randint(1, 4), draw.uniform(0, 0.03), **HARD)
            assert killed.last.epoch < HARD["epochs"]
        assert killed.train(**HARD).exit_code == 0
        assert never.train(**HARD).exit_code == 0
        assert_same_run(killed, never)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "changes",
        [
            {"optimizer": "sgd", "ema": None},
            {"optimizer": "adamw", "weight_decay": 0.01, "schedule": "poly", "warmup_steps": 3},
            {"optimizer": "adam", "patch_zyx": None, "hu_window": None, "batch_size": 1},
            {"optimizer": "sgd", "steps_per_epoch": None, "validate_every": 2},
        ],
        ids=["sgd", "adamw", "adam, whole volumes", "sgd, odd last group"],
    )
    @pytest.mark.parametrize("seed", [1, 2])
    def test_after_kills_until_the_end(self, twins, changes, seed):
        killed, never = twins
        changes = HARD | changes
        draw = random.Random(seed)
        while not train_until_killed(killed, draw.randint(1, 5), draw.uniform(0, 0.1), **changes):
            pass
        assert never.train(**changes).exit_code == 0
        assert_same_run(killed, never)

    @pytest.mark.parametrize("optimizer", ["adam", pytest.param("sgd", marks=pytest.mark.slow)])
    def test_after_stops_in_the_middle_of_an_epoch(self, twins, optimizer):
        stopped, never = twins
        changes = HARD | {"optimizer": optimizer, "epochs": 1}
        for batches in (2, 4):
            said = stop_after_a_step(stopped, **changes)
            assert f"after epoch 0 and {batches} of 8 batches" in said
            assert (stopped.last.epoch, stopped.last.batch) == (0, batches)
            assert stopped.last.tally["patches"] == 2 * batches
        assert stopped.train(**changes).exit_code == 0
        assert never.train(**changes).exit_code == 0
        (row,) = stopped.last.history
        assert_same(row, never.last.history[0])
        assert_same_run(stopped, never)

    def test_the_clock_counts_all_restarts(self, project):
        stop_after_a_step(project, epochs=1)
        last = project.last
        assert last.trained_s > 0
        hours_ago = dataclasses.replace(last, trained_s=7200.0)
        save_checkpoint(project.models / "last.pt", hours_ago)
        stop_after_a_step(project, epochs=1)
        assert 7200 < project.last.trained_s < 7200 + PATIENCE_S
        project.train(epochs=1)
        assert project.last.history[0]["time/minutes"] > 120


class TestGoingOn:
    def test_a_resumed_run_says_after_which_epoch_it_goes_on(self, copied, caplog):
        caplog.set_level(logging.INFO)
        copied.train()
        assert caplog.messages == ["going on after epoch 2"]

    def test_a_resumed_run_says_after_which_batch_it_goes_on(self, project, caplog):
        caplog.set_level(logging.INFO)
        stop_after_a_step(project)
        stop_after_a_step(project)
        assert "going on after epoch 0 and 1 batches" in caplog.messages

    def test_a_finished_run_is_not_trained_again(self, copied):
        names = ("best.pt", "last.pt")
        before = [_identity(copied.models / name) for name in names]
        ended = copied.train("--resume")
        assert ended.exit_code == 0
        assert ended.output.startswith("2 epochs; best validation Dice ")
        assert [_identity(copied.models / name) for name in names] == before

    def test_lost_curves_are_written_anew_from_the_checkpoint(self, copied, trained):
        shutil.rmtree(copied.curves)
        copied.train()
        assert learning_curves(copied) == learning_curves(trained)

    def test_the_same_split_from_a_file_is_the_same_run(self, copied, caplog):
        caplog.set_level(logging.INFO)
        shutil.copy(copied.models / "split.json", copied.root / "mine.json")
        copied.train(split_file=copied.root / "mine.json")
        assert caplog.messages == ["going on after epoch 2"]

    def test_parameters_that_do_not_change_the_model_go_on(self, copied, caplog):
        caplog.set_level(logging.INFO)
        copied.train("--resume", save_minutes=1.0, keep_above_iou=0.9, residency="host")
        assert caplog.messages == ["going on after epoch 2"]

    @pytest.mark.parametrize(
        ("name", "value", "is_the_same"),
        [
            ("save_minutes", 1.0, True),
            ("trackers", ["tensorboard"], True),
            ("cross_validate", [0, 1], True),
            ("keep_above_iou", 0.5, True),
            ("residency", "disk", True),
            ("ema", 0.9, False),
            ("epochs", 3, False),
            ("fold", 1, False),
        ],
    )
    def test_the_run_key_changes_with_all_that_makes_another_run(
        self, trained, name, value, is_the_same
    ):
        last, manifest = trained.last, read_manifest(trained.cases)
        params = TrainParams(**last.train).model_copy(update={"folds": 2})
        keys = [
            run_key(one, last.seed, manifest, Split(**last.split), {})
            for one in (params, params.model_copy(update={name: value}))
        ]
        assert (keys[0] == keys[1]) is is_the_same


class TestAnotherRun:
    def test_a_run_with_other_parameters_starts_afresh_with_one_line(self, copied, project, caplog):
        caplog.set_level(logging.INFO)
        changes = {"lr": 0.001, "epochs": 1}
        copied.train(**changes)
        fresh = [line for line in caplog.messages if "starting afresh" in line]
        assert fresh == [
            f"{copied.models / 'last.pt'} is of another run"
            " (train.epochs was 2, is 1, train.lr was 0.003, is 0.001); starting afresh"
        ]
        project.train(**changes)
        assert_same_run(copied, project)

    def test_many_other_parameters_take_one_short_line(self, copied, caplog):
        caplog.set_level(logging.INFO)
        changes = {"lr": 0.001, "epochs": 1, "clip_norm": 0.5, "ema": 0.9, "weight_decay": 0.25}
        copied.train(**changes, augmentation=HARD["augmentation"])
        [line] = [line for line in caplog.messages if "starting afresh" in line]
        assert "more parameters differ" in line
        assert len(line.removeprefix(str(copied.models))) < 300

    def test_another_seed_starts_afresh_even_with_the_same_split(self, copied, caplog):
        caplog.set_level(logging.INFO)
        shutil.copy(copied.models / "split.json", copied.root / "mine.json")
        stop_after_a_step(copied, seed=2027, split_file=copied.root / "mine.json")
        assert "(seed was 2026, is 2027); starting afresh" in caplog.text

    def test_another_split_starts_afresh(self, copied, caplog):
        caplog.set_level(logging.INFO)
        mine = {"train": ["case-0", "case-1"], "validation": ["case-2"], "test": []}
        (copied.root / "mine.json").write_text(json.dumps(mine), encoding="utf-8")
        stop_after_a_step(copied, split_file=copied.root / "mine.json")
        assert "(the split differs); starting afresh" in caplog.text

    def test_a_run_on_other_data_of_the_same_cases_starts_afresh(self, copied, tmp_path, caplog):
        caplog.set_level(logging.INFO)
        others = [ball_case(f"case-{index}", seed=index + 100) for index in range(8)]
        stop_after_a_step(Project(copied.root, write_store(tmp_path / "others", others)))
        assert "the prepared data differ" in caplog.text

    def test_curves_that_the_new_run_has_not_are_taken_away(self, copied):
        copied.train(validation_share=0, epochs=1)
        assert sorted(learning_curves(copied)) == [
            f"plots/metrics/train/{name}.tsv"
            for name in ("accuracy", "gradient_norm", "iou", "loss", "lr")
        ]

    def test_what_another_run_left_goes_with_the_first_save(self, copied):
        kept = copied.models / "1_trainIOU_0.900_testIOU_0.800.pth"
        shutil.copy(copied.models / "best.pt", kept)
        assert (copied.models / "previous.pt").is_file()
        stop_after_a_step(copied, lr=0.001)
        assert copied.last.train["lr"] == 0.001
        assert not kept.exists()

    def test_a_file_of_the_notebooks_own_is_left_alone(self, copied):
        theirs = copied.models / "12_trainIOU_0.950_testIOU_0.910.pth"
        torch.save({"conv.weight": torch.zeros(3)}, theirs)
        stop_after_a_step(copied, lr=0.001)
        assert theirs.is_file()
        assert not (copied.models / "previous.pt").exists()

    def test_what_another_run_left_survives_a_start_that_fails(self, copied):
        (copied.models / "1_trainIOU_0.900_testIOU_0.800.pth").touch()
        before = all_files(copied.models)
        assert "the loss became nan" in copied.refused(lr=1e30, schedule="constant")
        assert all_files(copied.models) == before

    def test_resume_refuses_it_by_name_and_changes_nothing(self, copied):
        before = all_files(copied.models) | all_files(copied.curves)
        message = copied.refused("--resume", seed=2027, lr=0.001, hu_window=None)
        assert str(copied.models / "last.pt") in message
        assert "train.lr was 0.003, is 0.001" in message
        assert "train.hu_window was [-160.0, 240.0], is None" in message
        assert all_files(copied.models) | all_files(copied.curves) == before

    def test_resume_refuses_to_start_and_writes_nothing(self, project):
        assert "there is nothing to resume" in project.refused("--resume")
        assert not project.models.exists()


class TestDamage:
    def test_a_truncated_last_is_named_and_the_one_before_it_taken(self, copied, trained, caplog):
        last, previous = (copied.models / name for name in ("last.pt", "previous.pt"))
        damage(last)
        assert load_checkpoint(previous).epoch == 1
        assert copied.train().exit_code == 0
        (warning,) = [one for one in caplog.messages if "the one before it" in one]
        assert warning.startswith(f"{last}: is damaged")
        assert f"going on from {previous}" in warning
        assert_same_run(copied, trained)

    def test_resume_takes_the_one_before_a_damaged_last_as_well(self, copied):
        start = dataclasses.replace(copied.last, epoch=0)
        damage(copied.models / "last.pt")
        assert resumed(copied.models, start, resume=True).epoch == 1

    def test_a_crash_between_the_two_renames_of_a_save_is_gone_on_from(self, copied, trained):
        (copied.models / "last.pt").unlink()
        assert copied.train("--resume").exit_code == 0
        assert_same_run(copied, trained)

    def test_a_run_whose_two_checkpoints_are_damaged_starts_afresh_with_a_warning(
        self, copied, caplog
    ):
        for name in ("last.pt", "previous.pt"):
            damage(copied.models / name)
        stop_after_a_step(copied)
        (warning,) = [one for one in caplog.messages if "starting afresh" in one]
        assert warning.startswith(f"{copied.models / 'last.pt'}: is damaged")
        assert (copied.last.epoch, copied.last.batch) == (0, 1)

    def test_resume_refuses_two_damaged_ones_and_changes_nothing(self, copied):
        for name in ("last.pt", "previous.pt"):
            damage(copied.models / name)
        before = all_files(copied.models)
        assert f"{copied.models / 'last.pt'}: is damaged" in copied.refused("--resume")
        assert all_files(copied.models) == before

    def test_the_one_before_it_is_not_taken_from_another_run(self, copied, caplog):
        previous = copied.models / "previous.pt"
        another = dataclasses.replace(load_checkpoint(previous), run_key="another")
        save_checkpoint(previous, another)
        damage(copied.models / "last.pt")
        assert "is damaged" in copied.refused("--resume")
        stop_after_a_step(copied)
        assert any(one.endswith("; starting afresh") for one in caplog.messages)
        assert (copied.last.epoch, copied.last.batch) == (0, 1)

    @pytest.mark.parametrize("spoil", [lambda path: path.unlink(), damage], ids=["lost", "damaged"])
    def test_a_finished_run_replaces_its_best_by_the_last(self, copied, trained, caplog, spoil):
        best = copied.models / "best.pt"
        spoil(best)
        assert copied.train().exit_code == 0
        (warning,) = [one for one in caplog.messages if "best.pt" in one]
        assert "the present weights take its place" in warning
        assert_same(load_checkpoint(best).model, trained.last.model)
        assert_same(vars(copied.last), vars(trained.last))

    def test_without_its_best_a_run_goes_on_until_there_is_a_new_one(self, copied, trained):
        best = copied.models / "best.pt"
        best.unlink()
        (copied.models / "previous.pt").replace(copied.models / "last.pt")
        stop_after_a_step(copied)
        assert copied.last.epoch == load_checkpoint(best).epoch == 1
        assert copied.train().exit_code == 0
        assert_same(copied.last.model, trained.last.model)
        assert load_checkpoint(best).epoch == 2

    def test_what_stands_in_for_the_best_gives_way_even_after_a_kill(self, copied):
        (copied.models / "best.pt").unlink()
        start = dataclasses.replace(copied.last, epoch=0, best_dice=None)
        # killed after the first time, the run finds last.pt as it was
        found = [resumed(copied.models, start, resume=True) for _ in range(2)]
        assert [one.best_dice for one in found] == [None, None]


class TestCheckpoints:
    @pytest.fixture
    def checkpoint(self, trained):
        return trained.last

    def test_a_checkpoint_carries_what_the_model_came_from(self, trained, checkpoint):
        manifest = read_manifest(trained.cases)
        split = json.loads((trained.models / "split.json").read_text(encoding="utf-8"))
        assert checkpoint.train == read_params(trained.root / "params.yaml").train.model_dump(
            mode="json"
        )
        assert checkpoint.preprocess == manifest.params
        assert checkpoint.data_digest == manifest.digest
        split.pop("sha256")  # of the file alone
        assert checkpoint.split == split
        assert checkpoint.began_from == {}
        assert checkpoint.code["torch"] == torch.__version__
        assert [(one["epoch"], one["case"]) for one in checkpoint.validations] == [
            (epoch, case) for epoch in (1, 2) for case in split["validation"]
        ]

    def test_what_was_saved_is_loaded(self, checkpoint, tmp_path):
        save_checkpoint(tmp_path / "a.pt", checkpoint)
        assert_same(vars(load_checkpoint(tmp_path / "a.pt")), vars(checkpoint))

    def test_the_one_before_is_kept_where_that_is_wanted(self, checkpoint, tmp_path):
        for epoch in (1, 2, 3):
            one = dataclasses.replace(checkpoint, epoch=epoch)
            save_checkpoint(tmp_path / "a.pt", one, previous=tmp_path / "b.pt")
        epochs = {name: content.epoch for name, content in _checkpoints(tmp_path)}
        assert epochs == {"a.pt": 3, "b.pt": 2}

    def test_a_save_that_fails_leaves_the_older_checkpoints(self, checkpoint, tmp_path):
        path, previous = tmp_path / "a.pt", tmp_path / "b.pt"
        for _ in range(2):
            save_checkpoint(path, checkpoint, previous=previous)
        before = all_files(tmp_path)
        unsaveable = dataclasses.replace(checkpoint, history=[{"loss": lambda: 0}])
        with pytest.raises(Exception, match="pickle"):
            save_checkpoint(path, unsaveable, previous=previous)
        assert all_files(tmp_path) == before

    def test_a_full_disk_is_told_and_leaves_the_older_checkpoint(self, checkpoint, tmp_path):
        resource = pytest.importorskip("resource", reason="a limit plays the full disk")
        path = tmp_path / "a.pt"
        save_checkpoint(path, checkpoint)
        before = all_files(tmp_path)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, hard))
        try:
            with pytest.raises(ModelError, match="cannot be written") as caught:
                save_checkpoint(path, checkpoint, previous=tmp_path / "b.pt")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert caught.value.where == path
        assert all_files(tmp_path) == before

    def test_a_newer_version_is_refused_by_name(self, checkpoint, tmp_path):
        torch.save({"version": 99, "network": {}}, tmp_path / "a.pt")
        fact = f"has version 99; this liver3d reads versions 3 to {CHECKPOINT_VERSION}"
        with pytest.raises(ModelError, match=fact) as caught:
            load_checkpoint(tmp_path / "a.pt")
        assert caught.value.fix == "update liver3d"

    def test_an_older_version_is_to_be_trained_again(self, tmp_path):
        torch.save({"version": OLDEST_VERSION - 1, "model": {}}, tmp_path / "a.pt")
        with pytest.raises(ModelError, match=f"has version {OLDEST_VERSION - 1}") as caught:
            load_checkpoint(tmp_path / "a.pt")
        assert caught.value.fix == "run python -m pipeline.train again"

    @pytest.mark.parametrize(
        "foreign",
        [
            {"conv.weight": torch.zeros(3)},
            {"version": CHECKPOINT_VERSION, "model": {}},
            [1, 2],
            torch.zeros(3),
        ],
        ids=["weights alone", "other fields", "list", "tensor"],
    )
    def test_a_file_of_other_software_is_no_model_of_ours(self, tmp_path, foreign):
        torch.save(foreign, tmp_path / "a.pt")
        with pytest.raises(ModelError, match="no model of liver3d"):
            load_checkpoint(tmp_path / "a.pt")

    @settings(deadline=None, max_examples=50)
    @given(data=st.data())
    def test_a_damaged_file_is_a_model_error_or_the_whole_model(self, saved, data):
        model, content, path = saved
        damaged = bytearray(content)
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
            damaged[place] = data.draw(st.integers(0, 255))
        end = data.draw(st.just(len(content)) | st.integers(0, len(content)))
        path.write_bytes(damaged[:end])
        try:
            loaded = load_checkpoint(path)
        except ModelError:  # any other error would be a traceback
            assert damaged[:end] != content
        else:
            assert_same(vars(loaded), vars(model))


def _checkpoints(folder):
    return [(path.name, load_checkpoint(path)) for path in sorted(folder.iterdir())]


class TestGenerators:
    """What a network with dropout would draw, whatever was drawn before and wherever it began."""

    def test_generators_draw_the_same_at_the_same_place_of_a_run(self):
        dropout, ones = torch.nn.Dropout(), torch.ones(64)
        drawn = []
        for before in (0, 5):
            with torch.random.fork_rng([]):
                torch.rand(before)
                seed_generators(2026, 3, 7, 0)
                drawn.append(dropout(ones))
        assert torch.equal(*drawn)

    def test_generators_draw_something_else_at_every_other_place_of_a_run(self):
        with torch.random.fork_rng([]):
            drawn = set()
            for place in itertools.product(range(3), repeat=4):  # seed, epoch, batch, rank
                seed_generators(*place)
                drawn.add(torch.rand(()).item())
        assert len(drawn) == 3**4
