"""``pipeline.train`` on a tiny store: what it writes, how it goes on, what it refuses."""

import contextlib
import dataclasses
import json
import logging
import math
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import psutil
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from cache.errors import ModelError
from cache.grid import Box
from cache.manifest import read_manifest, write_manifest
from cache.reader import CaseStore
from pipeline.train import main
from stages.evaluate.overlap import overlap
from stages.evaluate.window import liver_probability
from stages.train.augment.params import AugmentationParams
from stages.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from stages.train.curves import write_curves
from stages.train.device import network_on_hu
from stages.train.intensity import to_network_input
from stages.train.loader.meter import Meter
from stages.train.loop import Trainer, train_epoch, validate
from stages.train.losses import make_loss
from stages.train.memory import free_bytes
from stages.train.params import TrainParams
from stages.train.sample import Batch, Sample
from stages.train.split import read_split
from tiny import (
    TRAIN,
    ball_case,
    one_thread,
    python,
    without_liver,
    write_balls,
    write_params,
    write_store,
)

CPU = torch.device("cpu")
LOADER = ["bytes_per_s", "computing", "copying", "samples_per_s", "waiting"]
CURVES = [
    *(f"loader/{name}" for name in LOADER),
    *("train/accuracy", "train/iou", "train/loss"),
    *("validation/dice", "validation/iou"),
]


@dataclasses.dataclass
class Project:
    """A folder with a store, in which training is run by its command."""

    root: Path
    cases: Path

    @property
    def models(self):
        return self.root / "models"

    @property
    def curves(self):
        return self.root / "training"

    def arguments(self, *flags, **changes):
        """The command's arguments; the parameter file is written with these values changed."""
        params = write_params(self.root / "params.yaml", **changes)
        places = ("--cases", self.cases, "--out", self.models, "--curves", self.curves)
        words = (*places, "--params", params, "--device", "cpu", *flags)
        return [str(word) for word in words]

    def train(self, *flags, **changes):
        """Train in this process; gives click's result."""
        arguments = self.arguments(*flags, **changes)
        return CliRunner().invoke(main, arguments, catch_exceptions=False)

    def refused(self, *flags, **changes):
        """The message of a run that must end with exit code 2."""
        ended = self.train(*flags, **changes)
        assert ended.exit_code == 2
        assert ended.output.startswith("error: ")
        assert "Traceback" not in ended.output
        return ended.output

    @property
    def last(self):
        return load_checkpoint(self.models / "last.pt")

    def tsv(self, name):
        path = self.curves / "plots" / "metrics" / f"{name}.tsv"
        return path.read_text(encoding="utf-8").splitlines()


def all_files(folder):
    """The bytes of every file below a folder, by its path from there."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def learning_curves(project):
    """The curves without the loader's, which tell what a clock measured."""
    return {
        path: content
        for path, content in all_files(project.curves).items()
        if path.startswith("plots/metrics/") and "/loader/" not in path
    }


def assert_same(one, other):
    """Equal to the last bit, at whatever depth tensors stand; what a clock measured aside."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in [key for key in one if not str(key).startswith("loader/")]:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        for ours, theirs in zip(one, other, strict=True):
            assert_same(ours, theirs)
    else:
        assert one == other


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """A store of eight cases; no test changes it."""
    return write_balls(tmp_path_factory.mktemp("store") / "cases")


@pytest.fixture
def project(cases, tmp_path):
    return Project(tmp_path, cases)


@pytest.fixture(scope="module")
def trained(cases, tmp_path_factory):
    """A project trained for two epochs; no test changes it."""
    project = Project(tmp_path_factory.mktemp("trained"), cases)
    ended = project.train()
    assert ended.exit_code == 0
    return project


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the trained project, to be changed."""
    shutil.copytree(trained.root, tmp_path / "copy")
    return Project(tmp_path / "copy", trained.cases)


