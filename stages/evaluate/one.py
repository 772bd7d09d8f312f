"""One case of an evaluation: its mask on the source grid, its scores and its picture."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from cache.case import CaseInfo, Mask, Role
from cache.files import replacing
from cache.grid import Triple
from cache.manifest import sha256_of
from cache.reader import CaseStore
from stages.evaluate.background import Background
from stages.evaluate.export import write_mask
from stages.evaluate.finished import Finished, FinishedCases, result_key
from stages.evaluate.params import EvaluateParams
from stages.evaluate.pictures import case_picture
from stages.evaluate.restore import THRESHOLD, inside_box, restore_mask
from stages.evaluate.scores import CaseScores, score_case
from stages.evaluate.slice_error import SliceError
from stages.evaluate.stopwatch import Stopwatch
from stages.evaluate.window import Network, Probability, liver_probability
from stages.image_file import unwritable
from stages.network import SMALLEST_SIDE


@dataclass(frozen=True)
class Model:
    """A trained network as evaluation needs it.

    Attributes:
        network: HU as float32 (B, 1, D, H, W) -> logits (B, 2, D, H, W).
        window_zyx: shape of the patches it was trained on; None for whole volumes.
        hu_window: (low, high) HU it sees, for the pictures; None for raw HU.
        roles: each case's role in its training, by case id.
        background: what the report says of it.
        digest: over all of it, the device and the code; empty where that is not known, and then
            no case of an earlier run is believed to be finished.
        smallest_side: voxels that it needs on every axis.
    """

    network: Network
    window_zyx: Triple | None
    hu_window: tuple[float, float] | None
    roles: dict[str, Role]
    background: Background
    digest: str = ""
    smallest_side: int = SMALLEST_SIDE

    def role(self, case_id: str) -> Role:
        """What a case was to it; one the training never knew is as good as a test case."""
        return self.roles.get(case_id, "test")


@dataclass(frozen=True)
class Evaluation:
    """What stays the same from case to case."""

    store: CaseStore
    out: Path
    params: EvaluateParams
    model: Model
    device: torch.device
    finished: FinishedCases
    watch: Stopwatch = field(default_factory=Stopwatch)


def finished_before(evaluation: Evaluation, case_id: str, *, with_picture: bool) -> Finished | None:
    """What an earlier run made of a case, if this one would make the same of it."""
    if not evaluation.model.digest:
        return None
    key = _key(evaluation, case_id)
    return evaluation.finished.find(case_id, key, with_picture=with_picture)


def evaluated(evaluation: Evaluation, case_id: str, *, with_picture: bool) -> Finished:
    """Predict and score a case; write its mask, its picture and, last, that it is finished.

    Raises:
        StoreError: the case is damaged.
        DataError: something cannot be written.
    """
    key = _key(evaluation, case_id)
    probability = _probability(evaluation, case_id)
    scores = _score(evaluation, case_id, probability)
    mask_sha256 = sha256_of(evaluation.finished.mask(case_id))
    finished = Finished(key, scores, mask_sha256)
    if with_picture:
        with evaluation.watch.step("pictures"):
            picture, error = _picture(evaluation, case_id, probability)
        finished = Finished(key, scores, mask_sha256, picture, error)
    evaluation.finished.add(finished)
    return finished


def _key(evaluation: Evaluation, case_id: str) -> str:
    model, entry = evaluation.model, evaluation.store.manifest.cases[case_id]
    return result_key(model.digest, entry, model.role(case_id), evaluation.params)


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
            smallest_side=evaluation.model.smallest_side,
        )


def _score(evaluation: Evaluation, case_id: str, probability: Probability) -> CaseScores:
    """Bring a prediction to the source grid, write it as an image and score it."""
    info = evaluation.store.info(case_id)
    with evaluation.watch.step("source grid"):
        prediction = restore_mask(
            probability, box=info.box, source_grid=info.source_grid, orientation=info.orientation
        )
    with evaluation.watch.step("masks"):
        write_mask(evaluation.finished.mask(case_id), prediction, info.source_grid)
    with evaluation.watch.step("scores"):
        return score_case(
            info.case_id,
            info.patient_id,
            evaluation.model.role(case_id),
            prediction=(prediction, info.source_grid),
            truth=(_truth(evaluation, info), info.source_grid),
            tolerance_mm=evaluation.params.tolerance_mm,
        )


def _picture(
    evaluation: Evaluation, case_id: str, probability: Probability
) -> tuple[str, SliceError | None]:
    """Draw a case into its file; gives the file's digest and where the largest error is."""
    store = evaluation.store
    picture = case_picture(
        store.image(case_id),
        store.mask(case_id),
        probability > THRESHOLD,
        spacing_zyx_mm=store.info(case_id).prepared_grid.spacing_zyx_mm,
        hu_window=evaluation.model.hu_window,
    )
    path = evaluation.finished.picture(_key(evaluation, case_id))
    try:
        with replacing(path) as partial:
            partial.write_bytes(picture.png)
    except OSError as error:
        raise unwritable(path, error) from error
    return sha256_of(path), picture.error


def _truth(evaluation: Evaluation, info: CaseInfo) -> Mask:
    mask = evaluation.store.source_mask(info.case_id)
    if evaluation.params.scope == "volume":
        return mask
    return inside_box(
        mask, box=info.box, source_grid=info.source_grid, orientation=info.orientation
    )
