"""The contract of the store, held by both formats."""

import contextlib
import hashlib
import itertools
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import h5py
import hdf5plugin  # noqa: F401 - the filter that plain h5py needs
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.case import AIR_HU, FORMAT_VERSION, CaseInfo, Patch
from cache.errors import StoreError
from cache.files import PARTIAL, remove, remove_partials, replacing, write_json
from cache.formats import backend_of, backends
from cache.grid import Box
from cache.manifest import (
    Manifest,
    entry_from_dict,
    entry_of,
    entry_to_dict,
    file_digests,
    read_manifest,
    write_manifest,
)
from cache.reader import CaseStore
from cache.verify import case_damages
from cache.writer import read_info, stored_cases, write_case
from cache.zarr_backend import ZarrBackend

ARRAYS = ("image", "mask", "source_mask", "foreground_zyx")
starts_zyx = st.tuples(*[st.integers(-45, 45)] * 3)
shapes_zyx = st.tuples(*[st.integers(1, 45)] * 3)


@pytest.fixture(params=["zarr", "hdf5"])
def backend(request):
    """The two storage formats, one after the other."""
    return backends()[request.param]


@pytest.fixture
def case(prepared_case):
    """One case of eight chunks."""
    return prepared_case()


@pytest.fixture
def case_store(backend, case, write_store):
    """A store that holds the case."""
    return CaseStore(write_store([case], format=backend.name))