class TestWhatIsWritten:
    def test_two_checkpoints_the_split_and_the_curves_and_nothing_else(self, trained):
        assert sorted(all_files(trained.models)) == ["best.pt", "last.pt", "split.json"]
        expected = ["metrics.json", *(f"plots/metrics/{name}.tsv" for name in CURVES)]
        assert sorted(all_files(trained.curves)) == sorted(expected)

    def test_a_curve_has_dvclives_header_and_a_line_per_epoch(self, trained):
        header, *lines = trained.tsv("train/loss")
        assert header == "step\tloss"
        assert [line.split("\t")[0] for line in lines] == ["1", "2"]
        assert all(float(line.split("\t")[1]) > 0 for line in lines)

    def test_the_latest_values_stand_in_metrics_json(self, trained):
        metrics = json.loads((trained.curves / "metrics.json").read_text(encoding="utf-8"))
        assert metrics["step"] == 2
        assert sorted(metrics) == ["loader", "step", "train", "validation"]
        last = trained.tsv("train/loss")[-1].split("\t")[1]
        assert metrics["train"]["loss"] == pytest.approx(float(last), rel=1e-5)

    def test_a_checkpoint_loads_without_running_anything_in_it(self, trained):
        for name in ("best.pt", "last.pt"):
            fields = torch.load(trained.models / name, weights_only=True)
            assert fields["train"]["n_channels"] == 8
            assert fields["preprocess"]["grid"] == "spacing"

    def test_only_last_carries_the_optimizer(self, trained):
        assert load_checkpoint(trained.models / "best.pt").optimizer == {}
        assert trained.last.optimizer["state"]

    def test_the_split_is_by_the_shares_and_covers_every_patient(self, trained):
        split = read_split(trained.models / "split.json", [f"case-{n}" for n in range(8)])
        assert (len(split.train), len(split.validation), len(split.test)) == (5, 1, 2)
        assert sorted(split.train + split.validation + split.test) == [
            f"case-{n}" for n in range(8)
        ]

    def test_best_is_the_epoch_with_the_highest_validation_dice(self, project):
        project.train(epochs=4, lr=0.01)
        dice = [row["validation/dice"] for row in project.last.history]
        best = load_checkpoint(project.models / "best.pt")
        assert best.epoch == max(range(4), key=lambda epoch: (dice[epoch], epoch)) + 1
        assert best.best_dice == project.last.best_dice == max(dice)

    def test_without_validation_the_last_epoch_is_the_best(self, project):
        ended = project.train(validation_share=0, epochs=1)
        assert "best validation Dice none" in ended.output
        assert_same(load_checkpoint(project.models / "best.pt").model, project.last.model)

    def test_validation_comes_every_so_many_epochs_and_after_the_last(self, project):
        project.train(validate_every=2, epochs=3)
        assert [line.split("\t")[0] for line in project.tsv("validation/dice")] == [
            "step",
            "2",
            "3",
        ]

    def test_a_split_file_is_followed(self, project):
        mine = {"train": ["case-3"], "validation": ["case-0"], "test": ["case-1", "case-2"]}
        path = project.root / "mine.json"
        path.write_text(json.dumps(mine), encoding="utf-8")
        assert project.train(split_file=path, epochs=1).exit_code == 0
        assert json.loads((project.models / "split.json").read_text(encoding="utf-8")) == mine

    def test_names_that_split_file_and_store_do_not_share_are_told(self, project, caplog):
        mine = {"train": ["case-3", "csae-4"], "validation": ["case-0"], "test": ["case-1"]}
        path = project.root / "mine.json"
        path.write_text(json.dumps(mine), encoding="utf-8")
        project.train(split_file=path, epochs=1)
        (absent,) = [one for one in caplog.messages if "the store has not" in one]
        (left_out,) = [one for one in caplog.messages if "leaves patients of the store out" in one]
        assert absent.endswith(": csae-4")
        assert "case-4" in left_out

    def test_the_cosine_ends_at_zero_and_the_constant_where_it_began(self, trained, project):
        project.train(schedule="constant", epochs=1)
        rates = [one.last.optimizer["param_groups"][0]["lr"] for one in (trained, project)]
        assert rates == pytest.approx([0, 0.003])

    def test_the_loss_falls(self, project):
        project.train(epochs=5, lr=0.01, validation_share=0)
        losses = [row["train/loss"] for row in project.last.history]
        assert losses[-1] < 0.8 * losses[0]


