"""Shared fixtures: factories with defaults that write real, tiny files.

Sides and spacings differ on every axis, so that a swapped axis shows. The default case is a body
in air with a liver of 330 ml: nothing in it is refused, and nothing is doubted.
"""

import copy
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everyone uses
from click.testing import CliRunner
from hypothesis import settings
from ruamel.yaml import YAML

from cache.case import CaseInfo, PreparedCase
from cache.formats import backends
from cache.grid import IDENTITY, Box, Grid
from cache.manifest import Manifest, entry_of, write_manifest
from cache.writer import write_case as write_prepared
from project import Project
from stages.preprocess.files import CaseFiles
from stages.preprocess.policy import RulesParams
from stages.train.checkpoints.checkpoint import Checkpoint, cpu_state, save_checkpoint
from stages.train.unet import UNet3d
from tiny import PREPROCESS, TRAIN, one_thread, spec_of, write_balls

# the same examples in every run, however slow the machine
settings.register_profile("liver3d", deadline=None, derandomize=True)
settings.load_profile("liver3d")

REPO = Path(__file__).parent.parent
CASE_SHAPE_ZYX = (14, 18, 20)
CASE_SPACING_XYZ_MM = (9.0, 10.0, 11.0)
BODY = (slice(1, 13), slice(2, 15), slice(3, 18))  # z, y, x
LIVER = (slice(4, 10), slice(4, 11), slice(5, 13))


@dataclass(frozen=True)
class Ended:
    """How a command ended, and all it printed."""

    exit_code: int
    output: str


@pytest.fixture(scope="session")
def repo():
    """The root of the repository."""
    return REPO


@pytest.fixture(scope="session")
def realct():
    """The folder of real scans; tests that need it are also marked ``realct``."""
    folder = Path(os.environ.get("LIVER3D_REALCT") or REPO.parent / "shared" / "realct")
    if not folder.is_dir():
        pytest.skip(f"no real scans at {folder}; name their folder in LIVER3D_REALCT")
    return folder


def body_hu(seed=0):
    """A CT as (Z, Y, X) int16: air, a noisy body, a brighter liver; no symmetry anywhere."""
    rng = np.random.default_rng((seed, 20))
    volume = np.full(CASE_SHAPE_ZYX, -1000, np.int16)
    volume[BODY] = 0
    volume[LIVER] = 110
    noise = rng.integers(-30, 31, CASE_SHAPE_ZYX).astype(np.int16)
    return np.where(volume > -1000, volume + noise, volume).astype(np.int16)


def liver_label():
    """The label of ``body_hu``: uint8, 1 in the liver, one notch cut out of a corner."""
    label = np.zeros(CASE_SHAPE_ZYX, np.uint8)
    label[LIVER] = 1
    label[4, 4, 5:8] = 0
    return label


@pytest.fixture
def write_volume(tmp_path):
    """Write one volume: ``array`` if given, else one of ``size_xyz`` filled with ``hu``.

    A relative path is below ``tmp_path``. Its ending chooses the format, unless ``format`` does:
    so a file may have another ending than its content, or none.
    """

    def write(
        path="ct.nii.gz",
        array=None,
        *,
        size_xyz=(7, 6, 5),
        spacing_xyz_mm=(0.7, 0.8, 2.5),
        origin_xyz_mm=(-11.0, 7.0, 23.0),
        direction=IDENTITY,
        dtype=None,
        hu=-1000,
        format=None,  # noqa: A002 - the field's word
        compress=None,
    ):
        if array is None:
            array = np.full(size_xyz[::-1], hu, np.int16)
        array = np.asarray(array)
        image = sitk.GetImageFromArray(array if dtype is None else array.astype(dtype))
        image.SetSpacing([float(mm) for mm in spacing_xyz_mm])
        image.SetOrigin([float(mm) for mm in origin_xyz_mm])
        image.SetDirection([float(cosine) for cosine in direction])
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        written = target.with_name(f"being-written{format}") if format else target
        sitk.WriteImage(
            image, str(written), ".gz" in written.suffix if compress is None else compress
        )
        return written.rename(target)

    return write


@pytest.fixture
def write_case(write_volume, tmp_path):
    """Write a CT and its label on one grid; gives the ``CaseFiles``."""

    def write(
        case_id="1",
        *,
        folder="src",
        ct=None,
        label=None,
        ct_name="{id}/{id}.nii.gz",
        label_name="{id}/{id}.nii.gz",
        seed=0,
        spacing_xyz_mm=CASE_SPACING_XYZ_MM,
        **how,
    ):
        ct = body_hu(seed) if ct is None else ct
        label = liver_label() if label is None else label
        how = {"spacing_xyz_mm": spacing_xyz_mm, **how}
        names = (ct_name.format(id=case_id), label_name.format(id=case_id))
        return CaseFiles(
            case_id,
            case_id,
            write_volume(Path(folder, "image", names[0]), ct, **how),
            write_volume(Path(folder, "label", names[1]), label, **how),
            None,
            tmp_path / folder,
        )

    return write


@pytest.fixture
def write_dataset(write_case, tmp_path):
    """Write a folder of cases, image/<id>/<id>.nii.gz and label/…, each with its own noise."""

    def write(case_ids=("1", "2", "3"), *, folder="src", **case):
        for seed, case_id in enumerate(case_ids):
            write_case(case_id, folder=folder, seed=seed, **case)
        return tmp_path / folder

    return write


