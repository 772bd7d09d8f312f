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


@pytest.mark.parametrize(
    ("modules", "spared"),
    [
        # 2 s and 300 MB in every worker
        (["stages.preprocess.run", "pipeline.preprocess"], ["torch", "monai"]),
        (
            ["pipeline.train"],
            ["SimpleITK", "stages.preprocess.run", "stages.preprocess.reading.read"],
        ),
        (["cache.reader", "cache.writer"], ["torch", "SimpleITK", "zarr", "tensorstore"]),
    ],
    ids=["preprocess", "train", "cache"],
)
def test_a_stage_spares_what_it_does_not_need(tmp_path, modules, spared):
    loaded = f"[name for name in {spared} if name in sys.modules]"
    ended = python("-c", f"import sys, {', '.join(modules)}; print({loaded})", cwd=tmp_path)
    assert ended.stderr == ""
    assert ended.stdout == "[]\n"


def test_importing_any_module_prints_nothing_and_writes_nothing(tmp_path):
    assert "stages.train.run" in MODULES
    ended = python("-c", f"import {', '.join(MODULES)}", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout + ended.stderr == ""
    assert names(tmp_path) == []
