"""Reading patches into the caller's arrays: any box, several at once, damaged, forked."""

import logging
import os
import pickle
import select
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace

import h5py
import hdf5plugin  # noqa: F401 - the filter that plain h5py needs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.case import Patch
from cache.errors import StoreError
from cache.formats import backends
from cache.grid import Box
from cache.manifest import case_files, read_manifest, write_manifest
from cache.reader import CaseStore
from tiny import python

SHAPE_ZYX = (37, 35, 34)  # eight chunks
INNER = Patch("case-1", Box((3, 2, 1), (36, 34, 33)))  # a part of all of them
PATIENCE_S = 60  # for a forked process; it needs one second
starts_zyx = st.tuples(*[st.integers(-45, 45)] * 3)
shapes_zyx = st.tuples(*[st.integers(1, 45)] * 3)


@pytest.fixture(params=["zarr", "hdf5"])
def backend(request):
    """The two storage formats, one after the other."""
    return backends()[request.param]


@pytest.fixture
def case(prepared_case):
    """One case of eight chunks."""
    return prepared_case(shape_zyx=SHAPE_ZYX)


@pytest.fixture
def root(backend, case, write_store):
    """A folder with a store that holds the case."""
    return write_store([case], format=backend.name)


def in_air(case):
    """Volume and mask of a case in arrays so large that every box lies inside."""
    padding = [(100, 100)] * 3
    return np.pad(case.volume, padding, constant_values=-1000), np.pad(case.mask, padding)


def cut(large, patch):
    """The part of such arrays that a patch must be."""
    corners = zip(patch.box.start_zyx, patch.box.stop_zyx, strict=True)
    where = tuple(slice(a + 100, b + 100) for a, b in corners)
    return large[0][where], large[1][where]


def whole_in_air(case, patch):
    """What a patch of a case must be."""
    return cut(in_air(case), patch)


def room(shape_zyx, *, is_contiguous=True):
    """Arrays to read into, full of what no case has; the others reversed in every second voxel."""
    if is_contiguous:
        return np.full(shape_zyx, 7777, np.int16), np.full(shape_zyx, 77, np.uint8)
    z, y, x = shape_zyx
    volume, mask = np.full((z, y + 2, 2 * x), 7777, np.int16), np.full((x, y, z), 77, np.uint8)
    return volume[::-1, 1:-1, ::2], mask.transpose(2, 1, 0)


def assert_is(pair, expected):
    """Compare volume and mask."""
    np.testing.assert_array_equal(pair[0], expected[0])
    np.testing.assert_array_equal(pair[1], expected[1])