class TestReproducible:
    def test_the_same_seed_gives_the_same_bits_twice(self, trained, project):
        torch.manual_seed(99)  # which is not the seed that is meant
        project.train()
        assert_same(vars(project.last), vars(trained.last))
        assert learning_curves(project) == learning_curves(trained)

    def test_another_seed_gives_other_weights(self, trained, project):
        project.train(seed=2027, epochs=1)
        ours, theirs = project.last.model, trained.last.model
        assert not torch.equal(ours["conv.layers.0.weight"], theirs["conv.layers.0.weight"])

    def test_the_format_of_the_store_does_not_change_the_model(self, trained, tmp_path):
        hdf5 = Project(tmp_path, write_balls(tmp_path / "cases", format="hdf5"))
        hdf5.train()
        assert_same(hdf5.last.model, trained.last.model)

    def test_other_peoples_random_numbers_are_neither_used_nor_changed(self, project):
        torch.manual_seed(5)
        before = torch.random.get_rng_state()
        project.train(epochs=1)
        assert torch.equal(torch.random.get_rng_state(), before)


class TestGoingOn:
    def test_stopped_and_resumed_equals_never_stopped(self, cases, tmp_path):
        folders = [tmp_path / name for name in ("stopped", "never")]
        for folder in folders:
            folder.mkdir()
        stopped, never = (Project(folder, cases) for folder in folders)
        changes = {"epochs": 8, "validate_every": 2}
        arguments = stopped.arguments(**changes)
        killed = python("-m", "pipeline.train", *arguments, cwd=stopped.root, wait=False)
        try:
            while killed.poll() is None and not (stopped.models / "last.pt").is_file():
                time.sleep(0.002)
        finally:
            killed.kill()
        killed.wait()
        assert killed.returncode != 0
        assert 1 <= stopped.last.epoch < 8
        assert stopped.train(**changes).exit_code == 0
        assert never.train(**changes).exit_code == 0
        assert_same(vars(stopped.last), vars(never.last))
        best = [load_checkpoint(project.models / "best.pt") for project in (stopped, never)]
        assert_same(*map(vars, best))
        assert learning_curves(stopped) == learning_curves(never)

    def test_it_says_after_which_epoch_it_goes_on(self, copied, caplog):
        caplog.set_level(logging.INFO)
        copied.train()
        assert caplog.messages == ["going on after epoch 2"]

    def test_a_finished_run_is_not_trained_again(self, copied):
        before = {
            name: (copied.models / name).stat().st_mtime_ns for name in ("best.pt", "last.pt")
        }
        ended = copied.train("--resume")
        assert ended.exit_code == 0
        assert ended.output.startswith("2 epochs; best validation Dice ")
        after = {name: (copied.models / name).stat().st_mtime_ns for name in ("best.pt", "last.pt")}
        assert after == before

    def test_lost_curves_are_written_anew_from_the_checkpoint(self, copied, trained):
        shutil.rmtree(copied.curves)
        copied.train()
        assert learning_curves(copied) == learning_curves(trained)

    def test_other_parameters_start_afresh_with_one_line(self, copied, project, caplog):
        caplog.set_level(logging.INFO)
        copied.train(lr=0.001)
        fresh = [line for line in caplog.messages if "starting afresh" in line]
        assert fresh == [
            f"{copied.models / 'last.pt'} is of another run"
            " (train.lr was 0.003, is 0.001); starting afresh"
        ]
        project.train(lr=0.001)
        assert_same(vars(copied.last), vars(project.last))

    def test_another_seed_starts_afresh_even_with_the_same_split(self, copied, caplog):
        caplog.set_level(logging.INFO)
        shutil.copy(copied.models / "split.json", copied.root / "mine.json")
        copied.train(seed=2027, split_file=copied.root / "mine.json")
        assert "(seed was 2026, is 2027); starting afresh" in caplog.text

    def test_another_split_starts_afresh(self, copied, caplog):
        caplog.set_level(logging.INFO)
        mine = {"train": ["case-0", "case-1"], "validation": ["case-2"], "test": []}
        (copied.root / "mine.json").write_text(json.dumps(mine), encoding="utf-8")
        copied.train(split_file=copied.root / "mine.json")
        assert "(the split differs); starting afresh" in caplog.text

    def test_the_same_split_from_a_file_is_the_same_run(self, copied, caplog):
        caplog.set_level(logging.INFO)
        shutil.copy(copied.models / "split.json", copied.root / "mine.json")
        copied.train(split_file=copied.root / "mine.json")
        assert caplog.messages == ["going on after epoch 2"]

    def test_other_data_of_the_same_cases_start_afresh(self, copied, tmp_path, caplog):
        caplog.set_level(logging.INFO)
        others = [ball_case(f"case-{index}", seed=index + 100) for index in range(8)]
        Project(copied.root, write_store(tmp_path / "others", others)).train()
        assert "the prepared data differ" in caplog.text

    def test_curves_that_the_new_run_has_not_are_taken_away(self, copied):
        copied.train(validation_share=0)
        assert sorted(learning_curves(copied)) == [
            "plots/metrics/train/accuracy.tsv",
            "plots/metrics/train/iou.tsv",
            "plots/metrics/train/loss.tsv",
        ]

    def test_resume_refuses_other_parameters_by_name_and_changes_nothing(self, copied):
        before = all_files(copied.models) | all_files(copied.curves)
        message = copied.refused("--resume", seed=2027, lr=0.001, hu_window=None)
        assert str(copied.models / "last.pt") in message
        assert "train.lr was 0.003, is 0.001" in message
        assert "train.hu_window was [-160.0, 240.0], is None" in message
        assert all_files(copied.models) | all_files(copied.curves) == before

    def test_resume_refuses_to_start_and_writes_nothing(self, project):
        assert "there is nothing to resume" in project.refused("--resume")
        assert not project.models.exists()

    def test_a_truncated_last_is_named_and_training_starts_afresh(self, copied, trained, caplog):
        path = copied.models / "last.pt"
        path.write_bytes(path.read_bytes()[:-1000])
        assert copied.train().exit_code == 0
        (warning,) = [one for one in caplog.messages if "starting afresh" in one]
        assert f"{path}: is damaged" in warning
        assert_same(vars(copied.last), vars(trained.last))

    def test_a_lost_best_cannot_be_brought_back_by_going_on(self, copied, trained, caplog):
        best = copied.models / "best.pt"
        best.unlink()
        assert copied.train().exit_code == 0
        assert any("best.pt" in one and "starting afresh" in one for one in caplog.messages)
        assert_same(vars(load_checkpoint(best)), vars(load_checkpoint(trained.models / "best.pt")))

    def test_resume_refuses_a_truncated_last(self, copied):
        path = copied.models / "last.pt"
        path.write_bytes(path.read_bytes()[:-1000])
        assert f"{path}: is damaged" in copied.refused("--resume")


