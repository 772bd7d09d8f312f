"""A stopped evaluation continues, and a repeated one believes only what is unchanged."""

import hashlib
import io
import logging
import math
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import DataError
from cache.lock import only_writer
from cache.manifest import read_manifest, write_manifest
from cache.reader import CaseStore
from cache.state import state_folder
from pipeline.identity import evaluation_digest
from stages.evaluate.background import Background
from stages.evaluate.finished import Finished, FinishedCases, result_key
from stages.evaluate.one import Model
from stages.evaluate.params import EvaluateParams
from stages.evaluate.run import run
from stages.evaluate.scores import CaseScores
from stages.evaluate.slice_error import SliceError
from stages.train.checkpoints.checkpoint import Checkpoint
from tiny import PREPROCESS, TRAIN, spec_of, write_balls

CPU = torch.device("cpu")
PARAMS = {"cases": "test", "scope": "volume", "overlap": 0.0, "tolerance_mm": 2.0}
COUNT = 3
CONTENT = b"a mask, or a picture"


class Counting:
    """A network that finds what is bright, counts the volumes it saw, and may be stopped."""

    def __init__(self, *, stop_at=math.inf):
        self.seen, self.stop_at = 0, stop_at

    def __call__(self, hu):
        self.seen += 1
        if self.seen == self.stop_at:
            raise KeyboardInterrupt
        return torch.cat([60 - hu, hu - 60], dim=1)


@pytest.fixture(scope="module")
def balls(tmp_path_factory):
    """A store of three balls, which no test changes."""
    return write_balls(tmp_path_factory.mktemp("balls") / "cases", count=COUNT)


def evaluated(store, out, *, digest="d", roles=None, stop_at=math.inf, **params):
    """Evaluate a store into ``out``; gives how many volumes the network saw."""
    network = Counting(stop_at=stop_at)
    background = Background([], [], b"curves", None, [])
    model = Model(network, None, (-160.0, 240.0), roles or {}, background, digest)
    params = EvaluateParams(**{**PARAMS, **params})
    run(store, out, params, model=model, device=CPU)
    return network.seen


@pytest.fixture
def evaluate(balls, tmp_path):
    """Evaluate the balls, or another store; gives how many volumes the network saw."""

    def evaluate_store(store=balls, **how):
        return evaluated(store, tmp_path / "reports", **how)

    return evaluate_store


@pytest.fixture(scope="module")
def once(balls, tmp_path_factory):
    """A folder with the reports of an evaluation that was never stopped."""
    folder = tmp_path_factory.mktemp("once")
    assert evaluated(balls, folder / "reports") == COUNT
    return folder