def spoil(path, name, *, every=1):
    """Flip a bit in the middle of chunks of an array: of all, or of every so many."""
    if path.suffix == ".zarr":
        (file,) = case_files(path / name / "c")
        # noise is stored in chunks of one size, one after the other
        size = file.stat().st_size
        places = [(2 * number + 1) * size // 16 for number in range(8)]
    else:
        with h5py.File(path, "r") as stored:
            dataset, file = stored[name].id, path
            chunks = [dataset.get_chunk_info(number) for number in range(dataset.get_num_chunks())]
        places = [chunk.byte_offset + chunk.size // 2 for chunk in chunks]
    content = bytearray(file.read_bytes())
    for place in places[::every]:
        content[place] ^= 0x10
    file.write_bytes(content)


class TestPatches:
    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(start=starts_zyx, shape=shapes_zyx, is_contiguous=st.booleans())
    def test_any_box_is_the_same_slice_of_the_whole_in_air(
        self, root, case, start, shape, is_contiguous
    ):
        patch = Patch("case-1", Box(start, tuple(np.add(start, shape).tolist())))
        out = room(shape, is_contiguous=is_contiguous)
        read = CaseStore(root).read(patch, out)
        assert read[0] is out[0]
        assert read[1] is out[1]
        assert_is(out, whole_in_air(case, patch))

    def test_nothing_beside_the_callers_part_of_an_array_is_touched(self, root):
        volume, mask = room((40, 40, 70))
        inside = (slice(2, 35), slice(3, 35), slice(1, 65, 2))
        CaseStore(root).read(INNER, (volume[inside], mask[inside]))
        volume[inside], mask[inside] = 7777, 77
        assert (volume == 7777).all()
        assert (mask == 77).all()

    @pytest.mark.parametrize(
        ("volume", "mask"),
        [
            (np.zeros((33, 32, 31), np.int16), np.zeros((33, 32, 32), np.uint8)),
            (np.zeros((33, 32, 32), np.int16), np.zeros((32, 33, 32), np.uint8)),
            (np.zeros((33, 32, 32), np.float32), np.zeros((33, 32, 32), np.uint8)),
            (np.zeros((33, 32, 32), ">i2"), np.zeros((33, 32, 32), np.uint8)),
            (np.zeros((33, 32, 32), np.int16), np.zeros((33, 32, 32), np.int8)),
            (np.zeros((33, 32, 32), np.int16), np.broadcast_to(np.uint8(0), (33, 32, 32))),
        ],
        ids=["smaller", "turned", "float", "big endian", "signed", "read-only"],
    )
    def test_an_array_that_does_not_fit_is_refused_before_anything_is_read(
        self, root, volume, mask
    ):
        fitting = room(INNER.box.shape_zyx)
        with pytest.raises(ValueError, match="array"):
            CaseStore(root).read_all([INNER, INNER], [fitting, (volume, mask)])
        assert (fitting[0] == 7777).all()

    def test_patches_and_arrays_must_be_as_many(self, root):
        fitting = room(INNER.box.shape_zyx)
        with pytest.raises(ValueError, match="zip"):
            CaseStore(root).read_all([INNER, INNER], [fitting])
        assert (fitting[0] == 7777).all()

    def test_several_are_read_each_into_its_own_arrays(self, backend, prepared_case, write_store):
        cases = {str(seed): prepared_case(str(seed), seed=seed) for seed in range(3)}
        store = CaseStore(write_store(cases.values(), format=backend.name))
        patches = [
            Patch("2", Box((-4, 3, 5), (12, 40, 33))),
            Patch("0", Box((90, 90, 90), (92, 93, 94))),
            Patch("1", Box((0, 0, 0), SHAPE_ZYX)),
            Patch("2", Box((-4, 3, 5), (12, 40, 33))),
        ]
        outs = [room(patch.box.shape_zyx) for patch in patches]
        store.read_all(patches, outs)
        for patch, out in zip(patches, outs, strict=True):
            assert_is(out, whole_in_air(cases[patch.case_id], patch))

    def test_reading_no_patch_at_all_is_not_an_error(self, root):
        CaseStore(root).read_all([], [])

    def test_threads_read_the_right_voxels_of_more_cases_than_may_be_open(
        self, backend, prepared_case, write_store, monkeypatch
    ):
        monkeypatch.setattr(type(backend), "open_cases", 2)
        cases = {str(seed): prepared_case(str(seed), seed=seed) for seed in range(5)}
        store = CaseStore(write_store(cases.values(), format=backend.name))
        rng = np.random.default_rng(41)
        starts = rng.integers(-5, 30, (200, 3)).tolist()
        patches = [
            Patch(str(rng.integers(5)), Box(tuple(start), tuple(np.add(start, (9, 12, 15)))))
            for start in starts
        ]
        with ThreadPoolExecutor(4) as threads:
            read = list(threads.map(store.read, patches))
        large = {case_id: in_air(case) for case_id, case in cases.items()}
        for patch, pair in zip(patches, read, strict=True):
            assert_is(pair, cut(large[patch.case_id], patch))


class TestMemory:
    def test_without_a_pool_every_read_is_of_the_disk(self, root):
        store = CaseStore(root, decoded_bytes=0)
        store.read(INNER)
        spoil(root / store.manifest.cases["case-1"].file, "image")
        with pytest.raises(StoreError, match="case case-1 is damaged: its image"):
            store.read(INNER)

    def test_with_a_pool_what_was_decoded_is_kept(self, root, case):
        store = CaseStore(root)
        store.read(INNER)
        spoil(root / store.manifest.cases["case-1"].file, "image")
        assert_is(store.read(INNER), whole_in_air(case, INNER))

    def test_a_pickled_store_keeps_the_size_of_its_pool(self, root):
        copy = pickle.loads(pickle.dumps(CaseStore(root, decoded_bytes=0)))
        copy.read(INNER)
        spoil(root / copy.manifest.cases["case-1"].file, "image")
        with pytest.raises(StoreError, match="damaged"):
            copy.read(INNER)

    def test_liver_voxels_are_read_once(self, root, case):
        store = CaseStore(root)
        store.foreground_zyx("case-1")
        remove_cases(root)
        np.testing.assert_array_equal(store.foreground_zyx("case-1"), case.foreground_zyx)

    def test_liver_voxels_that_are_kept_cannot_be_changed(self, root):
        with pytest.raises(ValueError, match="read-only"):
            CaseStore(root).foreground_zyx("case-1")[:] = 0

    def test_liver_voxels_of_few_cases_are_kept(
        self, backend, prepared_case, write_store, monkeypatch
    ):
        monkeypatch.setattr("cache.reader.FOREGROUND_CASES", 2)
        cases = [prepared_case(name, shape_zyx=(5, 6, 7)) for name in "abc"]
        root = write_store(cases, format=backend.name)
        store = CaseStore(root)
        for name in "abac":
            store.foreground_zyx(name)
        store._open.clear()
        remove_cases(root)
        store.foreground_zyx("a"), store.foreground_zyx("c")
        with pytest.raises(StoreError, match="case b is damaged"):
            store.foreground_zyx("b")


def remove_cases(root):
    """Delete all cases of a store, but not its manifest."""
    for path in root.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix == ".h5":
            path.unlink()


class TestDamage:
    @pytest.mark.parametrize("name", ["image", "mask"])
    def test_one_damaged_case_of_several_is_named(self, backend, prepared_case, write_store, name):
        cases = [prepared_case(case_id, seed=ord(case_id)) for case_id in "abc"]
        root = write_store(cases, format=backend.name)
        spoil(root / f"b{backend.suffix}", name)
        patches = [Patch(case_id, INNER.box) for case_id in "abc"]
        outs = [room(INNER.box.shape_zyx) for _ in patches]
        with pytest.raises(StoreError, match=f"case b is damaged: its {name}") as caught:
            CaseStore(root).read_all(patches, outs)
        assert caught.value.fix == "run python -m pipeline.verify --deep --repair"

    def test_the_first_of_several_faults_is_told(self, backend, prepared_case, write_store):
        cases = [prepared_case(case_id, seed=ord(case_id)) for case_id in "abc"]
        root = write_store(cases, format=backend.name)
        for case_id in "bc":
            spoil(root / f"{case_id}{backend.suffix}", "image")
        patches = [Patch(case_id, INNER.box) for case_id in "abc"]
        outs = [room(INNER.box.shape_zyx) for _ in patches]
        with pytest.raises(StoreError, match="case b is damaged"):
            CaseStore(root).read_all(patches, outs)

    def test_after_a_fault_nobody_writes_into_the_arrays(self, backend, prepared_case, write_store):
        cases = [prepared_case(case_id, shape_zyx=(64, 64, 64), seed=ord(case_id))
                 for case_id in "abcdef"]  # fmt: skip
        root = write_store(cases, format=backend.name)
        spoil(root / f"a{backend.suffix}", "image", every=2)
        patches = [Patch(case_id, Box.whole((64, 64, 64))) for case_id in "abcdef"]
        outs = [room((64, 64, 64)) for _ in patches]
        for _ in range(5):
            with pytest.raises(StoreError, match="case a"):
                CaseStore(root, decoded_bytes=0).read_all(patches, outs)
            for volume, mask in outs:
                volume.fill(7777), mask.fill(77)
            time.sleep(0.03)
            assert all((volume == 7777).all() and (mask == 77).all() for volume, mask in outs)

    @pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no such timer")
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_after_an_interruption_nobody_writes_into_the_arrays(
        self, backend, prepared_case, write_store
    ):
        case = prepared_case(shape_zyx=(96, 96, 96))
        store = CaseStore(write_store([case], format=backend.name), decoded_bytes=0)
        patches = 4 * [Patch("case-1", Box.whole((96, 96, 96)))]
        outs = [room((96, 96, 96)) for _ in patches]
        store.read_all(patches, outs)
        for delay_ms in range(1, 9):
            with suppress(KeyboardInterrupt), interrupted_after(delay_ms):
                store.read_all(patches, outs)
            for volume, mask in outs:
                volume.fill(7777), mask.fill(77)
            time.sleep(0.03)
            assert all((volume == 7777).all() and (mask == 77).all() for volume, mask in outs)

    def test_an_unknown_case_among_several_leaves_nobody_writing(self, root):
        patches = [INNER, Patch("case-2", INNER.box)]
        outs = [room(INNER.box.shape_zyx) for _ in patches]
        with pytest.raises(StoreError, match="no case 'case-2'"):
            CaseStore(root).read_all(patches, outs)
        outs[0][0].fill(7777)
        time.sleep(0.03)
        assert (outs[0][0] == 7777).all()

    @pytest.mark.parametrize("name", ["image", "mask"])
    def test_a_missing_shard_is_a_fault_and_not_zeros(self, case, write_store, name):
        without_liver = replace(case, mask=np.zeros_like(case.mask))
        root = write_store([without_liver])
        (shard,) = case_files(root / "case-1.zarr" / name / "c")
        assert_is(CaseStore(root).read(INNER), whole_in_air(without_liver, INNER))
        shard.unlink()
        with pytest.raises(StoreError, match=f"case case-1 is damaged: its {name}"):
            CaseStore(root).read(INNER)
        with pytest.raises(StoreError, match=f"case case-1 is damaged: its {name}"):
            getattr(CaseStore(root), name)("case-1")

    def test_a_changed_shape_is_a_fault_and_not_fewer_voxels(self, case, write_store):
        root = write_store([case])
        file = root / "case-1.zarr" / "image" / "zarr.json"
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace('"shape":[37,35,34]', '"shape":[33,35,34]'), encoding="utf-8")
        with pytest.raises(StoreError, match="case case-1 is damaged"):
            CaseStore(root).image("case-1")

    def test_a_shape_that_is_not_the_manifests_is_a_fault(self, case, write_store):
        root = write_store([case])
        manifest = read_manifest(root)
        (entry,) = manifest.cases.values()
        other = replace(entry, shape_zyx=(33, 35, 34))
        write_manifest(root, replace(manifest, cases={"case-1": other}))
        with pytest.raises(StoreError, match=r"case case-1 is damaged.*not \(33, 35, 34\)"):
            CaseStore(root).image("case-1")


@contextmanager
def interrupted_after(delay_ms):
    """Do as the user does who presses Ctrl-C after some milliseconds."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, delay_ms / 1000)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def in_child(work):
    """Run a function in a forked process and give back what it gives; fail if that hangs."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, pickle.dumps(work()))
        except BaseException as error:
            os.write(writer, pickle.dumps(repr(error)))
        finally:
            os._exit(0)
    os.close(writer)
    is_done, _, _ = select.select([reader], [], [], PATIENCE_S)
    if not is_done:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as pipe:
        content = pipe.read()
    assert is_done, "the forked process hangs"
    assert status == 0, f"the forked process died of signal {status}"
    return pickle.loads(content)


class Told(logging.Handler):
    """Keeps what the readers log."""

    def __init__(self):
        super().__init__()
        self.messages = []
        logging.getLogger("cache").addHandler(self)

    def emit(self, record):
        self.messages.append(record.getMessage())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
class TestForked:
    """A child of a process that has written and read already, as a notebook's workers are."""

    def test_a_child_reads_the_same_and_its_parent_afterwards_too(self, root, case):
        store = CaseStore(root)
        expected = whole_in_air(case, INNER)
        assert_is(store.read(INNER), expected)

        def work():
            out = room(INNER.box.shape_zyx, is_contiguous=False)
            store.read(INNER, out)
            return [
                np.array_equal(out[0], expected[0]),
                np.array_equal(out[1], expected[1]),
                np.array_equal(store.image("case-1"), case.volume),
                np.array_equal(store.foreground_zyx("case-1"), case.foreground_zyx),
            ]

        assert in_child(work) == [True] * 4
        assert_is(store.read(INNER), expected)

    def test_a_childs_child_reads_too(self, root, case):
        store = CaseStore(root)
        store.read(INNER)

        def read():
            return np.array_equal(store.read(INNER)[0], whole_in_air(case, INNER)[0])

        assert in_child(lambda: [read(), in_child(read)]) == [True, True]

    def test_threads_of_a_child_read_the_same(self, root, case):
        store = CaseStore(root)
        store.read(INNER)

        def work():
            with ThreadPoolExecutor(4) as threads:
                read = list(threads.map(store.read, [INNER] * 12))
            return all(np.array_equal(pair[0], whole_in_air(case, INNER)[0]) for pair in read)

        assert in_child(work) is True

    def test_a_child_finds_damage_as_its_parent_does(self, root):
        store = CaseStore(root)
        store.read(INNER)
        spoil(root / store.manifest.cases["case-1"].file, "image", every=8)

        def work():
            with pytest.raises(StoreError) as caught:
                store.read(INNER)
            return str(caught.value.fact)

        assert in_child(work).startswith("case case-1 is damaged: its image cannot be read")

    def test_a_missing_shard_is_a_fault_in_a_child(self, case, write_store):
        root = write_store([case])
        store = CaseStore(root)
        (shard,) = case_files(root / "case-1.zarr" / "mask" / "c")
        shard.unlink()

        def work():
            with pytest.raises(StoreError) as caught:
                store.read(INNER)
            return str(caught.value.fact)

        assert in_child(work).startswith("case case-1 is damaged: its mask cannot be read")

    @pytest.mark.parametrize("array", ["image", "foreground_zyx"])
    def test_no_flipped_bit_gives_a_child_other_voxels(self, prepared_case, write_store, array):
        case = prepared_case(shape_zyx=(5, 6, 7))
        root = write_store([case])
        expected = case.arrays()[array]
        read = {"image": CaseStore.image, "foreground_zyx": CaseStore.foreground_zyx}[array]

        def work():
            wrong = []
            for file in case_files(root / "case-1.zarr" / array):
                whole = file.read_bytes()
                for offset in range(0, len(whole), 29):
                    changed = bytearray(whole)
                    changed[offset] ^= 0x10
                    file.write_bytes(changed)
                    try:
                        if not np.array_equal(read(CaseStore(root), "case-1"), expected):
                            wrong.append(f"{file.name} {offset}: other voxels")
                    except StoreError:
                        pass
                    except Exception as error:
                        wrong.append(f"{file.name} {offset}: {error!r}")
                file.write_bytes(whole)
            return wrong

        assert in_child(work) == []

    def test_a_child_says_once_that_it_reads_slowly_and_what_avoids_it(self, case, write_store):
        store = CaseStore(write_store([case]))

        def work():
            told = Told()
            store.read(INNER)
            CaseStore(store.root).read(INNER)
            return told.messages, in_child(lambda: [store.read(INNER), told.messages][1])

        own, of_its_child = in_child(work)
        assert len(own) == 1
        assert 'multiprocessing_context="spawn"' in own[0]
        assert len(of_its_child) == 2  # its parent's, and its own

    def test_a_child_of_a_parent_that_has_read_nothing_says_nothing(
        self, case, write_store, tmp_path
    ):
        root = write_store([case])
        ended = python("-c", FIRST_READ_IN_A_CHILD, root, cwd=tmp_path)
        assert ended.stdout == f"{case.volume.sum(dtype=np.int64)} 0\n"
        assert ended.stderr == ""


FIRST_READ_IN_A_CHILD = """
import os, sys
import numpy as np
from cache.reader import CaseStore

store = CaseStore(sys.argv[1])
store.case_ids
child = os.fork()
if child == 0:
    print(store.image("case-1").sum(dtype=np.int64), end=" ", flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""
