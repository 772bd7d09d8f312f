"""Who trains, validates and tests: by patient, a pure function of seed and patient ids."""

import json
from contextlib import suppress

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from cache.errors import ParamsError
from cache.manifest import Entry, Manifest
from cache.sealed import KEY
from stages.train.split import Split, read_split, split_patients, write_split

patients = st.lists(st.text(min_size=1, max_size=4), unique=True, max_size=20)
seeds = st.integers(0, 2**40)
# shares of up to nine tenths together, as the parameters demand less than one
shares = st.tuples(st.integers(0, 60), st.integers(0, 30)).map(lambda two: [n / 100 for n in two])


def split_of(ids, seed, two_shares):
    test_share, validation_share = two_shares
    return split_patients(ids, seed=seed, validation_share=validation_share, test_share=test_share)


def folds_of(ids, seed, two_shares, folds):
    """The split of every fold, in their order."""
    return [
        split_patients(
            ids,
            seed=seed,
            validation_share=two_shares[1],
            test_share=two_shares[0],
            folds=folds,
            fold=fold,
        )
        for fold in range(folds)
    ]


def parts(splits):
    """The part of every patient: 0 for testing, then the folds from 1."""
    tested = dict.fromkeys(splits[0].test, 0)
    return tested | {name: n for n, split in enumerate(splits, 1) for name in split.validation}


@st.composite
def cuts(draw):
    """Ids, seed, shares and a number of folds for which there are patients enough."""
    ids = draw(patients.filter(lambda ids: len(ids) > 3))
    seed, two_shares = draw(seeds), draw(shares)
    n_others = len(ids) - len(split_of(ids, seed, two_shares).test)
    return ids, seed, two_shares, draw(st.integers(2, n_others))


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


@given(cuts())
def test_in_every_fold_every_patient_is_on_exactly_one_side(cut):
    for split in folds_of(*cut):
        assert sorted(split.train + split.validation + split.test) == sorted(cut[0])


@given(cuts())
def test_over_all_folds_everybody_but_the_tested_validates_exactly_once(cut):
    splits = folds_of(*cut)
    validated = sorted(patient for split in splits for patient in split.validation)
    assert validated == sorted(set(cut[0]) - set(splits[0].test))


@given(cuts())
def test_every_fold_tests_the_patients_that_are_tested_without_folds(cut):
    ids, seed, two_shares, _ = cut
    tested = split_of(ids, seed, two_shares).test
    assert [split.test for split in folds_of(*cut)] == [tested] * cut[-1]


@given(cuts())
def test_folds_differ_by_one_patient_at_most_and_each_has_one_to_train_on(cut):
    splits = folds_of(*cut)
    sizes = [len(split.validation) for split in splits]
    assert 1 <= min(sizes) <= max(sizes) <= min(sizes) + 1
    assert all(split.train for split in splits)


@given(st.data(), cuts())
def test_the_order_of_the_ids_does_not_matter_to_folds(data, cut):
    shuffled = data.draw(st.permutations(cut[0]))
    assert folds_of(shuffled, *cut[1:]) == folds_of(*cut)


@given(cuts(), st.integers(1, 30))
def test_the_validation_share_does_not_matter_to_folds(cut, percent):
    ids, seed, (test_share, validation_share), folds = cut
    assume(validation_share > 0)
    other = folds_of(ids, seed, (test_share, percent / 100), folds)
    assert other == folds_of(*cut)


def test_the_folds_of_a_seed_never_change():
    # the order of the hash: p4 p3 for testing, then p0 p5, p7 p2, p6 p1
    splits = folds_of([f"p{n}" for n in range(8)], 2026, (0.25, 0.15), 3)
    assert [split.validation for split in splits] == [["p0", "p5"], ["p2", "p7"], ["p1", "p6"]]


@settings(max_examples=150)
@given(cuts(), st.text(min_size=1, max_size=4))
def test_a_new_patient_moves_at_most_one_other_across_each_border_into_the_fold_beside(cut, new):
    ids, *how = cut
    assume(new not in ids)
    before, after = parts(folds_of(ids, *how)), parts(folds_of([*ids, new], *how))
    for border in range(how[-1]):
        crossed = {name for name in ids if (before[name] <= border) != (after[name] <= border)}
        assert len(crossed) <= 1
    assert all(abs(after[name] - before[name]) <= 1 for name in ids)


@pytest.mark.parametrize(
    ("n_patients", "folds", "fact", "fix"),
    [
        (5, 5, r"is 5, more than there are patients \(4, and 1 set apart", "take at most 4, or"),
        (2, 2, r"is 2, more than there are patients \(1, and 1 set apart", "set it to null, or"),
        (0, 2, r"is 2, more than there are patients \(0, and 0 set apart", "set it to null, or"),
    ],
)
def test_a_fold_without_a_patient_is_refused_whichever_is_asked_for(n_patients, folds, fact, fix):
    ids = [f"p{n}" for n in range(n_patients)]
    for fold in range(folds):
        with pytest.raises(ParamsError, match=fact) as caught:
            split_patients(
                ids, seed=1, validation_share=0.2, test_share=0.2, folds=folds, fold=fold
            )
        assert caught.value.where == "train.folds"
        assert caught.value.fix.startswith(fix)


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

    def test_a_patient_of_a_split_file_may_be_written_in_another_unicode_form(self, tmp_path):
        path = tmp_path / "split.json"
        write_split(path, Split(["Mu\u0308ller"], [], ["e"]))
        assert read_split(path, ["M\u00fcller", "e"]).train == ["M\u00fcller"]

    def test_no_flipped_bit_in_what_was_written_is_another_split(self, tmp_path):
        path, split = tmp_path / "split.json", Split(["a", "b"], ["c"], ["d"])
        write_split(path, split)
        whole = path.read_bytes()
        for offset in range(len(whole)):
            content = bytearray(whole)
            content[offset] ^= 1 << offset % 8
            path.write_bytes(content)
            with suppress(ParamsError):
                assert read_split(path, "abcd") == split, offset

    def test_one_changed_by_hand_since_training_wrote_it_says_how_to_use_it(self, tmp_path):
        path = tmp_path / "split.json"
        write_split(path, Split(["a", "b"], ["c"], ["d"]))
        path.write_text(path.read_text().replace('"c"', '"e"'))
        with pytest.raises(ParamsError, match="its values are not those") as refused:
            read_split(path, "abcd")
        assert "take its sha256 out" in refused.value.fix
        fields = {name: ids for name, ids in json.loads(path.read_text()).items() if name != KEY}
        path.write_text(json.dumps(fields))
        assert read_split(path, "abcde").validation == ["e"]

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(ParamsError, match=r"none\.json: is no split file .*No such file"):
            read_split(tmp_path / "none.json", ["a"])

    def test_text_that_is_no_json_is_refused(self, refused):
        assert "is no split file (Expecting" in refused("train: [a]")

    def test_a_missing_role_is_named(self, refused):
        assert "'validation'" in refused('{"train": ["a"], "test": ["b"]}')

    def test_a_split_file_that_holds_a_list_is_refused(self, refused):
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