@pytest.fixture(scope="module")
def stopped(balls, tmp_path_factory):
    """A folder with what an evaluation left that was stopped in its last case."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(KeyboardInterrupt):
        evaluated(balls, folder / "reports", stop_at=COUNT)
    return folder


@pytest.fixture
def evaluated_once(once, tmp_path):
    """The first of two evaluations, which the second finds below ``tmp_path``."""
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)


@pytest.fixture
def evaluation_stopped(stopped, tmp_path):
    """What was stopped in its last case lies below ``tmp_path``."""
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)


@dataclass(frozen=True)
class Continued:
    """How a stopped evaluation went on."""

    seen: int
    reports: Path
    log: str


@pytest.fixture(scope="module")
def continued(balls, stopped, tmp_path_factory):
    """The stopped evaluation, continued to its end."""
    folder = tmp_path_factory.mktemp("continued")
    shutil.copytree(stopped, folder, dirs_exist_ok=True)
    logger, text = logging.getLogger("stages.evaluate"), io.StringIO()
    handler, level = logging.StreamHandler(text), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        seen = evaluated(balls, folder / "reports")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return Continued(seen, folder / "reports", text.getvalue())


def made(folder):
    """All that an evaluation makes, by name, without the times in the report."""
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    report = files["report.html"].decode()
    return {**files, "report.html": re.sub(r"<h2>Time</h2>.*?</table>", "", report, flags=re.S)}


def journal_of(reports):
    return state_folder(reports) / "evaluated.jsonl"


class TestStopped:
    def test_a_stopped_evaluation_goes_on_with_the_cases_it_lacks(self, continued):
        assert continued.seen == 1

    def test_a_stopped_and_continued_evaluation_makes_the_bytes_of_one_never_stopped(
        self, once, continued
    ):
        assert made(continued.reports) == made(once / "reports")

    def test_a_line_cut_short_by_a_kill_costs_its_own_case_alone(
        self, evaluation_stopped, evaluate, tmp_path
    ):
        journal = journal_of(tmp_path / "reports")
        journal.write_bytes(journal.read_bytes()[:-20])
        with pytest.raises(KeyboardInterrupt):
            evaluate(stop_at=2)  # the second case again; stopped in the third
        assert evaluate() == 1

    def test_how_many_cases_an_earlier_run_finished_is_reported(self, continued):
        words = "2 of 3 cases were finished by an earlier run"
        assert words in continued.log
        assert words in (continued.reports / "report.html").read_text(encoding="utf-8")

    def test_a_second_evaluation_into_the_same_folder_is_refused_by_name(self, evaluate, tmp_path):
        reports = tmp_path / "reports"
        busy = only_writer(reports, DataError("here", "busy", "wait"))
        with busy, pytest.raises(DataError, match="another evaluation is writing") as refused:
            evaluate()
        assert refused.value.where == reports
        assert not reports.exists()


class TestRepeated:
    def test_a_repeated_evaluation_predicts_nothing_and_makes_the_same_bytes(
        self, once, evaluated_once, evaluate, tmp_path
    ):
        assert evaluate() == 0
        assert made(tmp_path / "reports") == made(once / "reports")

    def test_another_model_has_every_case_predicted_again(self, evaluation_stopped, evaluate):
        with pytest.raises(KeyboardInterrupt):
            evaluate(digest="another", stop_at=COUNT)  # and so it saw all of them

    def test_without_a_known_digest_of_the_model_nothing_is_believed(self, evaluate):
        with pytest.raises(KeyboardInterrupt):
            evaluate(digest="", stop_at=2)
        with pytest.raises(KeyboardInterrupt):
            evaluate(digest="", stop_at=COUNT)  # and so it saw all of them

    def test_a_case_with_another_role_is_scored_again_with_it(
        self, evaluated_once, evaluate, tmp_path
    ):
        assert evaluate(cases="all", roles={"case-1": "train"}) == 1
        table = (tmp_path / "reports" / "cases.csv").read_text(encoding="utf-8")
        assert "case-1,case-1,train" in table

    def test_to_score_all_cases_after_the_test_cases_takes_only_the_others(self, evaluate):
        roles = {"case-1": "train"}
        assert evaluate(roles=roles) == COUNT - 1
        assert evaluate(roles=roles, cases="all") == 1

    def test_masks_and_pictures_of_a_case_that_left_the_store_are_deleted(
        self, balls, evaluated_once, evaluate, tmp_path
    ):
        store = shutil.copytree(balls, tmp_path / "store")
        manifest = read_manifest(store)
        others = {name: entry for name, entry in manifest.cases.items() if name != "case-1"}
        write_manifest(store, replace(manifest, cases=others))
        assert evaluate(store) == 0
        masks = (tmp_path / "reports" / "predictions").iterdir()
        assert sorted(path.name for path in masks) == ["case-0.nii.gz", "case-2.nii.gz"]
        assert len(list((state_folder(tmp_path / "reports") / "pictures").iterdir())) == 2


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder of reports with two finished cases, and the bytes of its journal."""
    out = tmp_path_factory.mktemp("journal") / "reports"
    cases = FinishedCases(out)
    for case_id, dice in (("a", 0.1 + 0.2), ("b", math.nan)):
        for path in (cases.mask(case_id), cases.picture("k")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(CONTENT)
        cases.add(finished(case_id, dice))
    return out, journal_of(out).read_bytes()


class TestJournal:
    @pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
    @pytest.mark.parametrize("kind", ["mask", "picture"])
    def test_a_case_whose_mask_or_picture_is_not_what_it_was_is_not_finished(
        self, written, kind, damage
    ):
        out, content = written
        journal_of(out).write_bytes(content)
        cases = FinishedCases(out)
        path = cases.mask("a") if kind == "mask" else cases.picture("k")
        assert cases.find("a", "k", with_picture=True)
        path.unlink()
        if damage != "gone":
            path.write_bytes(CONTENT[:-1] + (b"!" if damage == "flipped" else b""))
        found = cases.find("a", "k", with_picture=True)
        path.write_bytes(CONTENT)
        assert found is None

    def test_a_case_without_a_picture_is_not_finished_where_one_is_to_be_shown(self, tmp_path):
        cases = FinishedCases(tmp_path / "reports")
        cases.mask("a").parent.mkdir(parents=True)
        cases.mask("a").write_bytes(CONTENT)
        cases.add(replace(finished("a", 0.5), picture_sha256=""))
        again = FinishedCases(tmp_path / "reports")
        assert again.find("a", "k", with_picture=False)
        assert again.find("a", "k", with_picture=True) is None

    def test_results_of_another_key_are_not_believed(self, written):
        out, content = written
        journal_of(out).write_bytes(content)
        assert FinishedCases(out).find("a", "another", with_picture=False) is None

    def test_scores_return_bit_for_bit(self, written):
        out, content = written
        journal_of(out).write_bytes(content)
        found = FinishedCases(out).find("a", "k", with_picture=False)
        assert found == finished("a", 0.1 + 0.2)
        undefined = FinishedCases(out).find("b", "k", with_picture=False)
        assert math.isnan(undefined.scores.dice)
        assert undefined.scores.hd95_mm == math.inf

    @given(data=st.data())
    def test_a_flipped_bit_in_the_journal_is_never_believed(self, written, data):
        out, content = written
        place = data.draw(st.integers(0, len(content) - 1))
        damaged = bytearray(content)
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
        journal_of(out).write_bytes(damaged)
        cases = FinishedCases(out)
        first = cases.find("a", "k", with_picture=False)
        second = cases.find("b", "k", with_picture=False)
        assert first in (None, finished("a", 0.1 + 0.2))
        assert second is None or repr(second) == repr(finished("b", math.nan))

    def test_any_bytes_are_a_journal_without_a_case(self, written):
        out, _ = written
        for content in (b"", b"\xff\xfe\n", b"[]\n{}\n1\n", b'{"finished": {}, "sha256": ""}'):
            journal_of(out).write_bytes(content)
            assert FinishedCases(out).find("a", "k", with_picture=False) is None


def finished(case_id, dice):
    scores = CaseScores(
        case_id, "p", "test", dice, 0.5, 0.5, 0.5, math.inf, 1 / 3, 0.5, 1.0, 2.0, -1.0, -50.0
    )
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    return Finished("k", scores, sha256, sha256, SliceError(3, 0.1, 0.2))


class TestKeys:
    def test_every_evaluation_parameter_but_the_choice_of_cases_is_part_of_a_result(self, balls):
        entry = CaseStore(balls).manifest.cases["case-0"]
        params = EvaluateParams(**PARAMS)
        changes = {"cases": "all", "scope": "box", "overlap": 0.1, "tolerance_mm": 1.0}
        assert changes.keys() == PARAMS.keys()
        key = result_key("d", entry, "test", params)
        same = {
            name
            for name, value in changes.items()
            if result_key("d", entry, "test", params.model_copy(update={name: value})) == key
        }
        assert same == {"cases"}

    def test_a_case_prepared_anew_has_other_results(self, balls):
        entry = CaseStore(balls).manifest.cases["case-0"]
        files = {name: replace(one, sha256="0" * 64) for name, one in entry.files.items()}
        params = EvaluateParams(**PARAMS)
        changed = [entry, replace(entry, key="k"), replace(entry, files=files)]
        assert len({result_key("d", one, "test", params) for one in changed}) == 3

    def test_models_that_differ_in_one_weight_or_parameter_differ_in_their_digest(self):
        model = checkpoint()
        others = [
            checkpoint(model={"a": torch.tensor([0.0, 1.0, 1e-30])}),
            checkpoint(model={"b": torch.tensor([0.0, 1.0, 0.0])}),
            checkpoint(model={"a": torch.tensor([[0.0, 1.0, 0.0]])}),
            checkpoint(spec=spec_of(hu_window=[-160, 241])),
            checkpoint(train={**TRAIN, "lr": 0.25}),
            checkpoint(preprocess={**PREPROCESS, "margin_mm": 6.0}),
        ]
        digests = {evaluation_digest(one, CPU) for one in [model, *others]}
        assert len(digests) == 1 + len(others)
        assert evaluation_digest(checkpoint(history=[{"epoch": 2.0}]), CPU) in digests

    def test_the_digest_covers_every_module_of_ours(self):
        from pipeline.identity import PACKAGES, ROOT

        tree = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
        assert set(PACKAGES) == tree
        assert Path(__file__).is_relative_to(ROOT)


def checkpoint(**changes):
    fields = {
        "run_key": "k",
        "seed": 7,
        "split": {},
        "spec": spec_of(),
        "train": TRAIN,
        "preprocess": PREPROCESS,
        "data_digest": "d" * 64,
        "model": {"a": torch.tensor([0.0, 1.0, 0.0])},
    }
    return Checkpoint(**(fields | changes))