class TestCheckpoints:
    @pytest.fixture
    def checkpoint(self, trained):
        return trained.last

    def test_what_was_saved_is_loaded(self, checkpoint, tmp_path):
        save_checkpoint(tmp_path / "a.pt", checkpoint)
        assert_same(vars(load_checkpoint(tmp_path / "a.pt")), vars(checkpoint))

    def test_a_save_that_fails_leaves_the_older_checkpoint(self, checkpoint, tmp_path):
        save_checkpoint(tmp_path / "a.pt", checkpoint)
        before = all_files(tmp_path)
        unsaveable = dataclasses.replace(checkpoint, history=[{"loss": lambda: 0}])
        with pytest.raises(Exception, match="pickle"):
            save_checkpoint(tmp_path / "a.pt", unsaveable)
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
                save_checkpoint(path, checkpoint)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert caught.value.where == path
        assert all_files(tmp_path) == before

    def test_a_newer_version_is_refused_by_name(self, checkpoint, tmp_path):
        torch.save({**vars(checkpoint), "version": 99}, tmp_path / "a.pt")
        with pytest.raises(ModelError, match="has version 99; this liver3d reads version 2"):
            load_checkpoint(tmp_path / "a.pt")

    @pytest.mark.parametrize(
        "foreign",
        [{"conv.weight": torch.zeros(3)}, {"version": 2, "model": {}}, [1, 2], torch.zeros(3)],
        ids=["weights alone", "other fields", "list", "tensor"],
    )
    def test_a_file_of_other_software_is_no_model_of_ours(self, tmp_path, foreign):
        torch.save(foreign, tmp_path / "a.pt")
        with pytest.raises(ModelError, match="no model of liver3d"):
            load_checkpoint(tmp_path / "a.pt")

    @settings(deadline=None, max_examples=50)
    @given(data=st.data())
    def test_damage_of_any_kind_is_a_model_error_or_harmless(self, tmp_path_factory, data):
        path = tmp_path_factory.getbasetemp() / "damaged.pt"
        blank = Checkpoint(
            run_key="k",
            epoch=1,
            best_dice=0.5,
            history=[{"epoch": 1.0}],
            seed=0,
            split={"train": ["a"], "validation": [], "test": []},
            train={},
            preprocess={},
            data_digest="d",
            model={"w": torch.ones(9)},
            optimizer={},
        )
        save_checkpoint(path, blank)
        content = bytearray(path.read_bytes())
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
            content[place] = data.draw(st.integers(0, 255))
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        with contextlib.suppress(ModelError):  # any other error would be a traceback
            load_checkpoint(path)


