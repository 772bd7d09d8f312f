"""A case from files to arrays: turn, crop, resize. ``predict`` takes the half without a label."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache.case import CaseInfo, Mask, PreparedCase, Volume, Voxels
from cache.grid import Box, Grid, Triple, triple
from cache.orientation import lps_grid, to_lps
from stages.preprocess.check import (
    require_liver,
    require_same_grid,
    warn_hu_range,
    warn_liver_volume,
)
from stages.preprocess.crop import body_box, label_box, slices_box
from stages.preprocess.params import PreprocessParams
from stages.preprocess.read import SourceVolume, as_hu, binarize, file_digest, read_source
from stages.preprocess.scan import CaseFiles
from stages.resize import resize_linear, resize_mask

PREPARE_VERSION = 1  # raise it whenever the same source would give other arrays
FOREGROUND_VOXELS = 4096  # enough to place patches everywhere in a liver, 48 KB


@dataclass(frozen=True)
class PreparedVolume:
    """A CT ready for the network, and the way back.

    Attributes:
        volume: int16 HU on ``grid``, (Z, Y, X), LPS.
        grid: where its voxels lie.
        box: what was cut out of the LPS-turned source.
    """

    volume: Volume
    grid: Grid
    box: Box


def case_key(files: CaseFiles, params: PreprocessParams) -> tuple[str, dict[str, str]]:
    """SHA-256 over all that decides a prepared case's bytes, and the source files' digests."""
    digests = {"ct": file_digest(files.ct), "label": file_digest(files.label)}
    parts = {
        "case_id": files.case_id,
        "patient_id": files.patient_id,
        "digests": digests,
        "params": params.model_dump(mode="json"),
        "version": PREPARE_VERSION,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest(), digests


def prepare_case(
    files: CaseFiles, params: PreprocessParams, *, key: str, digests: dict[str, str]
) -> PreparedCase:
    """Read, check and prepare one case.

    Raises:
        SourceError: a file cannot be used, or the two do not belong together.
    """
    ct, label = read_source(files.ct), read_source(files.label)
    require_same_grid(ct, label)
    liver_values = None if params.liver_values == "any" else params.liver_values
    source_mask = binarize(label.array, liver_values)
    require_liver(label, source_mask, liver_values)
    mask = to_lps(source_mask, ct.orientation)
    prepared = prepare_volume(ct, params, mask)
    prepared_mask = resize_mask(mask[prepared.box.slices], prepared.grid.shape_zyx)
    liver_ml = float(source_mask.sum(dtype=np.int64)) * ct.grid.voxel_ml
    info = CaseInfo(
        case_id=files.case_id,
        patient_id=files.patient_id,
        key=key,
        source_grid=ct.grid,
        orientation=ct.orientation,
        box=prepared.box,
        prepared_grid=prepared.grid,
        liver_ml=liver_ml,
        source_digests=digests,
        params=params.model_dump(mode="json"),
        warnings=_warnings(ct, prepared_mask, liver_ml),
    )
    foreground = sample_foreground(prepared_mask)
    return PreparedCase(info, prepared.volume, prepared_mask, source_mask, foreground)


def prepare_volume(ct: SourceVolume, params: PreprocessParams, mask: Mask | None) -> PreparedVolume:
    """Turn a CT to LPS, crop it and bring it to its grid.

    Args:
        ct: the CT as read.
        params: the ``preprocess`` section.
        mask: the liver turned to LPS, needed for ``crop: label`` alone; without it that crop
            takes the body's box, since at prediction there is no label.

    Raises:
        SourceError: the crop is impossible.
    """
    volume = to_lps(as_hu(ct), ct.orientation)
    turned = lps_grid(ct.grid, ct.orientation)
    box = _box(ct, volume, params, mask)
    cropped = turned.cropped(box)
    grid = cropped.resized(_target_shape(cropped, params))
    cut = volume[box.slices]
    if grid.shape_zyx == cropped.shape_zyx:
        return PreparedVolume(np.ascontiguousarray(cut), grid, box)
    resized = np.rint(resize_linear(cut, grid.shape_zyx)).astype(np.int16)
    return PreparedVolume(resized, grid, box)


def sample_foreground(mask: Mask) -> Voxels:
    """Up to 4096 liver voxels, evenly drawn, in array order; int32 (N, 3) in z, y, x."""
    voxels = np.flatnonzero(mask)
    if voxels.size > FOREGROUND_VOXELS:
        # a fixed seed: the same source must give the same bytes, whatever the training's seed
        chosen = np.random.default_rng(0).choice(voxels.size, FOREGROUND_VOXELS, replace=False)
        voxels = voxels[np.sort(chosen)]
    return np.stack(np.unravel_index(voxels, mask.shape), axis=1).astype(np.int32)


def _box(ct: SourceVolume, volume: Volume, params: PreprocessParams, mask: Mask | None) -> Box:
    spacing = lps_grid(ct.grid, ct.orientation).spacing_zyx_mm
    if params.crop == "slices" and params.slices is not None:
        return slices_box(ct.path, volume.shape, ct.orientation, range(*params.slices))
    if params.crop == "label" and mask is not None:
        return label_box(mask, spacing, params.margin_mm)
    if params.crop in ("body", "label"):
        return body_box(ct.path, volume, spacing, params.margin_mm)
    return Box.whole(volume.shape)


def _target_shape(cropped: Grid, params: PreprocessParams) -> Triple:
    shape = list(cropped.shape_zyx)
    if params.grid == "shape" and params.shape_zyx is not None:
        shape = [new or old for new, old in zip(params.shape_zyx, shape, strict=True)]
    if params.grid == "spacing" and params.spacing_zyx_mm is not None:
        shape = [
            # whole voxels over the same extent, so the true spacing may differ by half a voxel
            old if spacing is None else max(1, round(extent / spacing))
            for spacing, extent, old in zip(
                params.spacing_zyx_mm, cropped.extent_zyx_mm, shape, strict=True
            )
        ]
    return triple(shape)


def _warnings(ct: SourceVolume, mask: Mask, liver_ml: float) -> list[dict[str, Any]]:
    # the whole CT: a tight crop holds no air
    warnings = warn_liver_volume(liver_ml) + warn_hu_range(ct.array)
    if not mask.any():
        fact = "no liver is left in the prepared box"
        fix = "choose another crop, or list the case under data.exclude"
        warnings.append({"rule": "liver-cropped-away", "fact": fact, "fix": fix})
    return warnings
