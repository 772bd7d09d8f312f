"""Files of models: every version stays readable, damage is found, and nonsense is refused."""

import json
import logging
import random
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from cache.errors import ModelError, ParamsError
from exported import export
from pipeline.predict import main as predict_main
from project import assert_same
from stages.predict.model import load_model
from stages.train.checkpoints.begin import beginning
from stages.train.checkpoints.checkpoint import (
    CHECKPOINT_VERSION,
    OLDEST_VERSION,
    load_checkpoint,
    save_checkpoint,
)
from stages.train.checkpoints.digest import content_digest
from stages.train.checkpoints.sealed import read_sealed, without_digest, write_sealed
from stages.train.params import TrainParams
from stages.train.split import Split
from stages.train.unet import UNet3d
from tiny import TRAIN, brightness_network, one_thread, spec_of

CPU = torch.device("cpu")
FORMATS = Path(__file__).parent / "formats"
DESCRIBED = {int(path.stem.rpartition("-")[2]): path for path in FORMATS.glob("checkpoint-*.json")}
VERSIONS = range(OLDEST_VERSION, CHECKPOINT_VERSION + 1)


def description(version):
    """What a file of a version holds: its fields, and the shapes of its weights."""
    return json.loads(DESCRIBED[version].read_text(encoding="utf-8"))


def write_version(path, of, /, *, weights=None, **changes):
    """Write a file as that version of liver3d did, with random weights unless some are given."""
    told = description(of)
    shapes = told["weights"].items()
    random_weights = {name: 0.1 * torch.randn(shape) for name, shape in shapes}
    fields = {**told["fields"], "model": weights or random_weights, **changes}
    if fields.pop("digest", None) is not None:
        fields["digest"] = content_digest(fields)
    torch.save(fields, path)
    return path


def changed(path, of=CHECKPOINT_VERSION, **fields):
    """Write a file of a version with other fields; what is given of a section is changed in it."""
    told = description(of)["fields"]
    for name in ("spec", "train", "preprocess"):
        if fields.get(name):
            fields[name] = {**told[name], **fields[name]}
    return write_version(path, of, **fields)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt"


