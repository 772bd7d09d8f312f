"""Digests of files, and when they need not be taken again."""

import hashlib
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cache.errors import SourceError
from stages.preprocess.digests import (
    Known,
    Origin,
    Shortcuts,
    absolute,
    combined,
    hash_files,
    quiet,
    source_files,
)

HOUR_NS = 3600 * 10**9


@pytest.fixture
def file(tmp_path):
    """A file that nobody has touched for an hour."""
    path = tmp_path / "src" / "ct.nii"
    path.parent.mkdir()
    path.write_bytes(b"voxels")
    age(path)
    return path


@pytest.fixture
def place(tmp_path):
    """Where shortcuts are written down."""
    return tmp_path / "digests.jsonl"


def age(path, ns=HOUR_NS):
    """Date a file back."""
    then = time.time_ns() - ns
    os.utime(path, ns=(then, then))


def remembered(place, *paths):
    """Shortcuts that know these files, as the next run loads them."""
    shortcuts = Shortcuts(place)
    shortcuts.learn(hash_files(paths))
    shortcuts.save()
    return Shortcuts(place)


class TestShortcuts:
    def test_a_file_that_looks_the_same_is_known_in_the_next_run(self, place, file):
        assert remembered(place, file).digest(file) == hashlib.sha256(b"voxels").hexdigest()

    def test_a_digest_is_known_by_any_way_to_write_its_files_path(self, place, file, monkeypatch):
        shortcuts = remembered(place, file)
        monkeypatch.chdir(file.parent)
        assert shortcuts.digest(Path("ct.nii"))
        assert shortcuts.digest(Path("../src/ct.nii"))

    @pytest.mark.parametrize("change", ["content", "time", "gone"])
    def test_a_file_that_looks_otherwise_is_unknown(self, place, file, change):
        shortcuts = remembered(place, file)
        if change == "content":
            stat = file.stat()
            file.write_bytes(b"more voxels")
            os.utime(file, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
        elif change == "time":
            age(file, 2 * HOUR_NS)
        else:
            file.unlink()
        assert shortcuts.digest(file) is None

    def test_a_file_never_seen_is_unknown(self, place, file):
        assert Shortcuts(place).digest(file) is None

    def test_what_nobody_asked_for_is_forgotten(self, place, file):
        other = file.with_name("label.nii")
        other.write_bytes(b"label")
        shortcuts = remembered(place, file, other)
        shortcuts.digest(file)
        shortcuts.save()
        later = Shortcuts(place)
        assert later.digest(file)
        assert later.digest(other) is None

    @pytest.mark.parametrize(
        "content", [b"{", b"\xff\xfe", b"[1]\n", b'["a", 1, 2, "x"]\n["b"', b"null\n"]
    )
    def test_a_damaged_list_of_them_is_as_good_as_none(self, place, file, content):
        place.write_bytes(content)
        shortcuts = Shortcuts(place)
        assert shortcuts.digest(file) is None
        shortcuts.learn(hash_files([file]))
        shortcuts.save()
        assert Shortcuts(place).digest(file)

    def test_equal_knowledge_is_written_in_equal_bytes(self, tmp_path, file):
        other = file.with_name("label.nii")
        other.write_bytes(b"label")
        remembered(tmp_path / "one", file, other)
        remembered(tmp_path / "two", other, file)
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()

    def test_where_they_cannot_be_written_the_run_goes_on(self, tmp_path, file, caplog):
        (tmp_path / "taken").write_text("a file, and no folder")
        shortcuts = Shortcuts(tmp_path / "taken" / "digests.jsonl")
        shortcuts.learn(hash_files([file]))
        shortcuts.save()
        assert "cannot be written" in caplog.text


class TestQuiet:
    """A file written to just now may be written to again within the same tick of the clock."""

    def test_a_file_of_long_ago_is_to_be_relied_on(self, file):
        known = hash_files([file])
        assert quiet(known) == known

    @pytest.mark.parametrize("ahead_ns", [0, HOUR_NS])
    def test_the_digest_of_a_file_written_now_or_in_the_future_is_not_quiet(self, file, ahead_ns):
        age(file, -ahead_ns)
        assert quiet(hash_files([file])) == {}


@pytest.fixture
def case(write_case):
    """A case whose label is one file and whose CT is a folder of three."""
    files = write_case()
    folder = files.ct.parent
    for name in ("b.dcm", "c.dcm"):
        (folder / name).write_text(name)
    return replace(files, ct=folder)


class TestOrigin:
    def test_the_origin_of_a_case_is_the_same_read_or_remembered(self, case, place):
        read = Origin.of(case)
        shortcuts = Shortcuts(place)
        shortcuts.learn(read.known)
        assert Origin.remembered(case, shortcuts) == read

    def test_one_file_that_was_touched_makes_the_origin_of_a_case_unknown(self, case, place):
        shortcuts = Shortcuts(place)
        shortcuts.learn(Origin.of(case).known)
        age(case.ct / "b.dcm")
        assert Origin.remembered(case, shortcuts) is None

    def test_a_folder_that_went_away_makes_it_unknown(self, case, place):
        shutil.rmtree(case.ct)
        assert Origin.remembered(case, Shortcuts(place)) is None

    def test_a_file_that_came_after_it_was_read_counts_as_changed(self, case):
        origin = Origin.of(case)
        (case.ct / "d.dcm").write_text("late")
        assert origin.changed(case) == [case.ct / "d.dcm"]
        assert set(origin.digests(case)) == {"ct", "label"}


class TestChanged:
    def test_a_file_left_alone_is_not(self, case):
        assert Origin.of(case).changed(case) == []

    @pytest.mark.parametrize("change", ["longer", "touched", "gone"])
    def test_a_source_file_that_was_written_to_or_removed_is_named(self, case, change):
        origin, file = Origin.of(case), case.ct / "b.dcm"
        if change == "longer":
            file.write_bytes(b"more voxels")
        elif change == "touched":
            file.touch()
        else:
            file.unlink()
        assert origin.changed(case) == [file]


class TestSourceFiles:
    def test_the_source_of_a_volume_is_its_file(self, file):
        assert source_files(file) == [file]

    def test_the_file_with_the_voxels_is_a_source_of_a_mere_header_too(self, write_volume):
        header = write_volume("ct.mhd")
        assert source_files(header) == [header, header.with_suffix(".raw")]

    def test_the_sources_of_a_folder_are_all_files_below_it_sorted(self, tmp_path):
        for name in ("b.dcm", "a.dcm", "deep/c.dcm"):
            (tmp_path / "ct" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "ct" / name).write_text(name)
        found = source_files(tmp_path / "ct")
        assert [path.relative_to(tmp_path / "ct").as_posix() for path in found] == [
            "a.dcm",
            "b.dcm",
            "deep/c.dcm",
        ]

    def test_what_a_file_browser_leaves_in_a_folder_is_not_one_of_its_sources(self, tmp_path):
        for name in ("a.dcm", ".DS_Store", "Thumbs.db", "desktop.ini"):
            (tmp_path / name).write_text(name)
        assert source_files(tmp_path) == [tmp_path / "a.dcm"]


class TestCombined:
    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names that are no text")
    def test_a_name_that_is_no_text_has_a_digest_too(self, tmp_path):
        for name in (b"a", b"\xdcbersicht"):
            (tmp_path / os.fsdecode(name)).write_text("x")
        assert len(self.digest_of(tmp_path)) == 64

    def digest_of(self, folder):
        known = hash_files(source_files(folder))
        return combined(folder, {path: one.sha256 for path, one in known.items()})

    @pytest.fixture
    def series(self, tmp_path):
        """Write a folder of files; gives the folder."""

        def write(folder, **contents):
            for name, content in contents.items():
                path = tmp_path / folder / f"{name}.dcm"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)
            return tmp_path / folder

        return write

    def test_the_combined_digest_of_one_file_is_its_own(self, file):
        assert self.digest_of(file) == hashlib.sha256(b"voxels").hexdigest()

    def test_the_combined_digest_of_a_folder_stays_when_the_folder_moves(self, series):
        here, there = series("here", a="1", b="2"), series("deep/there", a="1", b="2")
        assert self.digest_of(here) == self.digest_of(there)

    def test_the_digest_of_a_folder_changes_with_a_content_a_name_and_the_files_that_there_are(
        self, series
    ):
        folders = [
            series("one", a="1", b="2"),
            series("content", a="1", b="3"),
            series("names", a="1", c="2"),
            series("swapped", a="2", b="1"),
            series("more", a="1", b="2", c="3"),
        ]
        assert len({self.digest_of(folder) for folder in folders}) == len(folders)


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(SourceError, match="No such file"):
        hash_files([tmp_path / "nowhere"])


def test_a_digest_is_kept_with_how_the_file_looked(file):
    known = hash_files([file])
    stamp = (6, file.stat().st_mtime_ns)
    assert known == {absolute(file): Known(stamp, hashlib.sha256(b"voxels").hexdigest())}
