"""Predicting one CT: read, prepare, network, restore, mend, write."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from cache.case import Volume
from cache.errors import DataError, SourceError
from cache.grid import triple
from stages.evaluate.export import write_mask, write_probability
from stages.evaluate.restore import Place, Restored, restore
from stages.evaluate.window import Probability, Windows, probability_planes
from stages.machine import MORE_MEMORY, naming_shortage
from stages.predict.average import mean_probability
from stages.predict.clean import fill_holes, keep_largest
from stages.predict.dicom_seg import write_seg
from stages.predict.find import PROBABILITY, SEGMENTATION, Task, written_beside
from stages.predict.model import Ensemble
from stages.predict.slices import source_slices
from stages.preprocess.inspect import ct_to_predict
from stages.preprocess.params import PreprocessParams
from stages.preprocess.prepare import PREPARE_VERSION, prepare_volume
from stages.preprocess.reading.opened import stop_at
from stages.preprocess.rules.inside import data_inside

PREDICT_VERSION = 1  # raise it whenever the same CT, model and choices would give another mask
EXCLUDE = "or list the case under data.exclude"  # ends the advice of many rules
TRAINED_ON_SUCH = "a model that was trained on such values predicts them with --any-values"
NO_SERIES = "is no DICOM series, so no DICOM segmentation is written"


@dataclass(frozen=True)
class Choices:
    """What the user chose.

    Attributes:
        overlap: of the sliding window's patches, as a share of their side.
        tta: average over the eight mirrorings of every patch (test-time augmentation).
        keep_largest: leave the mask's largest piece alone.
        fill_holes: fill what the mask encloses.
        probabilities: write the probability, too.
        dicom_seg: write a DICOM segmentation of a DICOM series, too.
        any_values: predict CTs whose values are not HU, too.
    """

    overlap: float = 0.5
    tta: bool = False
    keep_largest: bool = False
    fill_holes: bool = False
    probabilities: bool = False
    dicom_seg: bool = False
    any_values: bool = False

    @property
    def beside_masks(self) -> list[str]:
        """What is written beside a mask, as ``find.written_beside`` calls it."""
        wanted = {PROBABILITY: self.probabilities, SEGMENTATION: self.dicom_seg}
        return [what for what, is_wanted in wanted.items() if is_wanted]


@dataclass(frozen=True)
class Predictor:
    """What stays the same from CT to CT.

    Attributes:
        ensemble: the models.
        choices: what the user chose.
        version: of liver3d, for DICOM segmentations.
    """

    ensemble: Ensemble
    choices: Choices
    version: str

    @property
    def key(self) -> str:
        """SHA-256 over all that decides a mask, apart from the CT."""
        parts = {
            "models": self.ensemble.digests,
            "choices": asdict(self.choices),
            "versions": [PREPARE_VERSION, PREDICT_VERSION],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Prepared:
    """A CT as the network sees it, and what is needed to go back.

    Attributes:
        volume: int16 HU, (Z, Y, X), LPS.
        place: where it came from.
        warnings: what is to be doubted about the CT.
    """

    volume: Volume
    place: Place
    warnings: list[str]


@dataclass(frozen=True)
class Predicted:
    """What came of a CT.

    Attributes:
        files: all that was written, the mask last.
        liver_ml: volume of the mask.
        warnings: what is to be doubted about the CT.
    """

    files: list[Path]
    liver_ml: float
    warnings: list[str]


def predict_one(task: Task, predictor: Predictor) -> Predicted:
    """Predict a CT and write what was asked for, the mask last.

    Raises:
        SourceError: the CT cannot be used.
        DataError: the CT or the model's patches do not fit into memory, a file cannot be written,
            or the CT cannot be read off its disk.
    """
    is_gpu = predictor.ensemble.device.type != "cpu"
    fix = f"use --device cpu, {MORE_MEMORY}" if is_gpu else MORE_MEMORY
    try:
        with naming_shortage(task.path, fix):
            return _predicted(task, predictor)
    except SourceError as fault:
        # the rules speak of the parameter file, which has no part in predicting
        fix = fault.fix.replace(EXCLUDE, "or leave this CT out")
        raise SourceError(fault.where, fault.fact, fix) from fault
    except OSError as error:
        # what is written says so itself
        fact = f"cannot be read ({error.strerror or error})"
        raise DataError(task.path, fact, "check the disk it is on, and run it again") from error


def _predicted(task: Task, predictor: Predictor) -> Predicted:
    choices = predictor.choices
    stop_at(data_inside(task.path, task.home))
    slices, doubts = _source_slices(task, choices)
    prepared = read_prepared(
        task.path, predictor.ensemble.preprocess, any_values=choices.any_values
    )
    restored = _restored(prepared, predictor)
    mask, grid, files = restored.mask, prepared.place.source_grid, []
    if choices.keep_largest:
        keep_largest(mask)
    if choices.fill_holes:
        fill_holes(mask)
    if restored.probability is not None:
        files.append(written_beside(task.mask, PROBABILITY))
        write_probability(files[-1], restored.probability, grid)
    if slices is not None:
        files.append(written_beside(task.mask, SEGMENTATION))
        spacing_mm, model = grid.spacing_zyx_mm[0], _short(predictor.ensemble)
        write_seg(
            files[-1], mask, slices, spacing_mm=spacing_mm, version=predictor.version, model=model
        )
    write_mask(task.mask, mask, grid)
    liver_ml = float(np.count_nonzero(mask)) * grid.voxel_ml
    return Predicted([*files, task.mask], liver_ml, [*prepared.warnings, *doubts])


def _source_slices(task: Task, choices: Choices) -> tuple[list[Any] | None, list[str]]:
    """What a DICOM segmentation has to know of the CT, and doubts; None where none is written."""
    if not choices.dicom_seg:
        return None, []
    return source_slices(task.path) if task.is_series else (None, [NO_SERIES])


def read_prepared(path: Path, params: PreprocessParams, *, any_values: bool) -> Prepared:
    """Read a CT and prepare it as the training data was; of the CT as read, nothing is kept.

    Args:
        path: the CT.
        params: how the training data was prepared.
        any_values: take values that are not HU, too, with a doubt.

    Raises:
        SourceError: it cannot be used.
    """
    source, hu, doubts = ct_to_predict(path)
    for doubt in doubts:
        if doubt.rule == "not_hu" and not doubt.fixable and not any_values:
            stop_at(replace(doubt, fix=f"{doubt.fix}; {TRAINED_ON_SUCH}"))
    cut = prepare_volume(source, hu, params)
    place = Place(cut.box, source.grid, source.orientation)
    return Prepared(cut.volume, place, [doubt.fact for doubt in doubts])


def network_planes(volume: Volume, ensemble: Ensemble, choices: Choices) -> Iterator[Probability]:
    """The models' mean probability of liver on the prepared grid, plane by plane, with a bar."""
    windows = Windows.over(
        triple(volume.shape),
        ensemble.window_zyx,
        choices.overlap,
        smallest_side=ensemble.smallest_side,
    )
    networks = [model.network for model in ensemble.models]
    mean = mean_probability(networks, is_mirrored=choices.tta)
    with tqdm(total=windows.count, desc="patches", leave=False, disable=None) as bar:

        def predict(patch: Tensor) -> Tensor:
            probability = mean(patch)
            bar.update()
            return probability

        yield from probability_planes(predict, volume, windows, device=ensemble.device)


def _restored(prepared: Prepared, predictor: Predictor) -> Restored:
    choices = predictor.choices
    planes = network_planes(prepared.volume, predictor.ensemble, choices)
    depth = len(prepared.volume)
    return restore(planes, depth, prepared.place, with_probability=choices.probabilities)


def _short(ensemble: Ensemble) -> str:
    """What tells the models from others, in the 64 characters that DICOM gives it."""
    return "+".join(digest[:12] for digest in ensemble.digests)[:64]
