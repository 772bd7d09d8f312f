"""Beginning with another model's weights: what is recorded, what goes on, what is refused."""

import json
import logging
import shutil

import pytest

from project import Project, all_files
from stages.train.checkpoints.checkpoint import load_checkpoint
from tiny import one_thread

SHORT = {"epochs": 1, "steps_per_epoch": 1}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def other(cases, tmp_path_factory):
    """A trained project with averaged weights, the model to begin with; no test changes it."""
    project = Project(tmp_path_factory.mktemp("other"), cases)
    assert project.train(**SHORT | {"steps_per_epoch": 3}, ema=0.5).exit_code == 0
    return project


@pytest.fixture(scope="module")
def begun_once(cases, other, tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("begun"), cases)
    assert project.train("--init-from", other.models / "best.pt", **SHORT).exit_code == 0
    return project


@pytest.fixture
def begun(begun_once, tmp_path):
    """A project that began with the other one's best model, to be changed."""
    shutil.copytree(begun_once.root, tmp_path / "begun")
    return Project(tmp_path / "begun", begun_once.cases)


def largest_difference(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


class TestTheWeights:
    @pytest.mark.parametrize("name", ["best.pt", "last.pt"])
    def test_training_begins_with_the_averaged_weights_of_another_model(self, project, other, name):
        still = SHORT | {"lr": 1e-12, "schedule": "constant"}
        assert project.train("--init-from", other.models / name, **still).exit_code == 0
        assert largest_difference(project.last.model, other.last.average) < 1e-9
        assert largest_difference(project.last.model, other.last.model) > 1e-4

    def test_training_begins_with_the_plain_weights_of_a_model_without_an_average(
        self, project, trained
    ):
        still = SHORT | {"lr": 1e-12, "schedule": "constant"}
        project.train("--init-from", trained.models / "last.pt", **still)
        assert largest_difference(project.last.model, trained.last.model) < 1e-9

    def test_an_average_begins_with_them(self, project, other):
        still = SHORT | {"lr": 1e-12, "schedule": "constant", "ema": 0.999}
        project.train("--init-from", other.models / "best.pt", **still)
        assert largest_difference(project.last.average, other.last.average) < 1e-9

    def test_file_name_and_digest_are_recorded_and_no_path(self, begun):
        for name in ("best.pt", "last.pt"):
            record = load_checkpoint(begun.models / name).began_from
            assert sorted(record) == ["digest", "file"]
            assert record["file"] == "best.pt"
            assert len(bytes.fromhex(record["digest"])) == 32

    def test_only_the_weights_of_another_model_are_taken_over(self, begun, other):
        assert begun.last.epoch == 1
        assert len(begun.last.history) == 1
        steps = [one["step"].item() for one in begun.last.optimizer["state"].values()]
        assert set(steps) == {1.0}


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "fact"),
        [
            ({"n_channels": 16}, "has train.n_channels 8, and this run 16"),
            (
                {"upsampling": "transposed"},
                "has train.upsampling trilinear, and this run transposed",
            ),
        ],
        ids=["n_channels", "upsampling"],
    )
    def test_another_network_is_refused_by_name(self, project, other, changes, fact):
        path = other.models / "best.pt"
        said = project.refused("--init-from", path, **changes)
        assert said.startswith(f"error: {path}: {fact}\n")
        ((name, _),) = changes.items()
        assert f"set train.{name} to " in said
        assert not project.models.exists()

    def test_a_missing_file_is_refused(self, project):
        path = project.root / "no.pt"
        said = project.refused("--init-from", path)
        assert said.startswith(f"error: {path}: there is no model here")
        assert not project.models.exists()

    def test_a_damaged_file_is_refused(self, project, other):
        path = project.root / "half.pt"
        path.write_bytes((other.models / "best.pt").read_bytes()[:-1000])
        assert project.refused("--init-from", path).startswith(f"error: {path}: is damaged")
        assert not project.models.exists()


class TestPatientsItHasLearntFrom:
    def test_patients_the_first_model_learnt_from_are_named_where_they_are_to_judge_now(
        self, project, other, caplog
    ):
        split = json.loads((other.models / "split.json").read_text(encoding="utf-8"))
        seen, too, *rest = split["train"]
        mine = {"train": rest, "validation": [seen, *split["validation"]], "test": [too]}
        (project.root / "mine.json").write_text(json.dumps(mine), encoding="utf-8")
        path = other.models / "best.pt"
        project.train("--init-from", path, split_file=project.root / "mine.json", **SHORT)
        told = [one for one in caplog.messages if "was trained on" in one]
        assert told == [
            f"{path} was trained on 1 patients that are for {role} now, so their scores will be too"
            f" good: {patient}"
            for role, patient in (("validation", seen), ("test", too))
        ]

    def test_patients_the_first_model_learnt_from_are_not_named_where_they_are_trained_on_again(
        self, project, other, caplog
    ):
        project.train("--init-from", other.models / "best.pt", **SHORT)
        assert not [one for one in caplog.messages if "was trained on" in one]


class TestGoingOn:
    def test_a_run_that_began_with_the_same_model_goes_on(self, begun, other, caplog):
        caplog.set_level(logging.INFO)
        begun.train("--resume", "--init-from", other.models / "best.pt", **SHORT)
        assert caplog.messages == ["going on after epoch 1"]

    def test_the_same_weights_under_another_name_go_on(self, begun, other, caplog):
        caplog.set_level(logging.INFO)
        begun.train("--resume", "--init-from", other.models / "last.pt", **SHORT)
        assert caplog.messages == ["going on after epoch 1"]

    def test_another_model_starts_afresh_and_is_named(self, begun, trained, other, caplog):
        caplog.set_level(logging.INFO)
        another = shutil.copy(trained.models / "last.pt", begun.root / "another.pt")
        begun.train("--init-from", another, **SHORT)
        assert "(it began from best.pt, now from another.pt); starting afresh" in caplog.text
        assert begun.last.began_from["file"] == "another.pt"

    def test_a_run_no_longer_begun_with_another_model_starts_afresh(self, begun, caplog):
        caplog.set_level(logging.INFO)
        begun.train(**SHORT)
        assert "(it began from best.pt, now from random weights); starting afresh" in caplog.text
        assert begun.last.began_from == {}

    def test_resume_refuses_another_model_and_changes_nothing(self, begun, trained):
        before = all_files(begun.models)
        for flags in ((), ("--init-from", trained.models / "last.pt")):
            said = begun.refused("--resume", *flags, **SHORT)
            assert "is of another run: it began from best.pt, now from " in said
        assert all_files(begun.models) == before

    def test_a_model_that_the_run_would_write_over_is_refused(self, copied):
        before = (copied.models / "best.pt").read_bytes()
        said = copied.refused("--init-from", copied.models / "best.pt")
        assert "where this run writes its own models" in said
        assert "copy it elsewhere, or name another folder with --out" in said
        assert (copied.models / "best.pt").read_bytes() == before
