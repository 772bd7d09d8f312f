"""A project in a folder, trained by the command; shared by the tests of training."""

import dataclasses
import re
from pathlib import Path

import torch
from click.testing import CliRunner

from pipeline.train import main
from stages.train.checkpoints.checkpoint import load_checkpoint
from tiny import write_params

CLOCKS = ("loader/", "time/", "trained_s")  # what a clock measured differs from run to run


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
    """The curves without those that tell what a clock measured."""
    return {
        path: content
        for path, content in all_files(project.curves).items()
        if path.startswith("plots/metrics/") and not re.search("/(loader|time)/", path)
    }


def assert_same(one, other):
    """Equal to the last bit, at whatever depth tensors stand; what a clock measured aside."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in [key for key in one if not str(key).startswith(CLOCKS)]:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        for ours, theirs in zip(one, other, strict=True):
            assert_same(ours, theirs)
    else:
        assert one == other
