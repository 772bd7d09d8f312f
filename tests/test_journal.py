"""What a store is known to hold while no manifest says so, and who may write to it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cache.errors import StoreError
from cache.manifest import Manifest, entry_of, read_manifest, write_manifest
from cache.state import STATE, state_folder
from stages.preprocess.journal import Journal, only_writer, shortcuts_of


@pytest.fixture
def out(tmp_path):
    """A store's folder."""
    (tmp_path / "cases").mkdir()
    return tmp_path / "cases"


@pytest.fixture
def entry(prepared_case, out):
    """Make the manifest's line of a case; its file holds its id."""

    def make(case_id):
        path = out / f"{case_id}.h5"
        path.write_text(case_id)
        return entry_of(prepared_case(case_id, shape_zyx=(2, 3, 4)).info, out, path)

    return make


def journal_file(out):
    return out.parent / STATE / out.name / "journal.jsonl"


class TestJournal:
    def test_the_journal_of_a_new_store_knows_nothing(self, out):
        assert Journal(out).read() == {}

    def test_the_journal_takes_the_manifest_away_and_knows_what_it_listed(self, out, entry):
        one = entry("1")
        write_manifest(out, Manifest({"1": one}, {}))
        Journal(out).begin()
        assert not (out / "manifest.json").exists()
        assert Journal(out).read() == {"1": one}

    def test_reading_the_journal_leaves_the_manifest(self, out, entry):
        write_manifest(out, Manifest({"1": entry("1")}, {}))
        Journal(out).read()
        assert read_manifest(out).cases.keys() == {"1"}

    def test_each_case_added_is_known_after_a_kill(self, out, entry):
        journal = Journal(out)
        journal.begin()
        journal.add(entry("1"))
        journal.add(entry("2"))
        assert Journal(out).read().keys() == {"1", "2"}

    def test_the_later_line_of_a_case_added_twice_counts(self, out, entry):
        journal, one = Journal(out), entry("1")
        journal.begin()
        journal.add(one)
        journal.add(replace(one, key="later"))
        assert Journal(out).read()["1"].key == "later"

    def test_beginning_again_keeps_what_a_killed_run_had_finished(self, out, entry):
        Journal(out).begin()
        Journal(out).add(entry("1"))
        Journal(out).begin()
        assert Journal(out).read().keys() == {"1"}

    @pytest.mark.parametrize("cut", [1, 10, 200])
    def test_a_line_cut_short_costs_its_case_alone(self, out, entry, cut):
        journal = Journal(out)
        journal.begin()
        journal.add(entry("1"))
        journal.add(entry("2"))
        journal_file(out).write_bytes(journal_file(out).read_bytes()[: -cut - 1])
        journal = Journal(out)
        assert journal.read().keys() == {"1"}
        journal.begin()
        journal.add(entry("3"))
        assert Journal(out).read().keys() == {"1", "3"}

    @pytest.mark.parametrize("line", [b"null\n", b"[]\n", b"{}\n", b"\xff\n", b'{"files": 1}\n'])
    def test_lines_that_are_no_entries_are_no_fault(self, out, entry, line):
        journal_file(out).parent.mkdir(parents=True)
        journal_file(out).write_bytes(line)
        assert Journal(out).read() == {}

    def test_no_flipped_bit_changes_an_entry_and_it_costs_that_case_alone(self, out, entry):
        journal = Journal(out)
        journal.begin()
        journal.add(entry("1"))
        journal.add(entry("2"))
        expected, whole = Journal(out).read(), journal_file(out).read_bytes()
        middle = len(whole) // 2
        for offset in range(0, len(whole), 5):
            content = bytearray(whole)
            content[offset] ^= 1 << offset % 8
            journal_file(out).write_bytes(content)
            found = Journal(out).read()
            assert found.items() <= expected.items()
            if offset not in (middle - 1, middle):  # the line's end: then it goes into the next
                assert len(found) >= 1

    def test_a_journal_that_cannot_be_read_is_not_taken_for_an_empty_one(self, out):
        journal_file(out).mkdir(parents=True)
        with pytest.raises(OSError, match=journal_file(out).name):
            Journal(out).read()

    def test_the_journal_has_in_the_end_what_the_manifest_does_not_list(self, out, entry):
        one, two = entry("1"), entry("2")
        journal = Journal(out)
        journal.begin()
        for each in (one, two):
            journal.add(each)
        write_manifest(out, Manifest({"1": one}, {}))
        journal.end({"2": two})
        assert len(journal_file(out).read_text().splitlines()) == 1
        assert Journal(out).read() == {"1": one, "2": two}

    def test_the_manifest_counts_where_the_journal_names_a_case_too(self, out, entry):
        one = entry("1")
        Journal(out).begin()
        Journal(out).add(replace(one, key="older"))
        write_manifest(out, Manifest({"1": one}, {}))
        assert Journal(out).read()["1"] == one

    def test_a_damaged_manifest_lists_nothing(self, out, entry):
        (out / "manifest.json").write_text("{")
        Journal(out).begin()
        assert Journal(out).read() == {}
        assert not (out / "manifest.json").exists()


class TestStateFolder:
    def test_every_store_has_a_state_folder_of_its_own_beside_it(self, tmp_path):
        assert state_folder(tmp_path / "cases") == tmp_path / STATE / "cases"
        assert state_folder(tmp_path / "other") == tmp_path / STATE / "other"

    def test_a_store_has_one_state_folder_however_it_is_named(self, out, monkeypatch):
        monkeypatch.chdir(out)
        for name in (Path(), Path("../cases"), Path("../cases/../cases")):
            assert state_folder(name) == state_folder(out)

    def test_digests_are_remembered_in_the_state_folder(self, out):
        shortcuts_of(out).save()
        assert (state_folder(out) / "digests.jsonl").is_file()


HOLD = """
import sys, time
from pathlib import Path
from stages.preprocess.journal import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


class TestOnlyWriter:
    def test_a_second_writer_of_a_store_is_refused_with_the_store_named(self, out):
        with (
            only_writer(out),
            pytest.raises(StoreError, match="another run is writing") as caught,
            only_writer(out),
        ):
            pass
        assert caught.value.where == out

    def test_the_next_writer_of_a_store_may_begin_when_the_first_is_done(self, out):
        for _ in range(2):
            with only_writer(out):
                pass

    def test_after_an_error_the_next_may_write(self, out):
        with pytest.raises(ValueError, match="stop"), only_writer(out):
            raise ValueError("stop")
        with only_writer(out):
            pass

    def test_a_killed_process_holds_nothing(self, out, repo):
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(out)], cwd=repo, stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError), only_writer(out):
            pass
        holder.kill()
        holder.communicate()
        with only_writer(out):
            pass
