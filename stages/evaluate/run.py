"""Score a model: masks on the source grid, metrics.json, cases.csv and the report."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from tqdm import tqdm

from cache.case import CaseInfo, Mask, Role
from cache.errors import StoreError
from cache.grid import Triple
from cache.reader import CaseStore
from stages.evaluate.background import Background
from stages.evaluate.distributions import distributions_picture
from stages.evaluate.export import write_mask
from stages.evaluate.params import EvaluateParams
from stages.evaluate.pictures import Picture, case_picture
from stages.evaluate.report import Report, write_report
from stages.evaluate.restore import THRESHOLD, inside_box, restore_mask
from stages.evaluate.scores import CaseScores, score_case, worst_first
from stages.evaluate.stopwatch import Stopwatch
from stages.evaluate.summary import summarise
from stages.evaluate.tables import write_cases_csv, write_metrics_json
from stages.evaluate.window import Network, Probability, liver_probability

MASK_ENDING = ".nii.gz"
SEEN_PICTURES = 20  # of cases seen in training; every test case has one, and a report must open


@dataclass(frozen=True)
class Model:
    """A trained network as evaluation needs it.

    Attributes:
        network: HU as float32 (B, 1, D, H, W) -> logits (B, 2, D, H, W).
        window_zyx: shape of the patches it was trained on; None for whole volumes.
        hu_window: (low, high) HU it sees, for the pictures; None for raw HU.
        roles: each case's role in its training, by case id.
        background: what the report says of it.
    """

    network: Network
    window_zyx: Triple | None
    hu_window: tuple[float, float] | None
    roles: dict[str, Role]
    background: Background


@dataclass(frozen=True)
class Evaluation:
    """What stays the same from case to case."""

    store: CaseStore
    out: Path
    params: EvaluateParams
    model: Model
    device: torch.device
    watch: Stopwatch = field(default_factory=Stopwatch)


def run(
    cases: Path, out: Path, params: EvaluateParams, *, model: Model, device: torch.device
) -> list[CaseScores]:
    """Predict and score the test cases, or all; write everything below ``out``.

    The summary is of the test cases alone; the others are marked as seen, and the first twenty of
    them have a picture too. Where ``evaluate.cases`` is ``all`` and there is no test case, the
    summary is of all.

    Returns:
        The scores of all cases, worst Dice first.

    Raises:
        StoreError: there is no case to score, or one is damaged.
    """
    evaluation = Evaluation(CaseStore(cases), out, params, model, device)
    case_ids = evaluation.store.case_ids
    tests = [case_id for case_id in case_ids if _is_test(model, case_id)]
    wanted = case_ids if params.cases == "all" else tests
    if not wanted:
        fix = "raise train.test_share and train again, or set evaluate.cases: all"
        raise StoreError(cases, "the split has no test case", fix)
    pictured = {*tests, *[case_id for case_id in wanted if case_id not in tests][:SEEN_PICTURES]}
    scores: list[CaseScores] = []
    pictures: dict[str, Picture] = {}
    for case_id in tqdm(wanted, "evaluate", disable=None):
        probability = _probability(evaluation, case_id)
        scores.append(_score(evaluation, case_id, probability))
        if case_id in pictured:
            with evaluation.watch.step("pictures"):
                pictures[case_id] = _picture(evaluation, case_id, probability)
    _write(evaluation, worst_first(scores), pictures)
    return worst_first(scores)


def _write(evaluation: Evaluation, scores: list[CaseScores], pictures: dict[str, Picture]) -> None:
    """Write the table, the report and, last, the metrics."""
    counted = [score for score in scores if score.role == "test"] or scores
    summary = summarise(counted)
    with evaluation.watch.step("pictures"):
        distributions = distributions_picture(scores, counted)
    report = Report(
        background=_background(evaluation, counted),
        scores=scores,
        counted=counted,
        summary=summary,
        distributions=distributions,
        pictures=[(one, pictures[one.case_id]) for one in scores if one.case_id in pictures],
        tolerance_mm=evaluation.params.tolerance_mm,
    )
    left_out = set(evaluation.store.case_ids) - {score.case_id for score in scores}
    _remove_stale_masks(evaluation.out, left_out)
    write_report(evaluation.out / "report.html", report)
    write_metrics_json(evaluation.out / "metrics.json", summary)
    # last: a table program that has it open forbids that, on Windows
    write_cases_csv(evaluation.out / "cases.csv", scores)


def _background(evaluation: Evaluation, counted: list[CaseScores]) -> Background:
    """What is known of the model, and of this evaluation too."""
    before = evaluation.model.background
    return replace(
        before,
        facts=[*before.facts, _scored(evaluation.params, counted)],
        times=[*before.times, evaluation.watch.stage_time("Evaluation")],
    )


def _remove_stale_masks(out: Path, left_out: set[str]) -> None:
    """Delete the masks of cases that are no longer scored: folder and table must say the same."""
    for case_id in left_out:  # files of other names are somebody else's
        (out / "predictions" / f"{case_id}{MASK_ENDING}").unlink(missing_ok=True)


def _probability(evaluation: Evaluation, case_id: str) -> Probability:
    with evaluation.watch.step("reading"):
        volume = evaluation.store.image(case_id)
    with evaluation.watch.step("network"):
        return liver_probability(
            evaluation.model.network,
            volume,
            window_zyx=evaluation.model.window_zyx,
            overlap=evaluation.params.overlap,
            device=evaluation.device,
        )


def _score(evaluation: Evaluation, case_id: str, probability: Probability) -> CaseScores:
    """Bring a prediction to the source grid, write it as an image and score it."""
    info = evaluation.store.info(case_id)
    with evaluation.watch.step("source grid"):
        prediction = restore_mask(
            probability, box=info.box, source_grid=info.source_grid, orientation=info.orientation
        )
    with evaluation.watch.step("masks"):
        path = evaluation.out / "predictions" / f"{case_id}{MASK_ENDING}"
        write_mask(path, prediction, info.source_grid)
    with evaluation.watch.step("scores"):
        return score_case(
            info.case_id,
            info.patient_id,
            evaluation.model.roles.get(case_id, "test"),
            prediction=(prediction, info.source_grid),
            truth=(_truth(evaluation, info), info.source_grid),
            tolerance_mm=evaluation.params.tolerance_mm,
        )


def _picture(evaluation: Evaluation, case_id: str, probability: Probability) -> Picture:
    store = evaluation.store
    return case_picture(
        store.image(case_id),
        store.mask(case_id),
        probability > THRESHOLD,
        spacing_zyx_mm=store.info(case_id).prepared_grid.spacing_zyx_mm,
        hu_window=evaluation.model.hu_window,
    )


def _truth(evaluation: Evaluation, info: CaseInfo) -> Mask:
    mask = evaluation.store.source_mask(info.case_id)
    if evaluation.params.scope == "volume":
        return mask
    return inside_box(
        mask, box=info.box, source_grid=info.source_grid, orientation=info.orientation
    )


def _is_test(model: Model, case_id: str) -> bool:
    # a case the training never knew is as good as a test case
    return model.roles.get(case_id, "test") == "test"


def _scored(params: EvaluateParams, counted: list[CaseScores]) -> tuple[str, str]:
    where = "the whole source grid" if params.scope == "volume" else "the prepared box"
    kind = "test" if counted[0].role == "test" else "all (there is no test case)"
    return "Scored", f"{len(counted)} cases ({kind}) on {where}"
