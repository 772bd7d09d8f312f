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
from stages.preprocess.reading.read import SourceVolume, read_label, stop_at
from stages.preprocess.rules.label import label_integers
from stages.preprocess.values import binarize
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
    """

    scores: list[CaseScores]
    labels: int
    faults: list[DataError]


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
    faults = list(paired.faults)
    for pair in tqdm(paired.pairs, "score", disable=None):
        try:
            scores.append(_score(pair, masks, tolerance_mm))
        except DataError as fault:
            faults.append(fault)
    if scores:
        left_out = {"not_scored": paired.labels - len(scores), "tolerance_mm": tolerance_mm}
        write_metrics_json(out / "metrics.json", {**summarise(scores), **left_out})
        write_cases_csv(out / "cases.csv", scores)
    return Scored(worst_first(scores), paired.labels, faults)


def _score(pair: Pair, masks: Masks, tolerance_mm: float) -> CaseScores:
    label = _read(pair.label)
    prediction = _read(pair.prediction)
    alike = not differences(prediction.grid, label.grid)
    return score_case(
        pair.case_id,
        pair.case_id,
        "",
        prediction=_on_grid(prediction, masks.prediction_values, as_filed=alike),
        truth=_on_grid(label, masks.label_values, as_filed=alike),
        tolerance_mm=tolerance_mm,
    )


def _read(path: Path) -> SourceVolume:
    """A label map of whole numbers on a grid with right angles.

    Raises:
        SourceError: it is something else, or cannot be read.
    """
    volume = read_label(path, None)
    # lengths and volumes would be wrong; what else a header may break does not matter here
    stop_at(next((one for one in volume.findings if one.rule == "direction"), None))
    fractions = label_integers(path, volume.array)
    if fractions is not None:
        fix = "give a mask of whole numbers; of probabilities, 1 where they exceed one half"
        raise SourceError(path, fractions.fact, fix, rule=fractions.rule)
    return volume


def _on_grid(volume: SourceVolume, values: Sequence[int] | None, *, as_filed: bool) -> MaskOnGrid:
    """The liver and its grid: as in the file, or turned to LPS.

    Two files may hold the same voxels in another order of their axes; turned alike, they can be
    compared, and nothing is resampled.
    """
    every = binarize(volume.array, values)
    # of a segmentation in layers, every layer's
    liver: Mask = every if every.ndim == 3 else every.max(axis=-1)
    if not as_filed:
        return liver, lps_grid(volume.grid, volume.orientation)
    return np.ascontiguousarray(from_lps(liver, volume.orientation)), volume.grid
