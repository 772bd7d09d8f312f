"""What the report says of a model: where it comes from, how long it took, and nobody's name."""

import getpass
import json
import platform
from pathlib import Path

import pytest
import torch

from cache.manifest import Manifest, read_manifest
from pipeline.facts import facts, in_full, preparation_time, training_time, waiting_share
from pipeline.params import read_params
from stages.train.checkpoints.checkpoint import Checkpoint
from tiny import PREPROCESS, TRAIN, spec_of, write_params

CPU = torch.device("cpu")
ROLES = {"case-0": "test", "case-1": "train", "case-2": "train"}


def checkpoint(**changes):
    fields = {
        "run_key": "k",
        "seed": 7,
        "split": {},
        "spec": spec_of(),
        "train": TRAIN,
        "preprocess": PREPROCESS,
        "data_digest": "d" * 64,
        "code": {"liver3d": "0.1.0", "commit": "abc"},
        "model": {"a": torch.zeros(3, 5)},
    }
    return Checkpoint(**(fields | changes))


@pytest.fixture(scope="module")
def manifest(cases):
    return read_manifest(cases)


class TestFacts:
    def test_training_data_other_than_those_scored_on_are_named_apart(self, manifest):
        same = dict(facts(checkpoint(data_digest=manifest.digest), manifest, ROLES, CPU))
        other = dict(facts(checkpoint(), manifest, ROLES, CPU))
        assert same["Data"] == f"digest {manifest.digest[:16]}"
        assert other["Data"] == f"trained on digest {'d' * 16}, scored on {same['Data']}"

    def test_cases_and_patients_are_counted_by_role(self, manifest):
        told = dict(facts(checkpoint(), manifest, ROLES, CPU))["Cases"]
        assert told == (
            "2 for training (2 patients), 0 for validation (0 patients), 1 for testing (1 patient)"
        )

    def test_the_weights_it_began_with_are_named(self, manifest):
        began = {"file": "other.pt", "digest": "e" * 64}
        told = dict(facts(checkpoint(began_from=began), manifest, ROLES, CPU))
        assert told["Began with"] == f"other.pt, digest {'e' * 16}"
        assert dict(facts(checkpoint(), manifest, ROLES, CPU))["Began with"] == "random weights"

    def test_the_software_is_named_and_neither_machine_nor_user_nor_folder(self, manifest):
        text = json.dumps(facts(checkpoint(), manifest, ROLES, CPU))
        assert platform.python_version() in text
        assert "commit abc" in text
        for private in (platform.node(), f" {getpass.getuser()} ", str(Path.cwd())):
            assert private not in text


@pytest.fixture(scope="module")
def params(tmp_path_factory):
    return read_params(write_params(tmp_path_factory.mktemp("params") / "params.yaml"))


class TestInFull:
    def test_every_training_parameter_is_listed(self, manifest, params):
        listed = in_full(checkpoint(), params, manifest, ROLES)[0]
        assert [name for name, _ in listed.rows] == list(TRAIN)
        assert dict(listed.rows)["patch_zyx"] == "[16, 16, 16]"

    def test_sections_within_a_section_are_listed_key_by_key(self, manifest, params):
        train = {"lr": 0.1, "augmentation": {"noise": {"share": 0.5, "sd_hu": None}}}
        listed = in_full(checkpoint(train=train), params, manifest, ROLES)[0]
        assert listed.rows == [
            ("lr", "0.1"),
            ("augmentation.noise.share", "0.5"),
            ("augmentation.noise.sd_hu", "null"),
        ]

    def test_every_case_is_listed_with_its_role_and_digest(self, manifest, params):
        rows = in_full(checkpoint(), params, manifest, ROLES)[-1].rows
        assert [row[0] for row in rows] == sorted(manifest.cases)
        assert rows[0][2] == "test"
        assert rows[0][4] == manifest.cases["case-0"].ct_digest[:16]
        assert rows[7][2] == "not in the training's split"

    def test_a_store_without_cases_has_an_empty_list(self, params):
        assert in_full(checkpoint(), params, Manifest({}, {}), {})[-1].rows == []


class TestTimes:
    def test_waiting_is_averaged_by_the_lengths_of_epochs(self):
        history = [
            {"epoch": 1.0, "time/minutes": 3.0, "loader/waiting": 0.2},
            {"epoch": 2.0, "time/minutes": 4.0, "loader/waiting": 0.6},
        ]
        assert waiting_share(history) == pytest.approx((3 * 0.2 + 1 * 0.6) / 4)

    def test_the_share_of_waiting_is_none_where_nothing_was_recorded(self):
        assert waiting_share([{"epoch": 1.0}]) is None

    def test_training_tells_all_its_restarts_together(self):
        history = [{"epoch": 1.0, "time/minutes": 1.0, "loader/waiting": 0.25}]
        time = training_time(checkpoint(epoch=1, trained_s=60.0, history=history))
        assert time.seconds == 60.0
        assert "waited for data 25.0% of the time" in time.note

    def test_a_store_whose_time_was_not_noted_has_none(self, tmp_path):
        assert preparation_time(tmp_path / "cases").seconds is None
