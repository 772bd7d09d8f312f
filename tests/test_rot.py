"""Bits that rot: of whatever is read back, a flipped bit is found, or it changes nothing.

Several hundred flips of each kind take a few minutes: set ``LIVER3D_FLIPS=500``.
"""

import logging
import os
from dataclasses import asdict

import numpy as np
import pytest

from cache.errors import DataError
from cache.manifest import read_manifest
from cache.reader import CaseStore
from cache.sealed import sealed_bytes
from exported import export, write_model
from stages.evaluate.known_problems import read_problems
from stages.export.bundle import read_bundle
from stages.predict import journal as predictions
from stages.preprocess.digests import Shortcuts, hash_files
from stages.preprocess.journal import Journal
from stages.preprocess.problems import Problem, write_problems
from stages.preprocess.stored_picture import read_picture, write_picture
from stages.preprocess.times import note_time, noted_time
from stages.train.split import Split, read_split, write_split
from tiny import ball_case, one_thread, write_store

LOG = logging.getLogger(__name__)
pytestmark = pytest.mark.slow
FLIPS = int(os.environ.get("LIVER3D_FLIPS", "40"))  # of each kind
SEED = 13


def flipped(content, rng):
    """The same bytes but for one bit, and which one that is."""
    bit = int(rng.integers(8 * len(content)))
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed), bit


def require_found(files, read):
    """Flip bits of files one at a time; each is refused, or what is read stays the same.

    Returns:
        How many were refused.
    """
    rng, expected, refused = np.random.default_rng(SEED), read(), 0
    sizes = np.array([file.stat().st_size for file in files], float)
    for _ in range(FLIPS):
        file = files[int(rng.choice(len(files), p=sizes / sizes.sum()))]
        whole = file.read_bytes()
        changed, bit = flipped(whole, rng)
        file.write_bytes(changed)
        try:
            assert read() == expected, f"{file}: bit {bit}"
        except DataError:
            refused += 1
        finally:
            file.write_bytes(whole)
    LOG.info("%d flips: %d refused, %d without effect", FLIPS, refused, FLIPS - refused)
    return refused


@pytest.fixture
def store(tmp_path, request):
    """A store of two small cases in the format that is asked for."""
    cases = [ball_case(f"case-{seed}", shape_zyx=(9, 10, 11), seed=seed) for seed in range(2)]
    return write_store(tmp_path / "cases", cases, format=request.param)


def all_of_a_store(root):
    """All that training and evaluation read of a store."""
    store, found = CaseStore(root), []
    for case_id in store.case_ids:
        arrays = ("image", "mask", "source_mask", "foreground_zyx")
        found.append(asdict(store.info(case_id)))
        found += [(name, getattr(store, name)(case_id).tolist()) for name in arrays]
    return found


@pytest.mark.parametrize("store", ["zarr", "hdf5"], indirect=True)
def test_no_flipped_bit_changes_what_is_read_of_a_store(store):
    files = [file for file in sorted(store.rglob("*")) if file.is_file()]
    assert require_found(files, lambda: all_of_a_store(store)) > 0


def test_no_flipped_bit_changes_a_zarr_cases_metadata(tmp_path):
    root = write_store(tmp_path / "cases", [ball_case("case-0", shape_zyx=(9, 10, 11))])
    files = sorted(root.rglob("zarr.json"))
    assert require_found(files, lambda: all_of_a_store(root)) == FLIPS


def test_no_flipped_bit_changes_a_manifest(tmp_path):
    root = write_store(tmp_path / "cases", [ball_case("case-0", shape_zyx=(9, 10, 11))])
    assert require_found([root / "manifest.json"], lambda: read_manifest(root)) == FLIPS


def test_no_flipped_bit_changes_an_entry_of_a_killed_runs_journal(tmp_path):
    root = write_store(
        tmp_path / "cases",
        [ball_case(f"case-{seed}", shape_zyx=(9, 10, 11), seed=seed) for seed in range(3)],
    )
    Journal(root).begin()
    expected = Journal(root).read()
    path = root.parent / ".liver3d" / "cases" / "journal.jsonl"

    def read():
        found = Journal(root).read()
        assert found.items() <= expected.items()

    require_found([path], read)


def test_no_flipped_bit_changes_a_remembered_digest(tmp_path):
    file, place = tmp_path / "ct.nii", tmp_path / "digests.jsonl"
    file.write_bytes(b"voxels")
    known = hash_files([file])
    shortcuts = Shortcuts(place)
    shortcuts.learn(known)
    shortcuts.save()
    (right,) = known.values()

    def read():
        assert Shortcuts(place).known(file) in (None, right)

    require_found([place], read)


def test_no_flipped_bit_changes_a_picture_that_is_shown(tmp_path):
    jpeg = np.random.default_rng(0).bytes(5000)
    write_picture(tmp_path / "case.jpg", jpeg, fix="")
    assert (tmp_path / "case.jpg").read_bytes() == sealed_bytes(jpeg)

    def read():
        assert read_picture(tmp_path / "case.jpg") in (None, jpeg)

    require_found([tmp_path / "case.jpg"], read)


def test_no_flipped_bit_changes_the_time_that_a_report_tells(tmp_path):
    note_time(tmp_path / "cases", 12.5, prepared=3, kept=1)
    right = noted_time(tmp_path / "cases")

    def read():
        assert noted_time(tmp_path / "cases") in (None, right)

    require_found([tmp_path / ".liver3d" / "cases" / "times.json"], read)


def test_no_flipped_bit_changes_a_split(tmp_path):
    path = tmp_path / "split.json"
    write_split(path, Split(["a", "b"], ["c"], ["d"]))
    require_found([path], lambda: read_split(path, "abcd"))


def test_no_flipped_bit_changes_a_list_of_problems(tmp_path):
    path = tmp_path / "problems.json"
    problem = Problem("skipped", "readable", "7", "7.nii", "is not an image", "see")
    write_problems(path, [problem], {"7": [{"value": 1, "voxels": 20}]})
    require_found([path], lambda: read_problems(path))


def test_no_flipped_bit_changes_a_list_of_predictions(tmp_path):
    entry = predictions.Entry("k" * 64, [1, 2, 3], {"1.nii.gz": "d" * 64}, 30.5, ["odd"], None)
    predictions.Journal(tmp_path).add("1.nii.gz", entry)

    def read():
        return predictions.Journal(tmp_path)._entries

    require_found([tmp_path / predictions.NAME], read)


def test_no_flipped_bit_changes_a_bundle_that_is_run(cases, tmp_path):
    with one_thread():
        export(write_model(tmp_path / "best.pt"), tmp_path / "bundle", cases=cases)
    for name in ("preparation.json", "model.onnx"):
        require_found([tmp_path / "bundle" / name], lambda: read_bundle(tmp_path / "bundle"))