class TestWhatIsRead:
    def test_test_cases_are_never_read(self, trained, tmp_path):
        project = Project(tmp_path, tmp_path / "cases")
        shutil.copytree(trained.cases, project.cases)
        split = json.loads((trained.models / "split.json").read_text(encoding="utf-8"))
        for case_id in split["test"]:
            shutil.rmtree(project.cases / f"{case_id}.zarr")
        assert project.train().exit_code == 0
        assert_same(vars(project.last), vars(trained.last))

    def test_training_leaves_the_store_as_it_was(self, project):
        before = all_files(project.cases)
        project.train(epochs=1)
        assert all_files(project.cases) == before

    def test_a_damaged_training_case_ends_training_by_name(self, trained, tmp_path):
        project = Project(tmp_path, tmp_path / "cases")
        shutil.copytree(trained.cases, project.cases)
        split = json.loads((trained.models / "split.json").read_text(encoding="utf-8"))
        victim = split["train"][0]
        shutil.rmtree(project.cases / f"{victim}.zarr" / "image")
        assert f"case {victim} is damaged: its image cannot be read" in project.refused()

    def test_a_store_without_a_manifest_is_refused(self, project, tmp_path):
        message = Project(project.root, tmp_path / "nowhere").refused()
        assert "there is no prepared data here" in message


