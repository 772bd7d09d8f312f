"""Score a model: masks on the source grid, metrics.json, cases.csv and the report."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from cache.errors import DataError, StoreError
from cache.lock import only_writer
from cache.reader import CaseStore
from stages.evaluate.background import Background
from stages.evaluate.distributions import distributions_picture
from stages.evaluate.finished import MASK_ENDING, Finished, FinishedCases, KeptPicture
from stages.evaluate.one import Evaluation, Model, evaluated, finished_before
from stages.evaluate.params import EvaluateParams
from stages.evaluate.report import Report, write_report
from stages.evaluate.scores import CaseScores, badness
from stages.evaluate.summary import summarise
from stages.evaluate.tables import write_cases_csv, write_metrics_json

LOG = logging.getLogger(__name__)

SHOWN = 5  # masks in a message
SEEN_PICTURES = 20  # of cases seen in training; every test case has one


def run(
    cases: Path, out: Path, params: EvaluateParams, *, model: Model, device: torch.device
) -> list[CaseScores]:
    """Predict and score the test cases, or all; write everything below ``out``.

    The summary is of the test cases alone; the others are marked as seen, and the first twenty of
    them have a picture too. Where ``evaluate.cases`` is ``all`` and there is no test case, the
    summary is of all. Cases that an earlier run finished, be it killed or not, with the same
    model, data, parameters, device and code, are not predicted again.

    Returns:
        The scores of all cases, worst Dice first.

    Raises:
        StoreError: there is no case to score, or one is damaged.
        DataError: another evaluation is writing to ``out``.
    """
    fix = "wait until it is done, or give another --out"
    with only_writer(out, DataError(out, "another evaluation is writing to this folder", fix)):
        return _run(cases, out, params, model=model, device=device)


def _run(
    cases: Path, out: Path, params: EvaluateParams, *, model: Model, device: torch.device
) -> list[CaseScores]:
    """What ``run`` does once no other writes there."""
    evaluation = Evaluation(CaseStore(cases), out, params, model, device, FinishedCases(out))
    wanted = _wanted(evaluation)
    before = dict(_finished_before(evaluation, wanted))
    already = f"{len(before)} of {len(wanted)} cases were finished by an earlier run"
    if before:
        LOG.info("%s", already)
    results = [
        before.get(case_id) or evaluated(evaluation, case_id, with_picture=with_picture)
        for case_id, with_picture in tqdm(wanted.items(), "evaluate", disable=None)
    ]
    results.sort(key=lambda one: badness(one.scores))
    _write(evaluation, results, already if before else "")
    return [one.scores for one in results]


def _wanted(evaluation: Evaluation) -> dict[str, bool]:
    """The cases to score, and whether each has a picture."""
    case_ids = evaluation.store.case_ids
    tests = {case_id for case_id in case_ids if evaluation.model.role(case_id) == "test"}
    is_all = evaluation.params.cases == "all"
    wanted = [case_id for case_id in case_ids if is_all or case_id in tests]
    if not wanted:
        fix = "raise train.test_share and train again, or set evaluate.cases: all"
        raise StoreError(evaluation.store.root, "the split has no test case", fix)
    seen = [case_id for case_id in wanted if case_id not in tests][:SEEN_PICTURES]
    pictured = tests.union(seen)
    return {case_id: case_id in pictured for case_id in wanted}


def _finished_before(
    evaluation: Evaluation, wanted: dict[str, bool]
) -> Iterator[tuple[str, Finished]]:
    """The cases that an earlier run finished, in the order of their ids."""
    for case_id, with_picture in wanted.items():
        finished = finished_before(evaluation, case_id, with_picture=with_picture)
        if finished is not None:
            yield case_id, finished


def _write(evaluation: Evaluation, results: list[Finished], already: str) -> None:
    """Write the table, the report and, last, the metrics.

    Args:
        evaluation: the model, the store and the folder.
        results: of all cases, worst Dice first.
        already: how many of them an earlier run finished, in words; empty if none.
    """
    scores = [one.scores for one in results]
    counted = [score for score in scores if score.role == "test"] or scores
    summary = summarise(counted)
    with evaluation.watch.step("pictures"):
        distributions = distributions_picture(scores, counted)
    report = Report(
        background=_background(evaluation, counted, already),
        scores=scores,
        counted=counted,
        summary=summary,
        distributions=distributions,
        pictures=[
            (one.scores, KeptPicture(evaluation.finished.picture(one.key), one.error))
            for one in results
            if one.picture_sha256
        ],
        tolerance_mm=evaluation.params.tolerance_mm,
    )
    _remove_stale_masks(evaluation, {score.case_id for score in scores})
    evaluation.finished.end(results)
    _warn_of_others(evaluation)
    write_report(evaluation.out / "report.html", report)
    write_metrics_json(evaluation.out / "metrics.json", summary)
    # last: a table program that has it open forbids that, on Windows
    write_cases_csv(evaluation.out / "cases.csv", scores)


def _background(evaluation: Evaluation, counted: list[CaseScores], already: str) -> Background:
    """What is known of the model, and of this evaluation too."""
    before = evaluation.model.background
    time = evaluation.watch.stage_time("Evaluation")
    if already:
        time = replace(time, note=f"{time.note}; {already}")
    return replace(
        before,
        facts=[*before.facts, _scored(evaluation.params, counted)],
        times=[*before.times, time],
    )


def _remove_stale_masks(evaluation: Evaluation, scored: set[str]) -> None:
    """Delete the masks of cases that are no longer scored: folder and table must say the same."""
    for case_id in set(evaluation.store.case_ids) - scored:  # other names are somebody else's
        evaluation.finished.mask(case_id).unlink(missing_ok=True)


def _warn_of_others(evaluation: Evaluation) -> None:
    """Name masks of no case of the store: they may be of cases that left it, or somebody's own."""
    folder, known = evaluation.finished.masks, set(evaluation.store.case_ids)
    found = [path.name for path in folder.glob(f"*{MASK_ENDING}")]
    others = sorted(name for name in found if name.removesuffix(MASK_ENDING) not in known)
    if others:
        more = f", … and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        LOG.warning(
            "%s has masks of no case of the store: %s%s; they are not scored, delete what is not"
            " wanted",
            folder,
            ", ".join(others[:SHOWN]),
            more,
        )


def _scored(params: EvaluateParams, counted: list[CaseScores]) -> tuple[str, str]:
    where = "the whole source grid" if params.scope == "volume" else "the prepared box"
    kind = "test" if counted[0].role == "test" else "all (there is no test case)"
    return "Scored", f"{len(counted)} cases ({kind}) on {where}"
