"""Two runs of ``pipeline.predict`` into one folder, as on two GPUs: neither forgets the other's."""

import pytest

from cache.errors import SourceError
from stages.predict.journal import Entry, Journal, digest_of

KEY, STAMP = "k" * 64, [1, 2, 3]


@pytest.fixture
def predicted(tmp_path):
    """Write the mask of a CT and note it in a journal, as a run does."""

    def write(journal, name):
        mask = tmp_path / f"{name}.nii.gz"
        mask.write_bytes(name.encode())
        journal.add(name, Entry(KEY, STAMP, {mask.name: digest_of(mask)}, 1.0, [], None))
        return mask

    return write


def test_what_two_runs_write_into_one_folder_is_all_in_its_list(predicted, tmp_path):
    one, other = Journal(tmp_path), Journal(tmp_path)
    masks = {name: predicted(run, name) for name, run in (("1", one), ("2", other), ("3", one))}
    again = Journal(tmp_path)
    assert all(again.finished(name, KEY, STAMP, mask) for name, mask in masks.items())


def test_a_mask_corrected_by_hand_is_spared_whichever_of_two_runs_made_it(predicted, tmp_path):
    one, other = Journal(tmp_path), Journal(tmp_path)
    mask = predicted(one, "1")
    predicted(other, "2")
    mask.write_bytes(b"corrected")
    with pytest.raises(SourceError, match="was changed since it was predicted"):
        Journal(tmp_path).require_unchanged("1", mask)


def test_a_ct_that_another_run_has_predicted_meanwhile_is_finished(predicted, tmp_path):
    one, other = Journal(tmp_path), Journal(tmp_path)
    mask = predicted(one, "1")
    assert other.finished("1", KEY, STAMP, mask) is not None