class TestEveryVersionStaysReadable:
    def test_each_version_is_described(self):
        assert sorted(DESCRIBED) == list(VERSIONS)

    def test_the_newest_description_is_that_of_the_files_written_today(self, write_model):
        fields = torch.load(write_model(brightness_network()), weights_only=True)
        told = description(CHECKPOINT_VERSION)
        assert list(fields) == list(told["fields"])
        assert list(fields["spec"]) == list(told["fields"]["spec"])
        assert {name: list(one.shape) for name, one in fields["model"].items()} == told["weights"]

    @pytest.mark.parametrize("version", VERSIONS)
    def test_a_file_of_it_has_its_weights_and_its_network(self, path, version):
        checkpoint = load_checkpoint(write_version(path, version))
        written = torch.load(path, weights_only=True)["model"]
        assert_same(dict(checkpoint.network().state_dict()), written)
        expected = {"patch_zyx": [32, 48, 48], "hu_window": [-160, 240], "precision": "auto"}
        assert checkpoint.spec == spec_of(**expected)

    @pytest.mark.parametrize("version", VERSIONS)
    def test_a_file_of_it_predicts(self, path, version, write_case, run_command, tmp_path):
        network = brightness_network()
        with torch.no_grad():
            network.out.conv.bias[1] = 9.0  # marks all that it is shown
        write_version(path, version, weights=dict(network.state_dict()))
        ct, out = write_case().ct, tmp_path / "mask.nii.gz"
        flags = ("--model", path, "--ct", ct, "--out", out, "--device", "cpu")
        ended = run_command(predict_main, *flags)
        assert ended.exit_code == 0, ended.output
        assert re.search(r"liver [1-9]\d* ml; mask: ", ended.output)

    @pytest.mark.parametrize("version", VERSIONS)
    def test_a_run_may_begin_with_the_weights_of_a_file_of_it(self, path, version, tmp_path):
        write_version(path, version)
        params = TrainParams.model_validate(TRAIN)
        began = beginning(path, tmp_path / "models", params, Split([], [], []))
        assert_same(began.weights, torch.load(path, weights_only=True)["model"])

    @pytest.mark.parametrize("version", VERSIONS)
    def test_a_file_of_it_is_exported(self, path, version, tmp_path):
        parity = export(write_version(path, version), tmp_path / "bundle")
        assert parity.probability < 1e-4
        assert "`loss` dice_ce" in (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")

    @pytest.mark.parametrize("version", VERSIONS)
    def test_parameters_of_the_training_that_are_not_known_today_do_not_matter(self, path, version):
        changed(path, version, train={"dropout": 0.1, "loss": "focal", "epochs": "many"})
        assert load_model(path, CPU).window_zyx == (32, 48, 48)

    @pytest.mark.parametrize("version", VERSIONS)
    def test_parameters_of_the_training_that_it_lacks_do_not_matter(self, path, version, tmp_path):
        told = description(version)["fields"]["train"]
        kept = ("n_channels", "upsampling", "patch_zyx", "hu_window", "precision")
        write_version(path, version, train={key: told[key] for key in kept})
        assert load_model(path, CPU).window_zyx == (32, 48, 48)
        assert export(path, tmp_path / "bundle").probability < 1e-4

    def test_a_field_that_is_not_known_today_does_not_matter(self, path):
        write_version(path, CHECKPOINT_VERSION, mood={"of the day": "good"})
        assert load_checkpoint(path).epoch == 1

    @pytest.mark.parametrize("version", VERSIONS)
    def test_a_preparation_that_is_not_known_is_refused_by_name_and_not_as_damage(
        self, path, version
    ):
        changed(path, version, preprocess={"denoise": True})
        fact = "was trained with parameters this liver3d does not know: denoise"
        with pytest.raises(ParamsError, match=fact):
            load_model(path, CPU)

    def test_a_network_with_more_to_it_than_is_known_is_refused_by_name(self, path):
        changed(path, spec={"attention": True})
        with pytest.raises(ModelError, match=r"cannot build \(spec.attention: ") as caught:
            load_checkpoint(path)
        assert "update liver3d" in caught.value.fix

    def test_a_run_of_the_version_before_goes_on_exactly(self, copied, trained, caplog):
        caplog.set_level(logging.INFO)
        last = copied.models / "last.pt"
        fields = torch.load(last, weights_only=True)
        for name in ("spec", "digest"):
            del fields[name]
        torch.save({**fields, "version": 3}, last)
        assert_same(vars(load_checkpoint(last)), vars(trained.last))
        assert copied.train("--resume").exit_code == 0
        assert caplog.messages == ["going on after epoch 2"]


class TestDamage:
    """Any byte of a file: its values are as they were, or it is refused."""

    FIELDS: ClassVar = {
        "version": 3,
        "text": "größer",
        "number": 0.5,
        "weights": {"a": torch.arange(9.0).view(3, 3), "b": torch.zeros(())},
    }

    @pytest.mark.parametrize("is_sealed", [True, False], ids=["with a digest", "without"])
    @pytest.mark.parametrize("step", [19, pytest.param(1, marks=pytest.mark.slow)])
    def test_a_flipped_bit_anywhere_is_found_or_changes_nothing(self, path, is_sealed, step):
        write_sealed(path, self.FIELDS) if is_sealed else torch.save(self.FIELDS, path)
        whole, unnoticed = path.read_bytes(), []
        for place in range(0, len(whole), step):
            path.write_bytes(_flipped(whole, place, place % 8))
            try:
                found = read_sealed(path)
                found = without_digest(path, found) if is_sealed else found
            except ModelError:
                continue
            unnoticed += [place] if content_digest(found) != content_digest(self.FIELDS) else []
        assert unnoticed == []

    def test_a_value_changed_together_with_its_checksum_is_found(self, path):
        write_sealed(path, self.FIELDS)
        fields = torch.load(path, weights_only=True)
        fields["weights"]["a"][0, 0] = 1.5
        torch.save(fields, path)
        with pytest.raises(ModelError, match="its values are not those that were written"):
            without_digest(path, read_sealed(path))

    def test_a_file_whose_digest_was_taken_out_is_refused(self, write_model):
        model = write_model()
        fields = torch.load(model, weights_only=True)
        del fields["digest"]
        torch.save(fields, model)
        with pytest.raises(ModelError, match="its values are not those that were written"):
            load_checkpoint(model)

    def test_a_flipped_weight_of_an_older_file_is_found_by_its_checksum(self, path):
        write_version(path, 3)
        with zipfile.ZipFile(path) as archive:
            part = next(one for one in archive.infolist() if one.filename.endswith("data/4"))
        whole = path.read_bytes()
        path.write_bytes(_flipped(whole, part.header_offset + 200, 3))
        with pytest.raises(ModelError, match=r"'4' in it fails its checksum"):
            load_checkpoint(path)

    def test_a_flipped_bit_in_last_lets_the_run_go_on_from_previous(self, copied, trained, caplog):
        last = copied.models / "last.pt"
        whole = last.read_bytes()
        last.write_bytes(_flipped(whole, len(whole) // 2, 6))
        with one_thread():  # in which the other was trained: the bits are compared
            assert copied.train().exit_code == 0
        (warning,) = [one for one in caplog.messages if "the one before it" in one]
        assert warning.startswith(f"{last}: is damaged")
        assert_same(copied.last.model, trained.last.model)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["best.pt", "last.pt"])
    @pytest.mark.parametrize("version", VERSIONS)
    def test_of_hundreds_of_flips_in_a_models_file_none_is_unnoticed(self, copied, name, version):
        model = copied.models / name
        if version == 3:
            fields = torch.load(model, weights_only=True)
            others = {key: one for key, one in fields.items() if key not in ("spec", "digest")}
            torch.save({**others, "version": 3}, model)
        whole, draw = model.read_bytes(), random.Random(2026)
        as_written = content_digest(_values(load_checkpoint(model)))
        for _ in range(300):
            model.write_bytes(_flipped(whole, draw.randrange(len(whole)), draw.randrange(8)))
            try:
                found = load_checkpoint(model)
            except ModelError:
                continue
            assert content_digest(_values(found)) == as_written

    def test_a_file_that_is_no_archive_is_not_advised_to_be_loaded_unsafely(self, repo):
        with pytest.raises(ModelError) as caught:
            load_checkpoint(repo / "README.md")
        assert str(caught.value) == (
            f"{repo / 'README.md'}: is damaged, or no model of liver3d (it is not a whole file of"
            " torch)\n  fix: restore it from a copy, or train it again with python -m"
            " pipeline.train"
        )

    def test_a_file_that_would_run_code_is_refused_without_advice_to_run_it(self, path):
        torch.save({"version": CHECKPOINT_VERSION, "run_key": print}, path)
        with pytest.raises(ModelError) as caught:
            load_checkpoint(path)
        assert "it holds something else than numbers and text" in str(caught.value)
        assert "weights_only" not in str(caught.value)

    def test_a_packed_archive_is_refused_before_it_is_unpacked(self, path):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", b"\0" * 1_000_000)
        with pytest.raises(ModelError, match="its parts are compressed"):
            load_checkpoint(path)


def _flipped(content, place, bit):
    one = bytearray(content)
    one[place] ^= 1 << bit
    return bytes(one)


def _values(checkpoint):
    return {**vars(checkpoint), "spec": checkpoint.spec.model_dump(mode="json")}


NONSENSE = {
    "a negative width": ({"spec": {"n_channels": -8}}, r"cannot build \(spec.n_channels: "),
    "a width of zero": ({"spec": {"n_channels": 0}}, r"cannot build \(spec.n_channels: "),
    "a width that is not a number": (
        {"spec": {"n_channels": "wide"}},
        r"cannot build \(spec.n_channels: ",
    ),
    "a width for 100 GB": ({"spec": {"n_channels": 800}}, "does not hold the weights of its"),
    "a width beyond all memory": (
        {"spec": {"n_channels": 8 * 10**12}},
        r"cannot build \(spec.n_channels: ",
    ),
    "another width": ({"spec": {"n_channels": 16}}, r"has the shape \[8, .*, not \[16, "),
    "an unknown structure": ({"spec": {"structure": "vit"}}, r"cannot build \(spec.structure: "),
    "a window of nothing": ({"spec": {"hu_window": [5, 5]}}, "5.* is not a window"),
    "a window that is text": ({"spec": {"hu_window": "all"}}, r"cannot build \(spec.hu_window"),
    "a patch of no size": ({"spec": {"patch_zyx": [0, 16, 16]}}, r"cannot build \(spec.patch_zyx"),
    "other classes": ({"spec": {"classes": ["liver", "background"]}}, r"\(spec.classes"),
    "no network": ({"spec": {}}, r"cannot build \(spec.structure: Field required"),
    "no weights": ({"model": []}, r"no model of liver3d \(model: "),
    "a split of other roles": ({"split": {"holdout": ["p-1"]}}, r"no model of liver3d \(split: "),
    "a split that is a number": ({"split": 5}, r"no model of liver3d \(split: "),
    "a section that is a list": ({"train": []}, r"no model of liver3d \(train: "),
    "a preparation that is text": ({"preprocess": ""}, r"no model of liver3d \(preprocess: "),
    "an epoch before the first": ({"epoch": -1}, r"no model of liver3d \(epoch: "),
    "a history of text": ({"history": ["good"]}, r"no model of liver3d \(history.0: "),
    "a history without epochs": ({"history": [{"dice": 1.0}]}, r"\(history.0: names no epoch"),
    "scores without cases": ({"validations": [{}]}, r"\(validations.0: is not the score of a case"),
    "a beginning without a file": ({"began_from": {"a": "b"}}, r"\(began_from: names no file"),
    "a version that is text": ({"version": "4"}, r"no model of liver3d \(it names no version"),
    "a version that is true": ({"version": True}, r"no model of liver3d \(it names no version"),
}


class TestNonsense:
    @pytest.mark.parametrize(("sections", "fact"), NONSENSE.values(), ids=NONSENSE)
    def test_a_file_that_loads_and_means_nothing_is_refused_as_what_it_is(
        self, path, sections, fact
    ):
        changed(path, **sections)
        with pytest.raises(ModelError, match=fact):
            load_checkpoint(path)

    @pytest.mark.parametrize(
        ("name", "weight", "fact"),
        [
            ("out.conv.bias", None, "weights are missing: out.conv.bias"),
            ("more.bias", torch.zeros(2), "the network does not have: more.bias"),
            ("out.conv.bias", torch.zeros(3), r"out.conv.bias has the shape \[3\], not \[2\]"),
            ("out.conv.bias", torch.zeros(2, dtype=torch.int64), "bias holds torch.int64, not"),
            ("out.conv.bias", torch.tensor([0, float("nan")]), "bias holds values that are not"),
            ("out.conv.bias", torch.tensor([0, -float("inf")]), "bias holds values that are not"),
            ("out.conv.bias", [0.0, 0.0], "out.conv.bias does not hold numbers"),
            ("out.conv.bias", torch.ones(2).to_sparse(), "out.conv.bias does not hold numbers"),
        ],
        ids=[
            *("missing", "extra", "of another shape", "of integers", "NaN", "infinite", "a list"),
            "sparse",
        ],
    )
    def test_weights_that_are_not_those_of_the_network_are_refused_by_name(
        self, path, name, weight, fact
    ):
        weights = {**UNet3d(1, 2, 8).state_dict(), name: weight}
        weights = {key: one for key, one in weights.items() if one is not None}
        write_version(path, 3, weights=weights)  # a sparse one has no digest
        with pytest.raises(ModelError, match=fact):
            load_checkpoint(path)

    def test_a_tensor_that_shows_more_than_it_holds_is_refused(self, path):
        many = torch.zeros(1).expand(10**12)
        with pytest.raises(TypeError, match="holds less than it shows"):
            write_sealed(path, {"model": {"a": many}})
        torch.save({**description(4)["fields"], "model": {"a": many}, "digest": "0" * 64}, path)
        with pytest.raises(ModelError, match="not those that were written"):
            load_checkpoint(path)

    def test_averaged_weights_that_do_not_fit_are_refused_as_well(self, copied):
        last = copied.last
        save_checkpoint(copied.models / "a.pt", replace(last, average={"a": torch.zeros(1)}))
        with pytest.raises(ModelError, match="does not hold the weights of its network"):
            load_checkpoint(copied.models / "a.pt")

    def test_prediction_ends_with_the_reason_and_without_a_traceback(
        self, path, write_case, run_command, tmp_path
    ):
        changed(path, spec={"n_channels": 800})
        flags = ("--model", path, "--ct", write_case().ct, "--out", tmp_path / "mask.nii.gz")
        ended = run_command(predict_main, *flags)
        assert ended.exit_code == 2
        assert ended.output.startswith(f"error: {path}: does not hold the weights of its network")
