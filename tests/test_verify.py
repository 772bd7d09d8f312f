"""Verification: every flipped bit is found and named, and repair gives back the very same bytes."""

import os
import shutil
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.files import PARTIAL
from cache.manifest import Manifest, read_manifest, write_manifest
from cache.state import STATE
from cache.verify import Damage, case_damages, unlisted, verify_store
from pipeline.preprocess import main as preprocess_main
from pipeline.verify import main
from stages.preprocess.journal import Journal, only_writer

IN_A_CASE = {
    "zarr": [
        "zarr.json",
        *(f"{name}/zarr.json" for name in ("image", "mask", "source_mask", "foreground_zyx")),
        *(f"{name}/c/0/0/0" for name in ("image", "mask", "source_mask")),
        "foreground_zyx/c/0/0",
    ],
    "hdf5": [""],
}
SUFFIX = {"zarr": ".zarr", "hdf5": ".h5"}
FILES = [(stored_as, name) for stored_as in IN_A_CASE for name in IN_A_CASE[stored_as]]


@pytest.fixture(params=["zarr", "hdf5"])
def stored_as(request):
    """The two storage formats, one after the other."""
    return request.param


@pytest.fixture
def write_tiny_store(prepared_case, write_store):
    """Write a store of the cases a and b, each a few voxels."""

    def write(stored_as, folder="cases"):
        cases = [
            prepared_case(name, shape_zyx=(5, 6, 7), seed=seed) for seed, name in enumerate("ab")
        ]
        return write_store(cases, format=stored_as, folder=folder)

    return write


@pytest.fixture
def store(write_tiny_store, stored_as):
    """A store of two cases."""
    return write_tiny_store(stored_as)


@pytest.fixture
def case_file(store, stored_as):
    """A file with voxels of case b."""
    return store / f"b{SUFFIX[stored_as]}" / IN_A_CASE[stored_as][-1]


def deep(root):
    """What a deep verification finds."""
    return verify_store(root, shortcuts=None)


def fast(root, touched=""):
    """What a verification finds that remembers all files but those of one name."""
    return verify_store(root, shortcuts=Remembered(digests(root), touched))


