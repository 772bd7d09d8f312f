"""Score masks of any origin: read, compare, write cases.csv and metrics.json."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cache.case import Mask
from cache.errors import DataError, SourceError
from cache.orientation import from_lps, lps_grid
from stages.evaluate.same_grid import differences
from stages.evaluate.scores import CaseScores, MaskOnGrid, score_case, worst_first
from stages.evaluate.summary import summarise
from stages.evaluate.tables import write_cases_csv, write_metrics_json
from stages.machine import naming_shortage
from stages.preprocess.problems import Finding
from stages.preprocess.reading.opened import stop_at
from stages.preprocess.reading.read import SourceVolume, read_label
from stages.preprocess.rules.inside import data_inside
from stages.preprocess.rules.label import label_integers
from stages.preprocess.values import LiverValues, account, liver_of, value_findings
from stages.score.pairs import Pair, pair_up


@dataclass(frozen=True)
class Masks:
    """What is compared.

    Attributes:
        predictions: a folder with one volume for each case.
        labels: a folder with volumes of the same names.
        prediction_values: what is liver in the predictions; None for every value above 0.
        label_values: the same for the labels.
    """

    predictions: Path
    labels: Path
    prediction_values: Sequence[int] | None
    label_values: Sequence[int] | None


@dataclass(frozen=True)
class Scored:
    """What a run found.

    Attributes:
        scores: of the pairs that could be compared, worst Dice first.
        labels: how many labels there are.
        faults: what kept others from being compared.
        doubts: what was compared, but has values that were not taken for liver.
    """

    scores: list[CaseScores]
    labels: int
    faults: list[DataError]
    doubts: list[Finding]


def run(masks: Masks, out: Path, *, tolerance_mm: float) -> Scored:
    """Score every pair; a fault of one is collected, and the others go on.

    Nothing is written where no pair could be scored. ``metrics.json`` is the summary of the scored
    cases, each taken for a patient of its own, with ``not_scored``, the number of labels it leaves
    out, and ``tolerance_mm``.

    Raises:
        SourceError: the folders cannot be paired at all.
    """
    paired = pair_up(masks.predictions, masks.labels)
    scores: list[CaseScores] = []
    faults, doubts = list(paired.faults), []
    for pair in tqdm(paired.pairs, "score", disable=None):
        try:
            with naming_shortage(pair.label):
                score, found = _score(pair, masks, tolerance_mm)
            scores.append(score)
            doubts += found
        except DataError as fault:
            faults.append(fault)
    if scores:
        left_out = {"not_scored": paired.labels - len(scores), "tolerance_mm": tolerance_mm}
        write_metrics_json(out / "metrics.json", {**summarise(scores), **left_out})
        write_cases_csv(out / "cases.csv", scores)
    return Scored(worst_first(scores), paired.labels, faults, doubts)


def _score(pair: Pair, masks: Masks, tolerance_mm: float) -> tuple[CaseScores, list[Finding]]:
    """A pair's scores, and what was found about the values of its two files."""
    label = _read(pair.label)
    prediction = _read(pair.prediction)
    alike = not differences(prediction.grid, label.grid)
    ours, our_doubts = _liver(prediction, masks.prediction_values)
    theirs, their_doubts = _liver(label, masks.label_values)
    score = score_case(
        pair.case_id,
        pair.case_id,
        "",
        prediction=_on_grid(prediction, ours, as_filed=alike),
        truth=_on_grid(label, theirs, as_filed=alike),
        tolerance_mm=tolerance_mm,
    )
    return score, [*our_doubts, *their_doubts]


def _read(path: Path) -> SourceVolume:
    """A label map of whole numbers on a grid with right angles.

    Raises:
        SourceError: it is something else, or cannot be read.
    """
    stop_at(data_inside(path, path.parent))
    volume = read_label(path, None)
    # lengths and volumes would be wrong; what else a header may break does not matter here
    stop_at(next((one for one in volume.findings if one.rule == "direction"), None))
    fractions = label_integers(path, volume.array)
    if fractions is not None:
        fix = "give a mask of whole numbers; of probabilities, 1 where they exceed one half"
        raise SourceError(path, fractions.fact, fix, rule=fractions.rule)
    return volume


def _liver(volume: SourceVolume, values: Sequence[int] | None) -> tuple[Mask, list[Finding]]:
    """The liver as preprocessing would take it, turned to LPS, and what is odd about the values."""
    wanted: LiverValues = "any" if values is None else list(values)
    counted = account(volume.array, wanted, volume.names, volume.layers)
    found = value_findings(volume.path, counted, is_any=values is None)
    return liver_of(volume.array, counted), found


def _on_grid(volume: SourceVolume, liver: Mask, *, as_filed: bool) -> MaskOnGrid:
    """The liver and its grid: as in the file, or turned to LPS.

    Two files may hold the same voxels in another order of their axes; turned alike, they can be
    compared, and nothing is resampled.
    """
    if not as_filed:
        return liver, lps_grid(volume.grid, volume.orientation)
    return np.ascontiguousarray(from_lps(liver, volume.orientation)), volume.grid