class TestRefusals:
    def test_a_loss_that_is_no_number_names_the_cases(self, project):
        message = project.refused(lr=1e30, hu_window=None, epochs=3)
        assert message.startswith("error: train.lr: the loss became nan on a batch of ")
        assert "case-" in message
        assert "lower train.lr, set train.hu_window, or look at these" in message

    def test_a_diverged_epoch_is_not_saved(self, project):
        project.refused(lr=1e30, hu_window=None, epochs=1)
        assert sorted(all_files(project.models)) == ["split.json"]

    def test_a_patch_that_the_memory_cannot_hold_names_it_and_the_numbers(self, project):
        message = project.refused(patch_zyx=[4096, 4096, 4096])
        # 2 · 4096³ voxels · 8 channels · 75 bytes, and 0.1 GB besides
        assert message.startswith(
            "error: train.patch_zyx: 2 patches of 4096·4096·4096 voxels with 8 channels need"
            " about 82463.5 GB; cpu has "
        )
        assert "GB free" in message
        assert not project.models.exists()

    def test_whole_volumes_count_as_the_largest_one(self, project, tmp_path):
        huge = write_balls(tmp_path / "huge")
        manifest = read_manifest(huge)
        shapes = ((16, 100_000, 16), (100_000, 16, 16))
        cases = {
            case_id: replace(entry, shape_zyx=shapes[index % 2])
            for index, (case_id, entry) in enumerate(manifest.cases.items())
        }
        write_manifest(huge, replace(manifest, cases=cases))
        message = Project(project.root, huge).refused(patch_zyx=None)
        assert "2 patches of 100000·100000·16 voxels" in message

    def test_channels_that_do_not_fill_the_groups_are_refused_with_one_that_does(self, project):
        message = project.refused(n_channels=20)
        assert "train.n_channels: 20 channels cannot be divided into the 8 groups" in message
        assert "a multiple of 8 such as 16" in message

    def test_an_axis_below_16_voxels_is_refused(self, project):
        message = project.refused(patch_zyx=[16, 15, 16])
        assert "train.patch_zyx.1: Input should be greater than or equal to 16" in message

    def test_bf16_is_refused_on_the_cpu_where_its_gradients_are_wrong(self, project):
        message = project.refused(precision="bf16")
        assert message.startswith("error: train.precision: is bf16, in which torch computes some")

    @pytest.mark.parametrize("value", [float("inf"), float("nan")])
    def test_a_window_without_end_is_refused(self, project, value):
        assert "train.hu_window.1" in project.refused(hu_window=[-160, value])

    @pytest.mark.parametrize("device", ["tpu9", "cuda:77", "", "meta", "privateuseone"])
    def test_an_unknown_device_is_refused(self, project, device):
        assert f"--device: {device!r}" in project.refused("--device", device)


class TestShapes:
    @pytest.fixture
    def thin(self, tmp_path):
        """A project whose volumes are thinner than the network's 16 slices, and unequal."""
        shapes = [(10, 24, 28), (12, 20, 18), (7, 16, 33)]
        return Project(tmp_path, write_balls(tmp_path / "cases", shapes_zyx=shapes))

    @pytest.mark.parametrize("patch_zyx", [[16, 16, 16], None], ids=["patches", "whole"])
    def test_volumes_thinner_than_16_slices_train(self, thin, patch_zyx):
        assert thin.train(patch_zyx=patch_zyx, epochs=1).exit_code == 0
        assert np.isfinite(thin.last.history[0]["train/loss"])
        assert 0 <= thin.last.history[0]["validation/dice"] <= 1

    @pytest.mark.parametrize(
        "changes",
        [
            {"upsampling": "transposed"},
            {"loss": "cross_entropy", "schedule": "constant"},
            {"hu_window": None},
            {"precision": "auto"},
            {"patches_per_case": 3, "foreground_share": 1.0, "batch_size": 4},
        ],
        ids=lambda changes: ", ".join(changes),
    )
    def test_every_choice_trains(self, project, changes):
        ended = project.train(epochs=1, **changes)
        assert ended.exit_code == 0, ended.output


class Brightness(torch.nn.Module):
    """A network in miniature: liver is what is above zero, and it is equally sure everywhere."""

    def __init__(self):
        super().__init__()
        self.sureness = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, inputs):
        liver = self.sureness * inputs[:, 0].sign()
        return torch.stack([-liver, liver], dim=1)