def flip(path, bit):
    """Change one bit of a file, counted from its start and round again; size and time stay."""
    stat, content = path.stat(), bytearray(path.read_bytes())
    bit %= 8 * len(content)
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def bytes_of(root):
    """Every file of a store with its bytes, by its path from there."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def digests(root):
    """The digest of every listed file, by its path."""
    entries = read_manifest(root).cases.values()
    return {root / name: file.sha256 for entry in entries for name, file in entry.files.items()}


class Remembered:
    """Shortcuts that know the digests of all files but those of one name."""

    def __init__(self, digests, touched):
        self.digests, self.touched = digests, touched

    def digest(self, path):
        return None if self.touched in path.parts else self.digests[path]


class TestOneFlippedBit:
    def test_every_file_of_a_store_is_among_those_tried(self, store, stored_as):
        of_cases = [
            f"{case_id}{SUFFIX[stored_as]}/{name}".rstrip("/")
            for case_id in "ab"
            for name in IN_A_CASE[stored_as]
        ]
        assert sorted(bytes_of(store)) == sorted([*of_cases, "manifest.json"])

    @pytest.mark.parametrize(("stored_as", "name"), FILES)
    def test_a_flipped_bit_in_a_file_of_a_case_is_found_and_named(
        self, write_tiny_store, stored_as, name
    ):
        root = write_tiny_store(stored_as)
        case = f"b{SUFFIX[stored_as]}"
        path = root / case / name if name else root / case

        @settings(max_examples=12)
        @given(bit=st.integers(0, 2**24))
        def found(bit):
            flip(path, bit)
            (damage,) = deep(root)
            assert (damage.case_id, damage.path) == ("b", path)
            assert "SHA-256 differs" in damage.fact
            flip(path, bit)

        found()
        assert deep(root) == []

    def test_a_flipped_bit_in_the_manifest_is_found_and_named(self, write_tiny_store):
        root = write_tiny_store("hdf5")

        @given(bit=st.integers(0, 2**24))
        def found(bit):
            flip(root / "manifest.json", bit)
            (damage,) = deep(root)
            assert (damage.case_id, damage.path) == ("", root / "manifest.json")
            assert "damaged" in damage.fact
            flip(root / "manifest.json", bit)

        found()
        assert deep(root) == []


class TestDeep:
    def test_nothing_is_wrong_with_a_store_just_written(self, store):
        assert deep(store) == []

    def test_verifying_changes_no_file(self, store):
        before = bytes_of(store)
        deep(store)
        assert bytes_of(store) == before

    def test_damages_come_by_case_and_path(self, write_tiny_store):
        root = write_tiny_store("zarr")
        for name in ("b.zarr/zarr.json", "a.zarr/zarr.json", "a.zarr/image/zarr.json"):
            (root / name).unlink()
        assert [damage.path.relative_to(root).as_posix() for damage in deep(root)] == [
            "a.zarr/image/zarr.json",
            "a.zarr/zarr.json",
            "b.zarr/zarr.json",
        ]

    def test_two_cases_that_changed_places_are_found(self, store, stored_as):
        a, b, aside = (store / f"{name}{SUFFIX[stored_as]}" for name in ("a", "b", "aside"))
        a.rename(aside)
        b.rename(a)
        aside.rename(b)
        assert {damage.case_id for damage in deep(store)} == {"a", "b"}

    def test_a_manifest_whose_lines_are_of_other_cases_is_found(self, store):
        # with right digests of the files, as if the manifest were made of another store's lines
        entries = read_manifest(store).cases
        lines = {
            **entries,
            "b": type(entries["b"])(**{**vars(entries["b"]), "key": "other", "liver_ml": 1.0}),
        }
        write_manifest(store, Manifest(lines, {}))
        (damage,) = deep(store)
        assert damage.case_id == "b"
        assert damage.path == store / entries["b"].file
        assert "another case than the manifest lists: key, liver_ml differ" in damage.fact

    def test_a_manifest_of_another_store_is_found(
        self, store, prepared_case, write_store, stored_as
    ):
        other = write_store([prepared_case("a", seed=9)], format=stored_as, folder="other")
        shutil.copy(other / "manifest.json", store / "manifest.json")
        assert {damage.case_id for damage in deep(store)} == {"a"}

    def test_progress_is_told_after_each_case(self, store):
        told = []
        verify_store(store, shortcuts=None, progress=lambda *counts: told.append(counts))
        assert told == [(1, 2), (2, 2)]


class TestFast:
    def test_nothing_is_wrong_with_a_store_just_written(self, store):
        assert fast(store) == []

    def test_a_file_cut_short_is_found_with_both_sizes(self, store, case_file):
        size = case_file.stat().st_size
        os.truncate(case_file, 10)
        assert fast(store) == [
            Damage("b", case_file, f"has 10 bytes; {size:,} were written"),
        ]

    def test_a_file_that_is_gone_is_found(self, store, case_file):
        case_file.unlink()
        assert fast(store) == [Damage("b", case_file, "is not there")]

    def test_a_file_added_to_a_case_is_found(self, write_tiny_store):
        root = write_tiny_store("zarr")
        (root / "a.zarr" / "mask" / "c" / "1").write_bytes(b"")
        assert fast(root) == [
            Damage("a", root / "a.zarr" / "mask" / "c" / "1", "is no file of this case", True)
        ]

    def test_a_file_that_became_a_folder_is_found(self, store, case_file):
        case_file.unlink()
        case_file.mkdir()
        assert fast(store) == [Damage("b", case_file, "is a folder, not a file", True)]

    def test_a_file_of_the_right_size_that_was_touched_is_read(self, store, case_file):
        flip(case_file, 999)
        (damage,) = fast(store, case_file.name)
        assert damage.path == case_file

    def test_a_touched_file_with_the_same_bytes_is_whole(self, store, case_file):
        assert fast(store, case_file.name) == []

    def test_a_file_known_to_be_unchanged_is_not_read(self, store, case_file):
        flip(case_file, 999)
        assert fast(store, "another") == []

    def test_a_file_remembered_with_another_digest_than_the_listed_is_read(self, store, case_file):
        # somebody put another file of this size there, and preprocess has seen it since
        flip(case_file, 999)
        seen = {**digests(store), case_file: "e" * 64}
        (damage,) = verify_store(store, shortcuts=Remembered(seen, touched=""))
        assert damage.path == case_file

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="a file nobody may read")
    def test_a_file_that_cannot_be_read_is_damage(self, store, case_file):
        case_file.chmod(0)
        (damage,) = deep(store)
        case_file.chmod(0o644)
        assert "cannot be read" in damage.fact

    def test_one_case_is_verified_alone(self, store, case_file):
        case_file.unlink()
        entries = read_manifest(store).cases
        assert case_damages(store, entries["a"], shortcuts=None) == []
        assert [damage.path for damage in case_damages(store, entries["b"], shortcuts=None)] == [
            case_file
        ]


class TestManifest:
    def test_a_manifest_that_is_gone_is_the_one_damage(self, store):
        (store / "manifest.json").unlink()
        assert deep(store) == [
            Damage("", store / "manifest.json", "there is no prepared data here")
        ]

    def test_cases_that_the_manifest_does_not_list_are_reported_apart_from_damage(self, store):
        entries = read_manifest(store).cases
        write_manifest(store, Manifest({"a": entries["a"]}, {}))
        (store / f"{PARTIAL}1a-2b").mkdir()
        (store / "notes.txt").write_text("mine", encoding="utf-8")
        assert deep(store) == []
        assert unlisted(store) == [
            store / f"{PARTIAL}1a-2b",
            store / entries["b"].file,
            store / "notes.txt",
        ]


class TestCommand:
    def test_a_whole_store_ends_with_0_and_is_counted(self, write_tiny_store, run_command):
        root = write_tiny_store("zarr")
        ended = run_command(main, "--cases", root)
        assert ended.exit_code == 0
        # two cases of nine files
        assert "2 cases, 18 files, 0.0 MB: whole" in ended.output

    def test_damage_ends_with_2_its_place_and_the_fix(self, store, case_file, run_command):
        os.truncate(case_file, 1)
        ended = run_command(main, "--cases", store)
        assert ended.exit_code == 2
        assert f"{case_file}: has 1 bytes" in ended.output
        assert "1 faults in 1 cases: b" in ended.output
        assert f"python -m pipeline.verify --cases {store} --repair" in ended.output

    def test_what_is_not_listed_is_named(self, store, run_command):
        (store / "notes.txt").write_text("mine", encoding="utf-8")
        ended = run_command(main, "--cases", store)
        assert ended.exit_code == 0
        assert "not in the manifest, and left alone: notes.txt" in ended.output

    def test_a_folder_that_is_not_there_is_refused(self, tmp_path, run_command):
        ended = run_command(main, "--cases", tmp_path / "nowhere", "--repair")
        assert ended.exit_code == 2
        assert "there is no such folder" in ended.output
        assert not (tmp_path / "nowhere").exists()


@pytest.fixture
def preprocess(write_dataset, run_command, params_file, tmp_path, stored_as):
    """Run the preprocess command on three cases."""
    params = params_file({"preprocess.format": stored_as})
    places = ("--src", write_dataset(), "--out", tmp_path / "cases", "--params", params)

    def run():
        ended = run_command(preprocess_main, *places, "--workers", 1)
        assert ended.exit_code == 0, ended.output

    return run


@pytest.fixture(scope="module")
def made_before(tmp_path_factory):
    """Where a copy of what the command made lies for later tests, one folder a format."""
    return tmp_path_factory.mktemp("made-before")


@pytest.fixture
def prepared(preprocess, tmp_path, made_before, stored_as):
    """A store as the preprocess command makes it, with what the command remembers."""
    copy = made_before / stored_as
    if copy.exists():
        for name in ("cases", STATE):
            shutil.copytree(copy / name, tmp_path / name)
    else:
        preprocess()
        for name in ("cases", STATE):
            shutil.copytree(tmp_path / name, copy / name)
    return tmp_path / "cases"


@pytest.fixture
def repair(prepared, run_command, params_file, tmp_path, stored_as):
    """Verify deeply and repair; gives how it ended."""

    def run(*flags, **changes):
        changes = {"preprocess.format": stored_as, **changes}
        places = ("--cases", prepared, "--params", params_file(changes, name="now.yaml"))
        flags = flags or ("--src", tmp_path / "src")
        return run_command(main, *places, "--deep", "--repair", *flags)

    return run


@pytest.fixture
def victim(prepared, stored_as):
    """A file with voxels of case 2."""
    return prepared / f"2{SUFFIX[stored_as]}" / IN_A_CASE[stored_as][-1]


def test_repair_gives_back_the_very_same_bytes(prepared, repair, victim):
    before = bytes_of(prepared)
    flip(victim, 999)
    ended = repair()
    assert ended.exit_code == 0
    assert "prepared again: 2\n" in ended.output
    assert "3 cases" in ended.output
    assert bytes_of(prepared) == before


class TestWhatPreprocessRemembers:
    @pytest.fixture
    def stored_as(self):
        """One format: what is remembered does not depend on it."""
        return "hdf5"

    @pytest.fixture
    def known(self, prepared, preprocess, tmp_path):
        """A store whose files preprocess has read when they had been quiet for long."""
        for path in (*prepared.iterdir(), *(tmp_path / "src").rglob("*.gz")):
            os.utime(path, (10**9, 10**9))
        preprocess()
        return prepared

    def test_spares_reading_what_was_not_touched(self, known, victim, run_command):
        flip(victim, 999)
        assert run_command(main, "--cases", known).exit_code == 0
        assert run_command(main, "--cases", known, "--deep").exit_code == 2

    def test_does_not_spare_what_was_touched(self, known, victim, run_command):
        flip(victim, 999)
        victim.touch()
        ended = run_command(main, "--cases", known)
        assert ended.exit_code == 2
        assert f"{victim}: does not hold the bytes that were written" in ended.output

    def test_does_not_keep_repair_from_preparing_a_case_anew(self, known, victim, repair):
        before = bytes_of(known)
        flip(victim, 999)
        assert repair().exit_code == 0
        assert bytes_of(known) == before

    def test_does_not_hide_damage_behind_a_damaged_manifest(self, known, victim, repair):
        before = bytes_of(known)
        Journal(known).begin()  # as a run does that is killed then
        flip(victim, 999)
        assert repair().exit_code == 0
        assert bytes_of(known) == before

    def test_what_preprocess_remembers_is_not_needed_to_verify(
        self, known, victim, run_command, tmp_path
    ):
        elsewhere = tmp_path / "elsewhere" / "cases"
        shutil.copytree(known, elsewhere)
        flip(elsewhere / victim.relative_to(known), 999)
        assert run_command(main, "--cases", elsewhere).exit_code == 2


class TestRepair:
    @pytest.fixture
    def stored_as(self):
        """One format: what is repaired does not depend on it."""
        return "hdf5"

    def test_leaves_whole_cases_as_they_are(self, prepared, repair, victim, stored_as):
        flip(victim, 999)
        whole = prepared / f"1{SUFFIX[stored_as]}"
        before = whole.stat().st_ino, whole.stat().st_mtime_ns
        repair()
        assert (whole.stat().st_ino, whole.stat().st_mtime_ns) == before

    def test_repairing_a_whole_store_does_nothing(self, prepared, repair):
        before = bytes_of(prepared)
        ended = repair("--src", "nowhere")
        assert ended.exit_code == 0
        assert bytes_of(prepared) == before

    def test_takes_the_stores_parameters_and_not_those_edited_since(self, prepared, repair, victim):
        before = bytes_of(prepared)
        flip(victim, 999)
        changes = {"preprocess.crop": "none", "preprocess.margin_mm": 30.0}
        assert repair(**changes).exit_code == 0
        assert bytes_of(prepared) == before

    def test_repairing_a_store_with_unknown_parameters_names_them_and_changes_nothing(
        self, prepared, repair, victim
    ):
        manifest = read_manifest(prepared)
        write_manifest(prepared, replace(manifest, params={**manifest.params, "margin_cm": 1}))
        flip(victim, 999)
        before = bytes_of(prepared)
        ended = repair()
        assert ended.exit_code == 2
        assert "was prepared with parameters this liver3d does not know: margin_cm" in ended.output
        assert bytes_of(prepared) == before

    def test_repairing_a_damaged_manifest_writes_it_again(self, prepared, repair):
        before = bytes_of(prepared)
        flip(prepared / "manifest.json", 4321)
        ended = repair()
        assert ended.exit_code == 0
        assert "prepared again: all cases, and the manifest" in ended.output
        assert bytes_of(prepared) == before

    def test_repairing_manifest_and_case_at_once_gives_back_the_same_bytes(
        self, prepared, repair, victim
    ):
        before = bytes_of(prepared)
        flip(prepared / "manifest.json", 4321)
        flip(victim, 999)
        assert repair().exit_code == 0
        assert bytes_of(prepared) == before

    def test_repairing_without_the_source_removes_nothing(self, prepared, repair, victim):
        flip(victim, 999)
        before = bytes_of(prepared)
        ended = repair("--src", "nowhere")
        assert ended.exit_code == 2
        assert "nowhere: there is no such folder" in ended.output
        assert bytes_of(prepared) == before

    def test_keeps_whole_cases_that_are_no_longer_in_the_source(
        self, prepared, repair, victim, tmp_path
    ):
        before = bytes_of(prepared)
        for folder in ("image", "label"):
            shutil.rmtree(tmp_path / "src" / folder / "3")
        flip(victim, 999)
        assert repair().exit_code == 0
        assert bytes_of(prepared) == before

    def test_names_a_damaged_case_that_is_no_longer_in_the_source(
        self, prepared, repair, victim, tmp_path
    ):
        for folder in ("image", "label"):
            shutil.rmtree(tmp_path / "src" / folder / "2")
        flip(victim, 999)
        before = bytes_of(prepared)
        ended = repair()
        assert ended.exit_code == 2
        assert "does not have case 2" in ended.output
        assert bytes_of(prepared) == before

    def test_repairing_from_an_empty_folder_as_of_a_disk_not_mounted_changes_nothing(
        self, prepared, repair, victim, tmp_path
    ):
        (tmp_path / "disk").mkdir()
        flip(victim, 999)
        before = bytes_of(prepared)
        assert repair("--src", tmp_path / "disk").exit_code == 2
        assert bytes_of(prepared) == before

    def test_repairing_from_another_data_set_leaves_whole_cases_and_warns_of_the_damaged(
        self, prepared, repair, victim, write_dataset
    ):
        other = write_dataset(("4", "3", "2", "1"), folder="other")
        before = bytes_of(prepared)
        flip(victim, 999)
        ended = repair("--src", other)
        assert "warning: case 2 is not what the manifest listed" in ended.output
        after = bytes_of(prepared)
        assert after.keys() == before.keys()  # case 4 is not added
        assert {name for name in after if after[name] != before[name]} == {"2.h5", "manifest.json"}

    def test_repairing_from_the_same_data_set_warns_of_nothing(self, repair, victim):
        flip(victim, 999)
        assert "warning" not in repair().output

    def test_mends_a_case_that_is_not_as_the_manifest_says(self, prepared, repair):
        before = bytes_of(prepared)
        manifest = read_manifest(prepared)
        line = replace(manifest.cases["2"], liver_ml=1.0)
        write_manifest(prepared, replace(manifest, cases={**manifest.cases, "2": line}))
        ended = repair()
        assert ended.exit_code == 0
        assert "prepared again: 2\n" in ended.output
        assert bytes_of(prepared) == before

    def test_puts_a_file_where_somebody_made_a_folder(self, prepared, repair, victim):
        before = bytes_of(prepared)
        victim.unlink()
        victim.mkdir()
        (victim / "notes.txt").touch()
        assert repair().exit_code == 0
        assert bytes_of(prepared) == before

    def test_names_what_keeps_one_of_two_damaged_cases_from_being_prepared(
        self, prepared, repair, victim, tmp_path
    ):
        for case_id in "12":
            flip(prepared / f"{case_id}.h5", 999)
        (tmp_path / "src" / "image" / "2" / "2.nii.gz").write_bytes(b"no CT")
        ended = repair()
        assert ended.exit_code == 2
        assert "case 2 cannot be prepared again" in ended.output
        assert "2.nii.gz: " in ended.output
        assert sorted(read_manifest(prepared).cases) == ["1", "3"]

    def test_while_another_run_writes_changes_nothing(self, prepared, repair, victim):
        flip(victim, 999)
        before = bytes_of(prepared)
        with only_writer(prepared):
            ended = repair()
        assert ended.exit_code == 2
        assert "another run is writing" in ended.output
        assert bytes_of(prepared) == before


class TestRepairOfFilesSomebodyLeft:
    @pytest.fixture
    def stored_as(self):
        """The format whose cases are folders."""
        return "zarr"

    def test_deletes_them_and_prepares_nothing(self, prepared, repair):
        before = bytes_of(prepared)
        changed = (prepared / "2.zarr" / "zarr.json").stat().st_ino
        for path in (prepared / "2.zarr", prepared / "2.zarr" / "image", prepared / "1.zarr"):
            (path / ".DS_Store").write_bytes(b"x")
        ended = repair()
        assert ended.exit_code == 0
        assert "deleted: 3 files" in ended.output
        assert "prepared again" not in ended.output
        assert bytes_of(prepared) == before
        assert (prepared / "2.zarr" / "zarr.json").stat().st_ino == changed

    def test_repairing_files_that_somebody_left_needs_no_data_set(self, prepared, repair):
        (prepared / "2.zarr" / "Thumbs.db").touch()
        assert repair("--src", "nowhere").exit_code == 0
        assert deep(prepared) == []

    def test_prepares_a_damaged_case_that_has_some(self, prepared, repair, victim):
        before = bytes_of(prepared)
        (victim.parent / "Thumbs.db").touch()
        flip(victim, 999)
        assert repair().exit_code == 0
        assert bytes_of(prepared) == before

    def test_while_another_run_writes_deletes_nothing(self, prepared, repair):
        (prepared / "2.zarr" / "Thumbs.db").touch()
        with only_writer(prepared):
            assert repair().exit_code == 2
        assert (prepared / "2.zarr" / "Thumbs.db").exists()

    def test_repairing_files_that_somebody_left_deletes_nothing_else_without_the_data_set(
        self, prepared, repair, victim
    ):
        flip(victim, 999)
        before = bytes_of(prepared)
        (prepared / "2.zarr" / "Thumbs.db").touch()
        assert repair("--src", "nowhere").exit_code == 2
        assert bytes_of(prepared) == before

    def test_mends_a_store_that_came_from_elsewhere(
        self, prepared, run_command, params_file, tmp_path
    ):
        elsewhere = tmp_path / "elsewhere" / "cases"
        shutil.copytree(prepared, elsewhere)
        (elsewhere / "1.zarr" / "Thumbs.db").touch()
        os.truncate(elsewhere / "2.zarr" / "zarr.json", 1)
        places = ("--cases", elsewhere, "--src", tmp_path / "src", "--params", params_file())
        assert run_command(main, *places, "--repair").exit_code == 0
        assert bytes_of(elsewhere) == bytes_of(prepared)

    def test_leaves_what_lies_outside_of_cases(self, prepared, repair, victim):
        (prepared / "notes.txt").touch()
        flip(victim, 999)
        assert repair().exit_code == 0
        assert (prepared / "notes.txt").exists()
