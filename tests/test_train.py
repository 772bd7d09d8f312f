"""``pipeline.train`` on a tiny store: what it writes, how it goes on, what it refuses."""

import io
import json
import logging
import math
import shutil
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import psutil
import pytest
import torch

from cache.manifest import read_manifest, write_manifest
from cache.reader import CaseStore
from project import Project, all_files, assert_same, learning_curves
from stages.evaluate.overlap import Overlap, overlap
from stages.evaluate.window import liver_probability
from stages.train.augment.params import AugmentationParams
from stages.train.checkpoints.checkpoint import load_checkpoint
from stages.train.device import network_on_hu
from stages.train.intensity import to_network_input
from stages.train.loader.meter import Meter
from stages.train.memory import free_bytes
from stages.train.params import TrainParams
from stages.train.ranks import Ranks
from stages.train.split import Split, read_split
from stages.train.step import Learnt, News
from stages.train.stop import Stop
from stages.train.tally import Tally
from stages.train.trouble import replayed
from stages.train.validate import Validation
from stages.train.watch.bar import Bar
from stages.train.watch.curves import write_curves
from tiny import one_thread, write_balls

CPU = torch.device("cpu")
EVERYONE = [f"case-{number}" for number in range(8)]
LOADER = ["bytes_per_s", "computing", "copying", "samples_per_s", "waiting"]
SHORT = MappingProxyType({"epochs": 1, "validation_share": 0})
CURVES = [
    *(f"loader/{name}" for name in LOADER),
    "time/minutes",
    *(f"train/{name}" for name in ("accuracy", "gradient_norm", "iou", "loss", "lr")),
    *("validation/dice", "validation/iou"),
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with one_thread():
        yield


@dataclass(frozen=True)
class OneEpoch:
    """A training of one epoch, what it said, and what else might have changed meanwhile."""

    said: str
    numbers: tuple[torch.Tensor, torch.Tensor]
    store: tuple[dict, dict]


@pytest.fixture(scope="module")
def one_epoch(cases, tmp_path_factory):
    """A training of one epoch: random numbers and the store before and after it, and its log."""
    logger, text = logging.getLogger("stages"), io.StringIO()
    handler, level = logging.StreamHandler(text), logger.level
    torch.manual_seed(5)
    before = torch.random.get_rng_state(), all_files(cases)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        Project(tmp_path_factory.mktemp("epoch"), cases).train(epochs=1)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    after = torch.random.get_rng_state(), all_files(cases)
    return OneEpoch(text.getvalue(), *zip(before, after, strict=True))


@pytest.fixture(scope="module")
def unvalidated(cases, tmp_path_factory):
    """A project trained for an epoch, without a case to validate, and how that ended."""
    project = Project(tmp_path_factory.mktemp("unvalidated"), cases)
    return project, project.train(**SHORT)


class TestWhatIsWritten:
    def test_three_checkpoints_the_split_and_the_curves_and_nothing_else(self, trained):
        checkpoints = ["best.pt", "last.pt", "previous.pt"]
        assert sorted(all_files(trained.models)) == [*checkpoints, "split.json"]
        beside = ["metrics.json", "plots/images/curves.png", "plots/validation_cases.csv"]
        expected = [*beside, *(f"plots/metrics/{name}.tsv" for name in CURVES)]
        assert sorted(all_files(trained.curves)) == sorted(expected)

    def test_a_curve_has_dvclives_header_and_a_line_per_epoch(self, trained):
        header, *lines = trained.tsv("train/loss")
        assert header == "step\tloss"
        assert [line.split("\t")[0] for line in lines] == ["1", "2"]
        assert all(float(line.split("\t")[1]) > 0 for line in lines)

    def test_the_latest_values_stand_in_metrics_json(self, trained):
        metrics = json.loads((trained.curves / "metrics.json").read_text(encoding="utf-8"))
        assert metrics["step"] == 2
        assert sorted(metrics) == ["loader", "step", "time", "train", "validation"]
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
        split = read_split(trained.models / "split.json", EVERYONE)
        assert (len(split.train), len(split.validation), len(split.test)) == (5, 1, 2)
        assert sorted(split.train + split.validation + split.test) == EVERYONE

    def test_best_is_the_epoch_with_the_highest_validation_dice(self, project):
        project.train(epochs=4, lr=0.01)
        dice = [row["validation/dice"] for row in project.last.history]
        best = load_checkpoint(project.models / "best.pt")
        assert best.epoch == dice.index(max(dice)) + 1
        assert best.best_dice == project.last.best_dice == max(dice)

    def test_of_equally_good_epochs_the_first_is_kept(self, project):
        project.train(epochs=3, lr=1e-30)  # too little to move a weight
        assert load_checkpoint(project.models / "best.pt").epoch == 1

    def test_without_validation_the_last_epoch_is_the_best(self, unvalidated):
        project, ended = unvalidated
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
        assert read_split(project.models / "split.json", EVERYONE) == Split(**mine)

    def test_names_that_split_file_and_store_do_not_share_are_told(self, project, caplog):
        mine = {"train": ["case-3", "csae-4"], "validation": ["case-0"], "test": ["case-1"]}
        path = project.root / "mine.json"
        path.write_text(json.dumps(mine), encoding="utf-8")
        project.train(split_file=path, epochs=1)
        (absent,) = [one for one in caplog.messages if "the store has not" in one]
        (left_out,) = [one for one in caplog.messages if "leaves patients of the store out" in one]
        assert absent.endswith(": csae-4")
        assert "case-4" in left_out

    def test_the_curve_of_the_learning_rate_has_that_of_an_epochs_last_step(self, trained):
        # 5 patches in batches of 2: the last steps of both epochs are the third and sixth of six
        rates = [row["train/lr"] for row in trained.last.history]
        cosines = [math.cos(math.pi * done / 6) for done in (2, 5)]
        assert rates == pytest.approx([0.003 * (1 + cosine) / 2 for cosine in cosines])

    def test_the_loss_of_a_training_falls(self, project):
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

    def test_training_neither_uses_nor_changes_the_random_numbers_of_other_code(self, one_epoch):
        before, after = one_epoch.numbers
        assert torch.equal(after, before)


class TestWhatIsRead:
    def test_test_cases_are_never_read(self, trained, tmp_path):
        project = Project(tmp_path, tmp_path / "cases")
        shutil.copytree(trained.cases, project.cases)
        split = json.loads((trained.models / "split.json").read_text(encoding="utf-8"))
        for case_id in split["test"]:
            shutil.rmtree(project.cases / f"{case_id}.zarr")
        assert project.train().exit_code == 0
        assert_same(vars(project.last), vars(trained.last))

    def test_training_leaves_the_store_as_it_was(self, one_epoch):
        before, after = one_epoch.store
        assert after == before

    def test_a_damaged_training_case_ends_training_by_name(self, trained, tmp_path):
        project = Project(tmp_path, tmp_path / "cases")
        shutil.copytree(trained.cases, project.cases)
        split = json.loads((trained.models / "split.json").read_text(encoding="utf-8"))
        victim = split["train"][0]
        shutil.rmtree(project.cases / f"{victim}.zarr" / "image")
        message = project.refused()
        assert f"case {victim} is damaged" in message
        assert "image" in message

    def test_a_store_without_a_manifest_is_refused(self, project, tmp_path):
        message = Project(project.root, tmp_path / "nowhere").refused()
        assert "there is no prepared data here" in message


class TestRefusals:
    def test_a_loss_that_is_no_number_names_the_cases(self, project):
        message = project.refused(lr=1e30, hu_window=None, epochs=3)
        assert message.startswith("error: train.lr: the loss became nan on a batch of ")
        assert "case-" in message
        assert "lower train.lr, set train.clip_norm or train.hu_window, or look at" in message

    def test_a_diverged_epoch_is_not_saved_but_the_batch_is_kept(self, project):
        project.refused(lr=1e30, hu_window=None, epochs=1)
        assert all_files(project.models) == {}
        loss, _ = replayed(project.curves / "nonfinite.pt")
        assert math.isnan(loss)

    def test_a_patch_that_the_memory_cannot_hold_names_it_and_the_numbers(self, project):
        message = project.refused(patch_zyx=[4096, 4096, 4096])
        # 2 · 4096³ voxels · 8 channels · 105 bytes, and 0.1 GB besides
        assert message.startswith(
            "error: train.patch_zyx: 2 patches of 4096·4096·4096 voxels with 8 channels need"
            " about 115448.8 GB; cpu has "
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

    def test_fp16_is_refused_on_the_cpu(self, project):
        message = project.refused(precision="fp16")
        assert message.startswith("error: train.precision: is fp16, ")

    def test_an_unknown_tracker_is_refused_with_those_there_are(self, project):
        message = project.refused(trackers=["wandb"])
        assert "train.trackers.0: Input should be 'tensorboard' or 'mlflow'" in message

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
    def test_every_choice_of_shapes_and_patches_trains(self, project, changes):
        ended = project.train(epochs=1, steps_per_epoch=1, **changes)
        assert ended.exit_code == 0, ended.output


class TestSteps:
    """Six patients train: in batches of two, three batches are once through."""

    def steps(self, project, **changes):
        """The optimizer's steps, as it counted them itself, of a training with these changes."""
        if changes:
            project.train(**{**SHORT, **changes})
        (steps,) = {float(weight["step"]) for weight in project.last.optimizer["state"].values()}
        return steps

    @pytest.mark.parametrize("accumulate", [1, 2])
    @pytest.mark.parametrize("steps", [1, 4], ids=["part of the plan", "more than the plan"])
    def test_an_epoch_has_as_many_steps_as_it_is_told(self, project, steps, accumulate):
        assert self.steps(project, steps_per_epoch=steps, accumulate=accumulate) == steps

    def test_an_epoch_without_a_number_of_steps_is_once_through_the_patches(self, unvalidated):
        project, _ = unvalidated
        assert self.steps(project) == 3

    def test_two_batches_make_the_step_that_one_of_twice_the_size_makes(self, project, tmp_path):
        # of Adam, the smallest rounding of a gradient near zero would move a weight by all of lr
        how = {**SHORT, "optimizer": "sgd", "loss": "cross_entropy", "steps_per_epoch": 1}
        project.train(**how, accumulate=2, batch_size=2)
        twice = Project(tmp_path / "twice", project.cases)
        twice.root.mkdir()
        twice.train(**how, accumulate=1, batch_size=4)
        for name, weight in project.last.model.items():
            assert torch.allclose(weight, twice.last.model[name], atol=1e-6), name

    def test_the_rest_of_an_epoch_is_a_step_too(self, project):
        assert self.steps(project, accumulate=2) == 2

    def test_a_smaller_last_group_counts_as_a_whole_step(self, project, tmp_path):
        how = {**SHORT, "optimizer": "sgd"}
        project.train(**how, accumulate=3)
        more = Project(tmp_path / "more", project.cases)
        more.root.mkdir()
        more.train(**how, accumulate=100)
        assert_same(more.last.model, project.last.model)


HURRY = MappingProxyType(
    {"max_minutes": 0.001, "epochs": 1000, "validate_every": 1000, "patches_per_case": 40}
)


@pytest.fixture(scope="module")
def hurried(cases, tmp_path_factory):
    """A project whose minutes are over within its first steps, and how its training ended."""
    project = Project(tmp_path_factory.mktemp("hurried"), cases)
    return project, project.train(**HURRY)


class TestEnding:
    def test_training_ends_after_so_many_validations_without_a_better_dice(self, project):
        # with steps that small the first Dice stays the best
        how = {"lr": 1e-12, "early_stopping": 2, "steps_per_epoch": 1, "epochs": 50}
        ended = project.train(**how)
        assert ended.output.startswith("3 epochs; ")
        before = (project.models / "last.pt").stat().st_mtime_ns
        assert project.train(**how).output == ended.output
        assert (project.models / "last.pt").stat().st_mtime_ns == before

    def test_when_the_minutes_are_over_the_epoch_ends_and_is_validated(self, hurried):
        project, ended = hurried
        assert ended.output.startswith("1 epochs; best validation Dice 0.")
        (row,) = project.last.history
        assert 0 <= row["validation/dice"] <= 1
        assert row["time/minutes"] >= 0.001
        steps = {weight["step"].item() for weight in project.last.optimizer["state"].values()}
        assert max(steps) < 120  # as many as the plan has

    def test_the_schedule_ends_with_the_minutes(self, hurried):
        project, _ = hurried
        assert project.last.history[-1]["train/lr"] == 0

    def test_a_rerun_knows_that_the_minutes_are_over(self, hurried):
        project, ended = hurried
        before = all_files(project.models)
        assert project.train(**HURRY).output == ended.output
        assert all_files(project.models) == before


class TestDeterministic:
    def test_deterministic_training_gives_the_same_bits_twice_and_leaves_torch_as_it_was(
        self, project, tmp_path
    ):
        again = Project(tmp_path / "again", project.cases)
        again.root.mkdir()
        for one in (project, again):
            assert one.train(deterministic=True, epochs=1).exit_code == 0
        assert_same(vars(project.last), vars(again.last))
        assert not torch.are_deterministic_algorithms_enabled()


class TestKeptEpochs:
    def test_an_epoch_above_the_iou_is_kept_under_the_notebooks_name(self, project):
        project.train(keep_above_iou=0, epochs=1)
        (row,) = project.last.history
        name = f"1_trainIOU_{row['train/iou']:.3f}_testIOU_{row['validation/iou']:.3f}.pth"
        assert [path.name for path in project.models.glob("*.pth")] == [name]
        kept = load_checkpoint(project.models / name)
        assert kept.optimizer == {}
        assert_same(kept.network().state_dict(), project.last.network().state_dict())

    def test_an_epoch_that_is_not_above_the_iou_limit_is_not_kept(self, project):
        project.train(keep_above_iou=1, epochs=1)
        assert list(project.models.glob("*.pth")) == []


class TestFolds:
    SHORT = MappingProxyType({"folds": 3, "epochs": 1, "steps_per_epoch": 1})

    def test_each_fold_validates_other_patients_and_none_of_the_test(self, project):
        splits = []
        for fold in (0, 1):
            project.train(**self.SHORT, fold=fold)
            splits.append(read_split(project.models / "split.json", EVERYONE))
        first, second = splits
        assert len(first.validation) == len(second.validation) == 2
        assert not {*first.validation} & {*second.validation}
        assert first.test == second.test

    def test_the_flag_is_the_parameter(self, project):
        project.train("--fold", "2", **self.SHORT)
        assert project.last.train["fold"] == 2
        assert project.train("--resume", **self.SHORT, fold=2).exit_code == 0

    def test_a_fold_there_is_not_is_refused_by_name(self, project):
        message = project.refused("--fold", "7", **self.SHORT)
        assert message.startswith("error: --fold: fold is 7, but there are 3 folds")

    def test_a_fold_without_folds_is_refused(self, project):
        message = project.refused("--fold", "1")
        assert message.startswith("error: --fold: fold is 1, but there are no folds")


@pytest.fixture(scope="module")
def averaged(cases, tmp_path_factory):
    """A project whose weights are averaged, with two cases to validate."""
    project = Project(tmp_path_factory.mktemp("averaged"), cases)
    project.train(ema=0.99, lr=0.01, validation_share=0.3)
    return project


class TestAveragedWeights:
    def test_averaged_weights_are_not_the_weights_that_are_trained(self, averaged):
        name = "conv.layers.0.weight"
        assert not torch.equal(averaged.last.average[name], averaged.last.model[name])

    def test_best_holds_them_and_nothing_to_go_on_with(self, averaged):
        best, last = load_checkpoint(averaged.models / "best.pt"), averaged.last
        previous = load_checkpoint(averaged.models / "previous.pt")
        assert_same(best.model, {1: previous, 2: last}[best.epoch].average)
        assert best.average == best.optimizer == {}

    def test_the_scores_of_the_validation_are_theirs(self, averaged):
        last, store = averaged.last, CaseStore(averaged.cases)
        case_ids = last.split["validation"]
        validation = Validation(store, case_ids, TrainParams(**last.train), CPU, Ranks(), Stop())
        scores = [{"epoch": 2, **score.saved()} for score in validation.scores(last.network())]
        assert [one for one in last.validations if one["epoch"] == 2] == scores

    def test_every_case_of_every_validation_has_a_row(self, averaged):
        last = averaged.last
        rows = [(row["epoch"], row["case"]) for row in last.validations]
        assert rows == [(epoch, case) for epoch in (1, 2) for case in last.split["validation"]]

    def test_the_means_are_those_of_the_rows(self, averaged):
        last = averaged.last
        for metric in ("dice", "iou"):
            values = [row[metric] for row in last.validations if row["epoch"] == 2]
            mean = sum(values) / len(values)
            assert last.history[1][f"validation/{metric}"] == pytest.approx(mean)


class Terminal(io.StringIO):
    """Somewhere to show a bar."""

    def isatty(self):
        return True


class TestBar:
    LEARNT = Learnt(0.5, 1.0, 2, Overlap(1, 1, 2, 4), News())

    def shown(self, monkeypatch, terminal, *, is_shown=True, steps=10, left_s=None):
        """What a terminal shows after a step, the fourth of all."""
        monkeypatch.setattr("sys.stderr", terminal)
        tally = Tally()
        tally.add(self.LEARNT)
        with Bar(steps=steps, done=3, device=CPU, is_shown=is_shown) as bar:
            bar.step(tally, Meter(), left_s)
        return terminal.getvalue()

    def test_the_bar_shows_the_steps_and_how_the_epoch_goes(self, monkeypatch):
        shown = self.shown(monkeypatch, Terminal())
        assert "4/10" in shown
        assert "loss=0.5000, acc=0.6250, iou=0.250" in shown
        assert "left=" not in shown

    def test_the_bar_shows_the_minutes_left_where_the_clock_ends_the_run(self, monkeypatch):
        shown = self.shown(monkeypatch, Terminal(), steps=None, left_s=90)
        assert "left=1.5min" in shown

    def test_the_bar_is_not_shown_where_there_is_no_terminal(self, monkeypatch):
        assert self.shown(monkeypatch, io.StringIO()) == ""

    def test_the_bar_is_not_shown_by_other_processes_than_the_first(self, monkeypatch):
        assert self.shown(monkeypatch, Terminal(), is_shown=False) == ""


class TestNetworkInput:
    HU = torch.tensor([-1000, -160, 40, 240, 3000], dtype=torch.int16)

    def test_the_window_is_clipped_and_scaled_to_minus_one_and_one(self):
        assert to_network_input(self.HU, (-160, 240)).tolist() == [-1, -1, 0, 1, 1]

    def test_the_input_of_a_network_without_a_window_is_raw_hu(self):
        assert to_network_input(self.HU, None).tolist() == [-1000, -160, 40, 240, 3000]

    @pytest.mark.parametrize("hu_window", [None, (-160, 240)])
    def test_the_input_of_the_network_is_float32_and_leaves_the_volume_alone(self, hu_window):
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
def test_training_overfits_two_patches(tmp_path):
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
    network = network_on_hu(checkpoint.network(), checkpoint.spec, CPU)
    for case_id in store.case_ids:
        probability = liver_probability(
            network, store.image(case_id), window_zyx=None, overlap=0, device=CPU
        )
        assert overlap(probability > 0.5, store.mask(case_id)).dice > 0.99


class TestResidency:
    @pytest.mark.parametrize("kind", ["disk", "host", "device"])
    def test_residency_does_not_change_the_model(self, trained, project, kind):
        project.train(residency=kind)
        assert_same(project.last.model, trained.last.model)

    def test_a_run_goes_on_with_another_residency(self, copied, caplog):
        caplog.set_level(logging.INFO)
        copied.train(residency="disk")
        assert caplog.messages == ["going on after epoch 2"]

    def test_one_line_says_what_was_chosen_and_why(self, one_epoch):
        lines = one_epoch.said.splitlines()
        (said,) = [line for line in lines if line.startswith("training set: ")]
        assert said.startswith("training set: host (")
        assert "MB decoded, room for " in said


class TestAugmentation:
    FLIP = MappingProxyType(
        dict.fromkeys(AugmentationParams.model_fields) | {"flip": {"probability_zyx": [1, 0, 0]}}
    )

    def test_augmentation_changes_what_is_learnt(self, trained, project):
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