class TestEpoch:
    """Worked by hand: a voxel costs log(1 + exp(-4)) if Brightness has it right, 4 more if not."""

    RIGHT = math.log1p(math.exp(-4))
    PARAMS = TrainParams.model_validate({**TRAIN, "hu_window": None, "lr": 1e-12})

    def batch(self, *patches):
        """Patches of four voxels each, as (HU, mask)."""
        volume = torch.tensor([hu for hu, _ in patches], dtype=torch.int16)
        mask = torch.tensor([mask for _, mask in patches], dtype=torch.uint8)
        box = Box((0, 0, 0), (1, 2, 2))
        samples = [Sample(f"case-{index}", box) for index in range(len(patches))]
        return Batch(samples, list(volume.view(-1, 1, 2, 2)), list(mask.view(-1, 1, 2, 2)))

    def epoch(self, *batches):
        network = Brightness()
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-12)
        schedule = LambdaLR(optimizer, lambda _: 1.0)
        loss = make_loss("cross_entropy")
        trainer = Trainer(network, loss, optimizer, schedule, self.PARAMS, CPU)
        return train_epoch(trainer, batches, Meter(), tqdm(disable=True))

    def test_the_loss_is_the_mean_over_patches_however_they_are_batched(self):
        right, wrong = ([9, 9, -9, -9], [1, 1, 0, 0]), ([9, 9, -9, -9], [0, 0, 1, 1])
        row = self.epoch(self.batch(right, right), self.batch(wrong))
        assert row["train/loss"] == pytest.approx(self.RIGHT + 4 / 3)

    def test_accuracy_and_iou_are_of_all_voxels_of_the_epoch(self):
        # 3 voxels are liver in both, 1 in the prediction alone, 2 in the truth alone, 2 in neither
        first = ([9, 9, 9, -9], [1, 1, 0, 1])
        second = ([9, -9, -9, -9], [1, 1, 0, 0])
        row = self.epoch(self.batch(first), self.batch(second))
        assert row["train/iou"] == 3 / 6
        assert row["train/accuracy"] == 5 / 8

    def test_an_epoch_without_any_liver_has_no_iou(self):
        row = self.epoch(self.batch(([-9, -9, -9, -9], [0, 0, 0, 0])))
        assert math.isnan(row["train/iou"])
        assert row["train/accuracy"] == 1


class TestValidation:
    def scores(self, root, case_ids, *, hu_window=(-160, 240)):
        params = TrainParams.model_validate({**TRAIN, "hu_window": hu_window})
        return validate(Brightness(), CaseStore(root), case_ids, params=params, device=CPU)

    def test_a_network_that_finds_every_liver_scores_one(self, cases):
        # the ball is above the middle of the window, the body below
        assert self.scores(cases, ["case-0", "case-1"]) == {
            "validation/dice": 1.0,
            "validation/iou": 1.0,
        }

    def test_scores_are_means_over_cases(self, cases):
        # above -700 HU lies everything: Dice is 2v / (v + n), IoU v / n of v liver voxels among n
        liver = [int(CaseStore(cases).mask(case_id).sum()) for case_id in ("case-0", "case-1")]
        voxels = 20 * 24 * 28
        row = self.scores(cases, ["case-0", "case-1"], hu_window=(-1000, -400))
        assert row["validation/dice"] == pytest.approx(sum(2 * v / (v + voxels) for v in liver) / 2)
        assert row["validation/iou"] == pytest.approx(sum(v / voxels for v in liver) / 2)

    @pytest.fixture
    def half(self, tmp_path):
        """A store of one case with liver and one without; the same brighter ball is in both."""
        cases = [ball_case("with"), without_liver(ball_case("without"))]
        return write_store(tmp_path / "cases", cases)

    def test_a_case_in_which_there_is_no_liver_and_none_is_found_does_not_count(self, half):
        dark = {"hu_window": (300, 500)}
        assert math.isnan(self.scores(half, ["without"], **dark)["validation/dice"])
        assert self.scores(half, ["with", "without"], **dark)["validation/dice"] == 0

    def test_liver_found_where_there_is_none_counts_as_zero(self, half):
        assert self.scores(half, ["without"])["validation/dice"] == 0
        assert self.scores(half, ["with", "without"])["validation/dice"] == 0.5