@pytest.fixture(scope="session")
def prepared_case():
    """Make a prepared case of random voxels, by default of eight chunks."""

    def make(case_id="case-1", *, shape_zyx=(37, 35, 34), seed=0, patient_id=None, **info):
        rng = np.random.default_rng((seed, 21))
        source_shape = tuple(side + more for side, more in zip(shape_zyx, (3, 5, 4), strict=True))
        mask = (rng.random(shape_zyx) < 0.3).astype(np.uint8)
        prepared = Grid(tuple(shape_zyx), (2.5, 0.8, 0.7), (-11.0, 7.0, 23.0))
        fields = {
            "case_id": case_id,
            "patient_id": patient_id or case_id,
            "key": f"{seed:064x}",
            "source_grid": Grid(source_shape, (2.5, 0.8, 0.7), (-11.7, 5.4, 20.5)),
            "orientation": "LPS",
            "box": Box((1, 2, 1), tuple(np.add((1, 2, 1), shape_zyx).tolist())),
            "prepared_grid": prepared,
            "liver_ml": 1234.5,
            "source_digests": {"ct": "c" * 64, "label": "d" * 64},
            "ct_digest": f"{seed:064x}",
            "params": {"format": "zarr", "crop": "body", "spacing_zyx_mm": [2.5, None, 0.7]},
            "findings": [
                {
                    "rule": "liver_volume",
                    "role": "label",
                    "fact": "größer",
                    "fix": "look",
                    "fixable": False,
                    "fixed": False,
                }
            ],
        }
        return PreparedCase(
            CaseInfo(**{**fields, **info}),
            rng.integers(-1024, 3072, shape_zyx).astype(np.int16),
            mask,
            (rng.random(source_shape) < 0.2).astype(np.uint8),
            np.argwhere(mask)[::7].astype(np.int32),
        )

    return make


@pytest.fixture
def write_store(tmp_path):
    """Write prepared cases and their manifest into a folder; gives the folder."""

    def write(cases, *, format="zarr", folder="cases"):  # noqa: A002 - the parameter's own name
        root, entries = tmp_path / folder, {}
        for case in cases:
            path = write_prepared(root, case, backends()[format])
            entries[case.info.case_id] = entry_of(case.info, root, path)
        write_manifest(root, Manifest(entries, {"format": format}))
        return root

    return write


@pytest.fixture
def params_file(tmp_path):
    """Write the repository's params.yaml, or a preset, with some values changed.

    Example: ``params_file({"preprocess.crop": "none"}, preset="liver")``.
    """

    def write(changes=None, *, preset=None, name="params.yaml"):
        template = REPO / "presets" / f"{preset}.yaml" if preset else REPO / "params.yaml"
        document = YAML(typ="safe").load(template.read_text(encoding="utf-8"))
        for dotted, value in (changes or {}).items():
            *sections, key = dotted.split(".")
            section = document
            for part in sections:
                section = section[part]
            section[key] = copy.deepcopy(value)
        target = tmp_path / name
        with target.open("w", encoding="utf-8") as file:
            YAML(typ="safe").dump(document, file)
        return target

    return write


@pytest.fixture(scope="session")
def rules():
    """Make ``RulesParams``: those of params.yaml, some of them changed."""
    document = YAML(typ="safe").load((REPO / "params.yaml").read_text(encoding="utf-8"))

    def make(**changes):
        return RulesParams(**{**document["rules"], **changes})

    return make


@pytest.fixture
def run_command():
    """Run a command in this process: ``run_command(main, "--src", folder, "--workers", 1)``."""

    def run(main, *args):
        result = CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)
        return Ended(result.exit_code, result.output)

    return run


@pytest.fixture(scope="session")
def cases(tmp_path_factory):
    """A store of eight cases with a ball for a liver; no test changes it."""
    return write_balls(tmp_path_factory.mktemp("store") / "cases")


@pytest.fixture
def project(cases, tmp_path):
    """A project to be trained."""
    return Project(tmp_path, cases)


@pytest.fixture(scope="session")
def trained(cases, tmp_path_factory):
    """A project trained for two epochs; no test changes it."""
    project = Project(tmp_path_factory.mktemp("trained"), cases)
    with one_thread():
        ended = project.train()
    assert ended.exit_code == 0, ended.output
    return project


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the trained project, to be changed."""
    shutil.copytree(trained.root, tmp_path / "copy")
    return Project(tmp_path / "copy", trained.cases)


@pytest.fixture
def write_model(tmp_path):
    """Save a network, untrained by default; it predicts whole volumes unless told otherwise."""

    def write(network=None, *, name="best.pt", train=None, preprocess=None):
        section = {**TRAIN, "patch_zyx": None, **(train or {})}
        checkpoint = Checkpoint(
            run_key="k",
            epoch=1,
            best_dice=None,
            history=[],
            seed=1,
            split={"train": [], "validation": [], "test": []},
            spec=spec_of(**section),
            train=section,
            preprocess={**PREPROCESS, **(preprocess or {})},
            data_digest="d",
            model=cpu_state(network or UNet3d(1, 2, 8)),
            optimizer={},
        )
        save_checkpoint(tmp_path / name, checkpoint)
        return tmp_path / name

    return write