def files_of(path):
    """All files of a stored case."""
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def state_of(root):
    """Name, digest and time of change of every file in a folder."""
    return {
        path.relative_to(root).as_posix(): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def bytes_of(path):
    """The bytes of a stored case, file by file."""
    return {file.relative_to(path.parent).as_posix(): file.read_bytes() for file in files_of(path)}


def stored_path(store):
    """Where the one case of a store lies."""
    (entry,) = store.manifest.cases.values()
    return store.root / entry.file


def flip_bit(path, offset):
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


def read_array(store, case_id, name):
    """One array of a case by the name it has in the store."""
    return getattr(store, name)(case_id)


def where_chunk_lies(path, name):
    """A file of the case and an offset in the middle of the compressed voxels of an array."""
    if path.suffix == ".zarr":
        (shard,) = files_of(path / name / "c")
        return shard, shard.stat().st_size // 3
    with h5py.File(path, "r") as file:
        chunk = file[name].id.get_chunk_info(0)
    return path, chunk.byte_offset + chunk.size // 2


class TestCaseStore:
    def test_what_was_written_is_read_back(self, case_store, case):
        for name, written in case.arrays().items():
            read = read_array(case_store, "case-1", name)
            np.testing.assert_array_equal(read, written)
            assert read.dtype == written.dtype
        assert case_store.info("case-1") == case.info

    def test_a_case_without_foreground_is_read_back(self, backend, prepared_case, write_store):
        none = np.zeros((0, 3), np.int32)
        case = replace(prepared_case(shape_zyx=(5, 6, 7)), foreground_zyx=none)
        store = CaseStore(write_store([case], format=backend.name))
        assert store.foreground_zyx("case-1").shape == (0, 3)
        assert store.foreground_zyx("case-1").dtype == np.int32

    def test_a_case_smaller_than_a_chunk_is_read_back(self, backend, prepared_case, write_store):
        case = prepared_case(shape_zyx=(1, 2, 3))
        store = CaseStore(write_store([case], format=backend.name))
        np.testing.assert_array_equal(store.image("case-1"), case.volume)

    def test_a_volume_that_is_no_contiguous_array_is_stored_as_it_looks(
        self, backend, case, write_store
    ):
        turned = replace(case, volume=np.asfortranarray(case.volume)[::-1])
        store = CaseStore(write_store([turned], format=backend.name))
        np.testing.assert_array_equal(store.image("case-1"), turned.volume)

    def test_case_ids_are_sorted(self, backend, prepared_case, write_store):
        cases = [prepared_case(name, shape_zyx=(3, 4, 5)) for name in ("b", "c", "a")]
        assert CaseStore(write_store(cases, format=backend.name)).case_ids == ["a", "b", "c"]

    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(start=starts_zyx, shape=shapes_zyx)
    def test_a_patch_is_the_same_slice_of_the_whole_in_air(self, case_store, case, start, shape):
        box = Box(start, tuple(np.add(start, shape).tolist()))
        volume, mask = case_store.read(Patch("case-1", box))
        # an array so large that every box lies inside it
        padding = [(100, 100)] * 3
        where = tuple(slice(a + 100, a + 100 + n) for a, n in zip(start, shape, strict=True))
        in_air = np.pad(case.volume, padding, constant_values=-1000)
        np.testing.assert_array_equal(volume, in_air[where])
        np.testing.assert_array_equal(mask, np.pad(case.mask, padding)[where])
        assert (volume.dtype, mask.dtype) == (np.int16, np.uint8)

    @pytest.mark.parametrize("start", [(-9, 0, 0), (0, 35, 0), (0, 0, 500), (-200, -200, -200)])
    def test_a_patch_wholly_outside_is_air_without_liver(self, case_store, start):
        box = Box(start, tuple(np.add(start, (9, 8, 7)).tolist()))
        volume, mask = case_store.read(Patch("case-1", box))
        np.testing.assert_array_equal(volume, np.full((9, 8, 7), AIR_HU))
        np.testing.assert_array_equal(mask, np.zeros((9, 8, 7)))

    def test_a_patch_of_an_unknown_case_is_refused_by_name(self, case_store):
        with pytest.raises(StoreError, match="no case 'case-2'"):
            case_store.read(Patch("case-2", Box((0, 0, 0), (1, 1, 1))))

    def test_a_store_that_is_not_there_names_the_command_that_makes_it(self, tmp_path):
        with pytest.raises(StoreError, match=r"python -m pipeline\.preprocess"):
            _ = CaseStore(tmp_path / "nothing").case_ids

    def test_reading_changes_no_file(self, case_store):
        before = state_of(case_store.root)
        case_store.info("case-1")
        for name in ARRAYS:
            read_array(case_store, "case-1", name)
        case_store.read(Patch("case-1", Box((-3, 4, 5), (9, 60, 33))))
        case_store.close()
        assert state_of(case_store.root) == before

    def test_a_store_nobody_may_write_to_can_be_read(self, case_store, case):
        for path in (case_store.root, *case_store.root.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        try:
            np.testing.assert_array_equal(case_store.image("case-1"), case.volume)
        finally:
            for path in (case_store.root, *case_store.root.rglob("*")):
                path.chmod(0o755 if path.is_dir() else 0o644)

    def test_what_a_reader_gives_is_no_window_on_the_store(self, case_store, case):
        case_store.image("case-1")[:] = 0
        np.testing.assert_array_equal(case_store.image("case-1"), case.volume)

    def test_after_closing_it_reads_again(self, case_store, case):
        case_store.image("case-1")
        case_store.close()
        np.testing.assert_array_equal(case_store.image("case-1"), case.volume)

    def test_nothing_is_opened_before_the_first_read(self, backend, tmp_path, case):
        store = CaseStore(tmp_path / "cases")  # there is no such folder yet
        path = write_case(tmp_path / "cases", case, backend)
        manifest = Manifest({"case-1": entry_of(case.info, tmp_path / "cases", path)}, {})
        write_manifest(tmp_path / "cases", manifest)
        np.testing.assert_array_equal(store.mask("case-1"), case.mask)

    @pytest.mark.parametrize("read_before", [False, True])
    def test_a_pickled_store_can_be_read_from(self, case_store, case, read_before):
        if read_before:
            case_store.image("case-1")
        copy = pickle.loads(pickle.dumps(case_store))
        np.testing.assert_array_equal(copy.image("case-1"), case.volume)

    def test_a_store_sent_to_a_spawned_process_reads_there(self, case_store, case):
        case_store.image("case-1")  # an open handle must not travel with it
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            volume = pool.apply(CaseStore.image, (case_store, "case-1"))
        np.testing.assert_array_equal(volume, case.volume)

    def test_threads_read_at_once_what_one_reads_alone(self, backend, prepared_case, write_store):
        cases = [prepared_case(str(seed), seed=seed) for seed in range(3)]
        store = CaseStore(write_store(cases, format=backend.name))
        rng = np.random.default_rng(22)
        starts = rng.integers(-5, 30, (150, 3)).tolist()
        patches = [
            Patch(str(number % 3), Box(tuple(start), tuple(np.add(start, (9, 12, 15)).tolist())))
            for number, start in enumerate(starts)
        ]
        with ThreadPoolExecutor(6) as threads:
            at_once = list(threads.map(store.read, patches))
        for patch, (volume, mask) in zip(patches, at_once, strict=True):
            alone = CaseStore(store.root).read(patch)
            np.testing.assert_array_equal(volume, alone[0])
            np.testing.assert_array_equal(mask, alone[1])

    def test_more_cases_than_are_held_open_are_read(self, backend, prepared_case, write_store):
        cases = [prepared_case(f"{n:03}", shape_zyx=(2, 3, 4), seed=n) for n in range(70)]
        store = CaseStore(write_store(cases, format=backend.name))
        for case in cases + cases[:3]:
            np.testing.assert_array_equal(store.image(case.info.case_id), case.volume)


class TestOlderStores:
    def test_a_case_written_before_labels_were_counted_is_read(self, prepared_case):
        fields = prepared_case().info.to_dict()
        del fields["label_counts"]
        assert CaseInfo.from_dict(fields).label_counts == []


class TestWriting:
    def test_a_write_that_fails_leaves_no_case_and_no_scrap(self, backend, case, tmp_path):
        # the first array is written, the second is none that can be stored
        broken = replace(case, mask=np.array([[[object()]]], object))
        with pytest.raises(Exception, match=r"(?i)object"):
            write_case(tmp_path / "cases", broken, backend)
        assert list((tmp_path / "cases").iterdir()) == []

    def test_a_write_that_fails_leaves_the_older_case_as_it_was(self, backend, case, tmp_path):
        path = write_case(tmp_path, case, backend)
        before = state_of(tmp_path)
        broken = replace(case, mask=np.array([[[object()]]], object))
        with pytest.raises(Exception, match=r"(?i)object"):
            write_case(tmp_path, broken, backend)
        assert state_of(tmp_path) == before
        assert read_info(path) == case.info

    def test_an_older_case_of_the_same_id_is_replaced(self, backend, prepared_case, tmp_path):
        write_case(tmp_path, prepared_case(seed=1), backend)
        newer = prepared_case(seed=2, shape_zyx=(4, 5, 6))
        path = write_case(tmp_path, newer, backend)
        write_manifest(tmp_path, Manifest({"case-1": entry_of(newer.info, tmp_path, path)}, {}))
        np.testing.assert_array_equal(CaseStore(tmp_path).image("case-1"), newer.volume)
        assert len(list(tmp_path.iterdir())) == 2

    @pytest.mark.skipif(sys.platform == "win32", reason="a file's size is limited on POSIX alone")
    def test_a_full_disk_is_a_readable_error_and_leaves_nothing(self, backend, tmp_path, repo):
        script = tmp_path / "full_disk.py"
        script.write_text(FULL_DISK, encoding="utf-8")
        command = [sys.executable, str(script), backend.name, str(tmp_path / "cases")]
        ended = subprocess.run(
            command, cwd=repo, env=with_path(repo), capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
        assert "cannot be written" in ended.stdout
        assert "free some space" in ended.stdout
        assert list((tmp_path / "cases").iterdir()) == []

    def test_the_same_case_gives_the_same_bytes_at_another_time(
        self, backend, prepared_case, tmp_path
    ):
        # large enough that several threads would finish its chunks in another order each time
        case = prepared_case(shape_zyx=(70, 75, 90))
        first = write_case(tmp_path / "first", case, backend)
        time.sleep(1.1)  # HDF5 counts times in seconds
        second = write_case(tmp_path / "second", case, backend)
        assert bytes_of(first) == bytes_of(second)

    def test_a_case_is_few_files(self, backend, case, tmp_path):
        path = write_case(tmp_path, case, backend)
        assert len(files_of(path)) == {"zarr": 9, "hdf5": 1}[backend.name]

    def test_every_whole_case_is_found_without_a_manifest(self, backend, case, tmp_path):
        path = write_case(tmp_path, case, backend)
        assert stored_cases(tmp_path) == {path: case.info}

    def test_the_ending_of_a_path_names_its_format(self, backend, case, tmp_path):
        assert backend_of(write_case(tmp_path, case, backend)) == backend


class TestDamage:
    @pytest.mark.parametrize("name", ARRAYS)
    def test_a_flipped_bit_in_a_chunk_is_an_error_naming_the_case(self, case_store, name):
        flip_bit(*where_chunk_lies(stored_path(case_store), name))
        with pytest.raises(StoreError, match=f"case case-1 is damaged: its {name}"):
            read_array(case_store, "case-1", name)

    def test_a_flipped_bit_in_one_chunk_leaves_the_others_readable(self, case_store, case):
        flip_bit(*where_chunk_lies(stored_path(case_store), "image"))
        far = Box((33, 33, 33), case.volume.shape)
        volume, _ = case_store.read(Patch("case-1", far))
        np.testing.assert_array_equal(volume, case.volume[33:, 33:, 33:])
        with pytest.raises(StoreError, match="damaged"):
            case_store.read(Patch("case-1", Box((0, 0, 0), (1, 1, 1))))

    @pytest.mark.parametrize("array", ["image", "mask", "source_mask", "foreground_zyx"])
    def test_no_flipped_bit_gives_other_voxels(self, backend, prepared_case, write_store, array):
        case = prepared_case(shape_zyx=(5, 6, 7))
        root = write_store([case], format=backend.name)
        expected = case.arrays()[array]
        for file in files_of(stored_path(CaseStore(root))):
            whole = file.read_bytes()
            for offset in range(0, len(whole), 53):
                flip_bit(file, offset)
                try:
                    read = read_array(CaseStore(root), "case-1", array)
                except StoreError:
                    continue
                finally:
                    file.write_bytes(whole)
                np.testing.assert_array_equal(read, expected, err_msg=f"{file.name} {offset}")

    def test_no_flipped_bit_in_the_attributes_is_another_error(
        self, backend, prepared_case, write_store
    ):
        case = prepared_case(shape_zyx=(5, 6, 7))
        path = stored_path(CaseStore(write_store([case], format=backend.name)))
        file = path / "zarr.json" if path.is_dir() else path
        whole = file.read_bytes()
        for offset in range(0, len(whole), 41):
            flip_bit(file, offset)
            with contextlib.suppress(StoreError):
                read_info(path)
            file.write_bytes(whole)

    def test_no_flipped_bit_in_the_attributes_changes_what_is_known_of_a_case(
        self, backend, prepared_case, write_store
    ):
        root = write_store([prepared_case(shape_zyx=(5, 6, 7))], format=backend.name)
        expected = CaseStore(root).info("case-1")
        path = stored_path(CaseStore(root))
        file = path / "zarr.json" if path.is_dir() else path
        whole = file.read_bytes()
        for offset in range(0, len(whole), 17):
            flip_bit(file, offset)
            with contextlib.suppress(StoreError):
                assert CaseStore(root).info("case-1") == expected, f"byte {offset}"
            file.write_bytes(whole)

    def test_a_flipped_bit_in_a_zarr_cases_metadata_names_the_file_and_the_repair(
        self, case, write_store
    ):
        root = write_store([case], format="zarr")
        for name, read in (("zarr.json", "info"), ("source_mask/zarr.json", "source_mask")):
            flip_bit(root / "case-1.zarr" / name, 30)
            with pytest.raises(StoreError, match="the bytes that were written") as error:
                getattr(CaseStore(root), read)("case-1")
            assert error.value.where == root / "case-1.zarr" / name
            assert "--deep --repair" in error.value.fix
            flip_bit(root / "case-1.zarr" / name, 30)

    def test_a_case_that_is_gone_is_an_error_naming_it(self, case_store):
        remove(stored_path(case_store))
        with pytest.raises(StoreError, match="case case-1 is damaged"):
            case_store.image("case-1")
        with pytest.raises(StoreError, match="case-1"):
            case_store.info("case-1")

    def test_a_case_cut_short_is_an_error(self, case_store):
        file, _ = where_chunk_lies(stored_path(case_store), "image")
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(StoreError, match="damaged"):
            case_store.image("case-1")

    def test_a_damaged_case_is_not_taken_for_a_whole_one(self, backend, case, tmp_path):
        path = write_case(tmp_path, case, backend)
        file = path / "zarr.json" if path.is_dir() else path
        file.write_bytes(b"{")
        assert stored_cases(tmp_path) == {}

    def test_a_newer_format_is_refused_by_name(self, backend, case, tmp_path):
        newer = {**case.info.to_dict(), "format_version": FORMAT_VERSION + 1}
        path = tmp_path / f"case-1{backend.suffix}"
        backend.write(path, case.arrays(), newer)
        expected = f"format version {FORMAT_VERSION + 1}; this liver3d reads up to {FORMAT_VERSION}"
        with pytest.raises(StoreError, match=expected):
            read_info(path)


class TestOtherReaders:
    def test_plain_zarr_python_reads_it(self, case, tmp_path):
        path = write_case(tmp_path, case, backends()["zarr"])
        group = zarr.open_group(path, mode="r")
        for name, written in case.arrays().items():
            np.testing.assert_array_equal(group[name][...], written)
        assert dict(group.attrs) == case.info.to_dict()

    def test_plain_h5py_reads_an_hdf5_case(self, case, tmp_path):
        path = write_case(tmp_path, case, backends()["hdf5"])
        with h5py.File(path, "r") as file:
            for name, written in case.arrays().items():
                np.testing.assert_array_equal(file[name][...], written)
            attributes = {name: json.loads(value) for name, value in file.attrs.items()}
        assert attributes == case.info.to_dict()


class TestManifest:
    @pytest.fixture
    def entry(self, case, tmp_path):
        """The line of one case that lies in the store."""
        return entry_of(case.info, tmp_path, write_case(tmp_path, case, backends()["zarr"]))

    def test_a_manifest_is_read_back(self, entry, tmp_path):
        written = Manifest({"case-1": entry}, {"crop": "body"})
        write_manifest(tmp_path, written)
        assert read_manifest(tmp_path) == written
        assert (entry.shape_zyx, entry.spacing_zyx_mm) == ((37, 35, 34), (2.5, 0.8, 0.7))

    def test_a_line_that_says_nothing_of_the_source_grid_is_read_without_it(self, entry):
        assert entry.source_shape_zyx == (40, 40, 38)
        fields = entry_to_dict(entry)
        del fields["source_shape_zyx"], fields["source_spacing_zyx_mm"]
        older = replace(entry, source_shape_zyx=None, source_spacing_zyx_mm=None)
        assert entry_from_dict(fields) == older

    def test_the_digest_of_a_manifest_depends_on_ids_and_keys_alone(self, entry):
        a, b = replace(entry, case_id="a"), replace(entry, case_id="b", files={}, liver_ml=1.0)
        digest = Manifest({"a": a, "b": b}, {}).digest
        assert Manifest({"b": replace(b, liver_ml=2.0), "a": a}, {"x": 1}).digest == digest
        assert Manifest({"a": a}, {}).digest != digest
        assert Manifest({"a": a, "b": replace(b, key="other")}, {}).digest != digest

    def test_a_manifest_lists_every_file_of_a_case_with_size_and_digest(
        self, backend, case, tmp_path
    ):
        path = write_case(tmp_path, case, backend)
        files = entry_of(case.info, tmp_path, path).files
        contents = bytes_of(path)
        assert list(files) == sorted(contents)
        assert {name: (one.size_bytes, one.sha256) for name, one in files.items()} == {
            name: (len(content), hashlib.sha256(content).hexdigest())
            for name, content in contents.items()
        }

    def test_findings_and_names_that_are_no_text_are_read_back(self, entry, tmp_path):
        # what Linux makes of a file name in Latin-1, "Gr\xf6\xdfe"
        name = "Gr\udcf6\udcdfe"
        odd = replace(entry, case_id=name, file=name, findings=[{"fact": name}])
        write_manifest(tmp_path, Manifest({name: odd}, {}))
        manifest = read_manifest(tmp_path)
        assert manifest.cases == {name: odd}
        assert len(manifest.digest) == 64

    def test_the_manifests_own_digest_is_taken_with_zeros_in_the_digests_place(
        self, entry, tmp_path
    ):
        write_manifest(tmp_path, Manifest({"case-1": entry}, {}))
        text = (tmp_path / "manifest.json").read_text(encoding="utf-8")
        own = json.loads(text)["sha256"]
        zeroed = text.replace(own, "0" * 64)
        assert hashlib.sha256(zeroed.encode()).hexdigest() == own

    @pytest.mark.parametrize(
        "bits_a_byte", [1, pytest.param(8, marks=pytest.mark.slow)], ids=["one", "all"]
    )
    def test_every_flipped_bit_in_a_manifest_is_reported_as_damage(
        self, entry, tmp_path, bits_a_byte
    ):
        small = replace(entry, files=dict(list(entry.files.items())[:1]))
        write_manifest(tmp_path, Manifest({"case-1": small}, {"ä": None}))
        path = tmp_path / "manifest.json"
        whole = path.read_bytes()
        for place, more in itertools.product(range(len(whole)), range(bits_a_byte)):
            content = bytearray(whole)
            content[place] ^= 1 << (place + more) % 8
            path.write_bytes(content)
            with pytest.raises(StoreError, match="the manifest is damaged"):
                read_manifest(tmp_path)

    def test_a_manifest_that_was_edited_is_refused(self, entry, tmp_path):
        write_manifest(tmp_path, Manifest({"case-1": entry}, {"margin_mm": 5}))
        path = tmp_path / "manifest.json"
        edited = path.read_text(encoding="utf-8").replace('"margin_mm": 5', '"margin_mm": 7')
        path.write_text(edited, encoding="utf-8")
        with pytest.raises(StoreError, match="damaged"):
            read_manifest(tmp_path)

    @pytest.mark.parametrize(
        "text",
        ["", "{", "[]", "{}", '{"format_version": 2, "cases": [], "params": {}}', '{"a": \xe9}'],
    )
    def test_a_damaged_one_is_refused_with_the_command_that_mends_it(self, text, tmp_path):
        (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
        with pytest.raises(StoreError, match=r"damaged[^$]*python -m pipeline\.preprocess"):
            read_manifest(tmp_path)

    def test_a_newer_one_is_refused_by_name(self, monkeypatch, tmp_path):
        monkeypatch.setattr("cache.manifest.FORMAT_VERSION", 99)
        write_manifest(tmp_path, Manifest({}, {}))
        monkeypatch.undo()
        with pytest.raises(StoreError, match="format version 99; this liver3d reads up to"):
            read_manifest(tmp_path)

    def test_an_older_one_without_digests_is_refused_with_the_command_that_mends_it(self, tmp_path):
        text = json.dumps({"format_version": 1, "cases": [], "params": {}})
        (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
        expected = r"format version 1, of an older liver3d[^$]*python -m pipeline\.preprocess again"
        with pytest.raises(StoreError, match=expected):
            read_manifest(tmp_path)


class TestWholeOrNothing:
    def test_a_file_appears_only_when_it_is_finished(self, tmp_path):
        with replacing(tmp_path / "a.txt") as partial:
            partial.write_text("new")
            assert not (tmp_path / "a.txt").exists()
        assert (tmp_path / "a.txt").read_text() == "new"
        assert len(list(tmp_path.iterdir())) == 1

    def test_an_error_leaves_the_old_file_and_no_scrap(self, tmp_path):
        (tmp_path / "a.txt").write_text("old")
        with pytest.raises(ZeroDivisionError):
            write_half(tmp_path / "a.txt")
        assert (tmp_path / "a.txt").read_text() == "old"
        assert len(list(tmp_path.iterdir())) == 1

    def test_what_a_writer_killed_days_ago_left_is_gone_after_the_next(self, tmp_path):
        scrap = left_by_a_killed_writer(tmp_path / "a")
        two_days_ago = time.time() - 2 * 24 * 3600
        os.utime(scrap, (two_days_ago, two_days_ago))
        (tmp_path / "a").mkdir()
        with replacing(tmp_path / "a") as partial:
            partial.mkdir()
            (partial / "whole").write_text("whole")
        assert [path.name for path in tmp_path.rglob("*")] == ["a", "whole"]

    def test_a_process_searches_a_folder_once_for_what_killed_writers_left(self, tmp_path, repo):
        write_json(tmp_path / "a", 1)
        left = left_by_a_killed_writer(tmp_path / "a").rename(tmp_path / f"{PARTIAL}0-1-2")
        os.utime(left, (0, 0))
        write_json(tmp_path / "a", 2)
        assert left.is_dir()
        script = "import sys; from pathlib import Path; from cache.files import write_json"
        script = f"{script}; write_json(Path(sys.argv[1]), 3)"
        command = [sys.executable, "-c", script, str(tmp_path / "a")]
        subprocess.run(command, env=with_path(repo), check=True)
        assert [path.name for path in tmp_path.iterdir()] == ["a"]

    def test_what_may_be_of_a_writer_at_work_stays(self, tmp_path):
        scrap = left_by_a_killed_writer(tmp_path / "a")
        write_json(tmp_path / "a", 1)
        assert scrap.is_dir()

    def test_what_killed_writers_left_is_removed_on_demand(self, tmp_path):
        left_by_a_killed_writer(tmp_path / "a")
        (tmp_path / f"{PARTIAL}b").write_text("half")
        (tmp_path / "whole").mkdir()
        remove_partials(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["whole"]

    def test_two_writers_of_one_path_never_meet(self, tmp_path):
        with replacing(tmp_path / "a.txt") as first, replacing(tmp_path / "a.txt") as second:
            first.write_text("first")
            second.write_text("second")
            assert (first.read_text(), second.read_text()) == ("first", "second")
        assert (tmp_path / "a.txt").read_text() == "first"  # which ended last
        assert len(list(tmp_path.iterdir())) == 1

    def test_a_temporary_file_has_the_name_of_the_one_it_replaces(self, tmp_path):
        # torch and others write the name into the file; equal runs must give equal bytes
        with replacing(tmp_path / "last.pt") as partial:
            assert partial.name == "last.pt"
            partial.touch()

    def test_a_folder_removed_while_it_is_written_never_appears(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="another run"):
            write_with_a_removal_in_between(tmp_path / "1.zarr")
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_whose_deletion_is_killed_no_longer_has_its_name(self, tmp_path, repo):
        (tmp_path / "1.zarr" / "image").mkdir(parents=True)
        for name in ("image/zarr.json", "zarr.json"):
            (tmp_path / "1.zarr" / name).write_text("{}")
        command = [sys.executable, "-c", KILLED_DELETION, str(tmp_path / "1.zarr")]
        ended = subprocess.run(command, env=with_path(repo), check=False)
        assert ended.returncode == 9
        (left,) = tmp_path.iterdir()
        assert left.name.startswith(PARTIAL)
        assert len(files_of(left)) == 1  # one was deleted, one was not


def left_by_a_killed_writer(path):
    """Begin to replace a path as a process does that is killed then; gives the temporary folder."""
    writer = replacing(path)
    partial = writer.__enter__()
    partial.write_text("half")
    copy = partial.parent.with_name(f"{PARTIAL}killed")
    shutil.copytree(partial.parent, copy)
    with contextlib.suppress(ZeroDivisionError):
        writer.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    return copy


def write_with_a_removal_in_between(path):
    """Write a folder as zarr does, making parents anew, while another run tidies up."""
    with replacing(path) as partial:
        partial.mkdir()
        (partial / "first").touch()
        remove_partials(path.parent)
        partial.mkdir(parents=True)
        (partial / "second").touch()


def write_half(path):
    """Begin to replace a file, and fail."""
    with replacing(path) as partial:
        partial.write_text("half")
        _ = 1 / 0


def with_path(repo):
    """The environment of a script that imports our packages."""
    return {**os.environ, "PYTHONPATH": str(repo)}


KILLED_DELETION = '''
"""Delete a folder, and die when the second file in it is about to go."""

import os
import sys
from pathlib import Path

from cache.files import remove

deleted = []


def die_at_the_second(event, arguments):
    if event == "os.remove" and str(arguments[0]).endswith("zarr.json"):
        deleted.append(arguments)
        if len(deleted) == 2:
            os._exit(9)


sys.addaudithook(die_at_the_second)
remove(Path(sys.argv[1]))
'''

DELETED_BY_ANOTHER = '''
"""Delete a folder that another process deletes between the look at it and its renaming."""

import os
import sys
from pathlib import Path

from cache.files import remove


def be_faster(event, arguments):
    if event == "os.rename":
        os.rmdir(arguments[0])


sys.addaudithook(be_faster)
remove(Path(sys.argv[1]))
'''

ALWAYS_TAKEN = '''
"""Replace a folder while another writer puts its own there before every attempt."""

import os
import sys
from pathlib import Path

from cache.files import replacing

place = Path(sys.argv[1])


def be_faster(event, arguments):
    if event == "os.rename" and Path(arguments[1]) == place:
        (place / "another").mkdir(parents=True)


sys.addaudithook(be_faster)
with replacing(place) as partial:
    partial.mkdir()
'''

FULL_DISK = '''
"""Write a case while no file may grow beyond 100 kB."""

import resource
import signal
import sys
from pathlib import Path

import numpy as np

from cache.formats import backends
from cache.case import CaseInfo, PreparedCase
from cache.errors import StoreError
from cache.grid import Box, Grid
from cache.writer import write_case

noise = np.random.default_rng(0).integers(-1000, 1000, (70, 71, 72)).astype(np.int16)
mask = (noise > 0).astype(np.uint8)
grid = Grid(noise.shape, (1.0, 1.0, 1.0))
whole = Box.whole(noise.shape)
info = CaseInfo("1", "1", "", grid, "LPS", whole, grid, 1.0, {}, "", {}, [])
case = PreparedCase(info, noise, mask, mask, np.argwhere(mask).astype(np.int32))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_case(Path(sys.argv[2]), case, backends()[sys.argv[1]])
except StoreError as error:
    print(error)
'''


WRITERS = 3
WRITES = 15  # each; in most of them, two writers are at the same step


def write_again_and_again(root, case, backend):
    """Write a case many times, and give the entries of what lay there each time."""
    return [entry_of(case.info, root, write_case(root, case, backend)) for _ in range(WRITES)]


class TestTwoWritersOfOneCase:
    @pytest.fixture
    def small(self, prepared_case):
        """A case that is written in no time."""
        return prepared_case(shape_zyx=(5, 6, 7))

    def test_two_threads_that_write_one_case_never_disturb_each_other(
        self, backend, small, tmp_path
    ):
        alone = entry_of(small.info, tmp_path / "a", write_case(tmp_path / "a", small, backend))
        root = tmp_path / "b"
        with ThreadPoolExecutor(WRITERS) as threads:
            found = [
                threads.submit(write_again_and_again, root, small, backend) for _ in range(WRITERS)
            ]
        assert [future.result() for future in found] == WRITERS * [WRITES * [alone]]
        assert [path.name for path in root.iterdir()] == [alone.file]
        assert case_damages(root, alone, shortcuts=None) == []

    @pytest.mark.slow
    def test_two_processes_that_write_one_case_never_disturb_each_other(self, small, tmp_path):
        zarr_backend = backends()["zarr"]
        arguments = WRITERS * [(tmp_path / "b", small, zarr_backend)]
        with multiprocessing.get_context("spawn").Pool(WRITERS) as pool:
            found = pool.starmap(write_again_and_again, arguments, chunksize=1)
        assert all(len(entry.files) == 9 for entries in found for entry in entries)
        assert [path.name for path in (tmp_path / "b").iterdir()] == ["case-1.zarr"]
        assert case_damages(tmp_path / "b", found[0][0], shortcuts=None) == []

    def test_hashing_what_is_being_replaced_gives_one_writing_whole(self, prepared_case, tmp_path):
        # written by turns; were files of both in one listing, it would equal neither
        cases = [prepared_case(shape_zyx=(5, 6, 7), seed=seed) for seed in range(2)]
        wanted = []
        for case in cases:
            path = write_case(tmp_path, case, backends()["zarr"])
            wanted.append(file_digests(tmp_path, path))
        with ThreadPoolExecutor(2) as threads:
            writers = [
                threads.submit(write_again_and_again, tmp_path, case, backends()["zarr"])
                for case in cases
            ]
            while not all(writer.done() for writer in writers):
                assert file_digests(tmp_path, path) in wanted

    def test_a_case_that_is_not_there_has_no_digests(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="not there"):
            file_digests(tmp_path, tmp_path / "1.zarr")

    def test_removing_what_another_removes_is_no_error(self, tmp_path, repo):
        (tmp_path / "1.zarr").mkdir()
        command = [sys.executable, "-c", DELETED_BY_ANOTHER, str(tmp_path / "1.zarr")]
        ended = subprocess.run(command, env=with_path(repo), check=False, capture_output=True)
        assert ended.returncode == 0, ended.stderr
        assert list(tmp_path.iterdir()) == []


class TestReplacing:
    def test_a_place_that_is_taken_every_time_is_an_error_at_last(self, tmp_path, repo):
        command = [sys.executable, "-c", ALWAYS_TAKEN, str(tmp_path / "1.zarr")]
        ended = subprocess.run(
            command, env=with_path(repo), check=False, capture_output=True, text=True
        )
        assert ended.returncode == 1
        assert "OSError" in ended.stderr.splitlines()[-1]
        assert [path.name for path in tmp_path.iterdir()] == ["1.zarr"]  # of the other writer

    def test_a_file_never_takes_the_place_of_a_folder(self, tmp_path):
        folder = tmp_path / "1.nii.gz"  # as in image/1.nii.gz/1.nii.gz
        folder.mkdir()
        (folder / "1.nii.gz").write_bytes(b"somebody's CT")
        with pytest.raises(IsADirectoryError), replacing(folder) as partial:
            partial.write_bytes(b"a mask")
        assert (folder / "1.nii.gz").read_bytes() == b"somebody's CT"
        assert list(tmp_path.iterdir()) == [folder]


def test_open_cases_share_one_pool_of_memory(write_store, prepared_case):
    store = CaseStore(write_store([prepared_case("a"), prepared_case("b", seed=1)]))
    store.image("a"), store.image("b")
    contexts = {id(arrays._context) for arrays in store._open.values()}
    assert len(contexts) == 1


def test_the_case_used_longest_ago_is_given_back_first(write_store, prepared_case, monkeypatch):
    monkeypatch.setattr(ZarrBackend, "open_cases", 2)
    store = CaseStore(write_store([prepared_case(name, seed=ord(name)) for name in "abc"]))
    for name in "abac":
        store.image(name)
    assert set(store._open) == {"a", "c"}


class TestAbandonedWriters:
    """What a killed writer left is deleted by the next one in the same folder."""

    def left_by(self, folder, pid):
        # elsewhere: a process searches a folder for such leftovers at its first write alone
        probe = folder / "elsewhere" / "probe.json"
        with replacing(probe) as partial:
            name = partial.parent.name
            partial.write_text("{}")
        machine = name.removeprefix(PARTIAL).partition("-")[0]
        scrap = folder / f"{PARTIAL}{machine}-{pid:x}-00112233"
        scrap.mkdir()
        return scrap

    def test_a_folder_of_a_process_that_is_no_more_goes(self, tmp_path):
        ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                               capture_output=True, text=True, check=True)  # fmt: skip
        scrap = self.left_by(tmp_path, int(ended.stdout))
        write_json(tmp_path / "a.json", {})
        assert not scrap.exists()

    def test_a_folder_of_a_process_that_lives_stays(self, tmp_path):
        scrap = self.left_by(tmp_path, os.getppid())
        write_json(tmp_path / "a.json", {})
        assert scrap.exists()