class TestNetworkInput:
    HU = torch.tensor([-1000, -160, 40, 240, 3000], dtype=torch.int16)

    def test_the_window_is_clipped_and_scaled_to_minus_one_and_one(self):
        assert to_network_input(self.HU, (-160, 240)).tolist() == [-1, -1, 0, 1, 1]

    def test_without_a_window_it_is_raw_hu(self):
        assert to_network_input(self.HU, None).tolist() == [-1000, -160, 40, 240, 3000]

    @pytest.mark.parametrize("hu_window", [None, (-160, 240)])
    def test_it_is_float32_and_leaves_the_volume_alone(self, hu_window):
        volume = self.HU.float()
        assert to_network_input(volume, hu_window).dtype == torch.float32
        assert volume.tolist() == [-1000, -160, 40, 240, 3000]


class TestCurves:
    def test_a_value_that_is_no_number_is_left_out(self, tmp_path):
        write_curves(tmp_path, [{"epoch": 1.0, "a/b": 0.5}, {"epoch": 2.0, "a/b": float("nan")}])
        assert (tmp_path / "plots" / "metrics" / "a" / "b.tsv").read_text() == "step\tb\n1\t0.5\n"
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        assert metrics == {"step": 2, "a": {"b": 0.5}}


class TestMemory:
    def test_free_memory_is_some_of_the_machines(self):
        assert 0 < free_bytes(CPU) < psutil.virtual_memory().total


@pytest.mark.slow
def test_it_overfits_two_patches(tmp_path):
    project = Project(tmp_path, write_balls(tmp_path / "cases", count=2))
    ended = project.train(
        patch_zyx=None,
        validation_share=0,
        test_share=0,
        patches_per_case=5,
        epochs=40,
        lr=0.01,
    )
    assert ended.exit_code == 0
    checkpoint, store = load_checkpoint(project.models / "best.pt"), CaseStore(project.cases)
    network = network_on_hu(checkpoint.network(), checkpoint.params(), CPU)
    for case_id in store.case_ids:
        probability = liver_probability(
            network, store.image(case_id), window_zyx=None, overlap=0, device=CPU
        )
        assert overlap(probability > 0.5, store.mask(case_id)).dice > 0.99


class TestResidency:
    @pytest.mark.parametrize("kind", ["disk", "host", "device"])
    def test_it_does_not_change_the_model(self, trained, project, kind):
        project.train(residency=kind)
        assert_same(project.last.model, trained.last.model)

    def test_another_one_goes_on_with_the_same_run(self, copied, caplog):
        caplog.set_level(logging.INFO)
        copied.train(residency="disk")
        assert caplog.messages == ["going on after epoch 2"]

    def test_one_line_says_what_was_chosen_and_why(self, project, caplog):
        caplog.set_level(logging.INFO)
        project.train(epochs=1)
        (said,) = [line for line in caplog.messages if line.startswith("training set: ")]
        assert said.startswith("training set: host (")
        assert "MB decoded, room for " in said


class TestAugmentation:
    FLIP = MappingProxyType(
        dict.fromkeys(AugmentationParams.model_fields) | {"flip": {"probability_zyx": [1, 0, 0]}}
    )

    def test_it_changes_what_is_learnt(self, trained, project):
        project.train(augmentation=dict(self.FLIP))
        ours, theirs = project.last.model, trained.last.model
        assert not torch.equal(ours["conv.layers.0.weight"], theirs["conv.layers.0.weight"])

    def test_an_unknown_kind_is_refused_with_the_nearest_name(self, project):
        said = project.refused(augmentation={**self.FLIP, "rotate": None})
        assert "train.augmentation.rotate is not a parameter; did you mean" in said
        assert "train.augmentation.rotation?" in said

    def test_a_range_the_wrong_way_round_is_refused(self, project):
        scaling = {"probability": 1, "factor": [1.4, 0.7]}
        said = project.refused(augmentation={**self.FLIP, "scaling": scaling})
        assert "train.augmentation.scaling.factor: [1.4, 0.7] is no range" in said

    def test_intensities_cannot_be_augmented_without_a_window(self, project):
        noise = {"probability": 1, "sd": [0, 1]}
        said = project.refused(augmentation={**self.FLIP, "noise": noise}, hu_window=None)
        assert "train.augmentation has noise" in said
        assert "train.hu_window is null" in said
