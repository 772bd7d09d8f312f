"""Who trains, validates and tests: by patient, a pure function of seed and patient ids."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cache.errors import ParamsError
from cache.manifest import Entry, Manifest
from stages.train.split import Split, read_split, split_patients, write_split

patients = st.lists(st.text(min_size=1, max_size=4), unique=True, max_size=20)
seeds = st.integers(0, 2**40)
# shares of up to nine tenths together, as the parameters demand less than one
shares = st.tuples(st.integers(0, 60), st.integers(0, 30)).map(lambda two: [n / 100 for n in two])


def split_of(ids, seed, two_shares):
    test_share, validation_share = two_shares
    return split_patients(ids, seed=seed, validation_share=validation_share, test_share=test_share)


def entry(case_id, patient_id):
    place = (f"{case_id}.zarr", "k", (1, 2, 3), (1.0, 2.0, 3.0))
    return Entry(case_id, patient_id, *place, 1500.0, "d", [], {})


@given(patients, seeds, shares)
def test_every_patient_is_on_exactly_one_side(ids, seed, two_shares):
    split = split_of(ids, seed, two_shares)
    assert sorted(split.train + split.validation + split.test) == sorted(ids)


@given(st.data(), patients, seeds, shares)
def test_the_order_of_the_ids_does_not_matter(data, ids, seed, two_shares):
    shuffled = data.draw(st.permutations(ids))
    assert split_of(shuffled, seed, two_shares) == split_of(ids, seed, two_shares)


def test_a_patient_named_twice_counts_once():
    ids = [f"p{n}" for n in range(9)]
    assert split_of(ids * 2, 1, (0.3, 0.3)) == split_of(ids, 1, (0.3, 0.3))


def test_another_seed_gives_another_split():
    ids = [f"p{n}" for n in range(30)]
    assert split_of(ids, 1, (0.3, 0.3)) != split_of(ids, 2, (0.3, 0.3))


def test_the_split_of_a_seed_never_changes():
    # a split that moves between versions would train on patients that were tested before
    split = split_of([f"p{n}" for n in range(8)], 2026, (0.25, 0.15))
    assert split.test == ["p3", "p4"]
    assert split.validation == ["p1"]


@settings(max_examples=150)
@given(patients.filter(bool), seeds, shares)
def test_a_new_patient_moves_at_most_one_other_at_each_border(ids, seed, two_shares):
    *old, new = ids
    before, after = split_of(old, seed, two_shares), split_of([*old, new], seed, two_shares)
    for role in ("validation", "test"):
        changed = set(getattr(before, role)) ^ set(getattr(after, role))
        assert len(changed - {new}) <= 1


@given(patients, seeds, shares)
def test_a_share_of_zero_gives_nobody(ids, seed, two_shares):
    assert split_of(ids, seed, (two_shares[0], 0)).validation == []
    assert split_of(ids, seed, (0, two_shares[1])).test == []


@given(patients.filter(lambda ids: len(ids) > 2), seeds, shares)
@example(["a", "b", "c"], 0, [0.6, 0.3])
def test_of_three_patients_each_share_above_zero_gets_one(ids, seed, two_shares):
    split = split_of(ids, seed, two_shares)
    assert bool(split.test) == (two_shares[0] > 0)
    assert bool(split.validation) == (two_shares[1] > 0)


@given(patients.filter(bool), seeds, shares)
def test_somebody_is_always_left_to_train_on(ids, seed, two_shares):
    assert split_of(ids, seed, two_shares).train


def test_of_two_patients_one_is_tested_and_none_validates():
    split = split_of(["a", "b"], 0, (0.2, 0.2))
    assert (len(split.train), len(split.validation), len(split.test)) == (1, 0, 1)


def test_shares_are_of_the_patients():
    split = split_of([f"p{n}" for n in range(100)], 5, (0.25, 0.15))
    assert (len(split.train), len(split.validation), len(split.test)) == (60, 15, 25)


def test_all_cases_of_a_patient_have_the_patients_role():
    cases = [entry("b", "p1"), entry("a", "p1"), entry("c", "p2"), entry("d", "p3")]
    manifest = Manifest({one.case_id: one for one in cases}, {})
    split = Split(train=["p1"], validation=["p2"], test=[])
    assert split.cases(manifest, "train") == ["a", "b"]
    assert split.cases(manifest, "validation") == ["c"]
    assert split.cases(manifest, "test") == []


def test_the_role_of_a_patient_nobody_listed_is_none():
    split = Split(train=["p1"], validation=["p2"], test=["p3"])
    roles = [split.role_of(name) for name in ("p1", "p2", "p3", "p4")]
    assert roles == ["train", "validation", "test", None]


class TestSplitFile:
    @pytest.fixture
    def refused(self, tmp_path):
        """The fact for which a split file of this text is refused."""

        def refuse(text):
            path = tmp_path / "mine.json"
            path.write_text(text, encoding="utf-8")
            with pytest.raises(ParamsError) as caught:
                read_split(path, ["a", "b", "c"])
            assert caught.value.where == path
            return caught.value.fact

        return refuse

    @given(patients, seeds, shares)
    def test_what_was_written_is_read_back(self, tmp_path_factory, ids, seed, two_shares):
        path = tmp_path_factory.getbasetemp() / "split.json"
        split = split_of([*ids, "somebody"], seed, two_shares)
        write_split(path, split)
        assert read_split(path, [*ids, "somebody"]) == split

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(ParamsError, match=r"none\.json: is no split file .*No such file"):
            read_split(tmp_path / "none.json", ["a"])

    def test_text_that_is_no_json_is_refused(self, refused):
        assert "is no split file (Expecting" in refused("train: [a]")

    def test_a_missing_role_is_named(self, refused):
        assert "'validation'" in refused('{"train": ["a"], "test": ["b"]}')

    def test_a_list_is_refused(self, refused):
        assert "is no split file" in refused('["a", "b"]')

    def test_one_patient_without_a_list_is_not_taken_for_its_letters(self, refused):
        fact = refused('{"train": "abc", "validation": [], "test": []}')
        assert "train is no list of patient ids" in fact

    def test_numbers_are_not_taken_for_patients(self, refused):
        fact = refused('{"train": ["a"], "validation": [1, 1], "test": []}')
        assert "validation is no list of patient ids" in fact

    @pytest.mark.parametrize(
        "roles",
        [
            {"train": ["a", "b"], "validation": ["b"], "test": ["c"]},
            {"train": ["a", "b", "b"], "validation": [], "test": []},
            {"train": ["a"], "validation": ["b"], "test": ["b"]},
        ],
        ids=["two roles", "one role", "without train"],
    )
    def test_a_patient_named_twice_is_named(self, refused, roles):
        assert refused(json.dumps(roles)) == "names b more than once"

    def test_a_split_with_nobody_of_the_store_to_train_on_is_refused(self, refused):
        fact = refused('{"train": ["z"], "validation": ["a"], "test": ["b"]}')
        assert fact == "names no patient of the store for training"
