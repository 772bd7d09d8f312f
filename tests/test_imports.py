"""What importing does: nothing to see, nothing on the disk, and no libraries a stage can spare."""

import pkgutil

import pytest

import cache
import pipeline
import stages
from tiny import names, python

MODULES = [
    module.name
    for package in (cache, pipeline, stages)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]


# what training imports is asked first, and then all the rest is imported into the same process
SCRIPT = """
import sys
import {first}
from pathlib import Path
Path(sys.argv[1]).write_text(" ".join(name for name in {spared} if name in sys.modules))
{then}
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Import modules, then others, in a process of its own whose folder is empty.

    Gives how it ended, which of the spared modules the first ones loaded, and its folder.
    """

    def run(first, spared, then=()):
        folder, answer = tmp_path_factory.mktemp("empty"), tmp_path_factory.mktemp("answer") / "it"
        last = f"import {', '.join(then)}" if then else ""
        script = SCRIPT.format(first=", ".join(first), spared=spared, then=last)
        ended = python("-c", script, answer, cwd=folder)
        return ended, answer.read_text().split() if answer.exists() else None, folder

    return run


@pytest.fixture(scope="module")
def training_then_all(imported):
    """What importing training does, and then all modules there are."""
    spared = ["SimpleITK", "stages.preprocess.run", "stages.preprocess.reading.read"]
    return imported(["pipeline.train"], spared, then=MODULES)


@pytest.mark.parametrize(
    ("modules", "spared"),
    [
        # 2 s and 300 MB in every worker
        (["stages.preprocess.run", "pipeline.preprocess"], ["torch", "monai"]),
        (["cache.reader", "cache.writer"], ["torch", "SimpleITK", "zarr", "tensorstore"]),
    ],
    ids=["preprocess", "cache"],
)
def test_a_stage_spares_what_it_does_not_need(imported, modules, spared):
    ended, loaded, _ = imported(modules, spared)
    assert ended.stderr == ""
    assert loaded == []


def test_training_spares_what_it_does_not_need(training_then_all):
    ended, loaded, _ = training_then_all
    assert ended.stderr == ""
    assert loaded == []


def test_importing_any_module_prints_nothing_and_writes_nothing(training_then_all):
    assert "stages.train.run" in MODULES
    ended, _, folder = training_then_all
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout + ended.stderr == ""
    assert names(folder) == []
