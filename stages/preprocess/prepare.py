"""A case from arrays as read to arrays as stored: crop, resize.

``predict`` takes the half without a label.
"""

import hashlib
import json
import math
from dataclasses import dataclass

import numpy as np

from cache.case import FORMAT_VERSION, CaseInfo, Mask, PreparedCase, Volume, Voxels
from cache.errors import SourceError
from cache.grid import Box, Grid, Triple, box_of, triple
from cache.orientation import from_lps, lps_grid
from stages.preprocess.crop import body_box, label_box, slices_box
from stages.preprocess.files import CaseFiles
from stages.preprocess.inspect import Inspected
from stages.preprocess.params import PreprocessParams
from stages.preprocess.reading.read import SourceVolume
from stages.resize import resize_mask, resize_volume

PREPARE_VERSION = 5  # raise it whenever the same source would give other bytes or findings
DIGEST_STEP = 4  # slices: hashing them all would take as long as the other rules together
MOST_VOXELS = 2**36  # of a prepared CT, 137 GB: beyond it is no large CT but a wrong spacing
FOREGROUND_VOXELS = 4096  # enough to place patches everywhere in a liver, 48 KB


@dataclass(frozen=True)
class Cut:
    """The part of a CT that is kept, at first as it is, then on the grid it is brought to.

    Attributes:
        volume: int16 HU inside the box, (Z, Y, X), LPS; at first a view of the whole.
        grid: where its voxels lie.
        box: what was cut out of the LPS-turned source.
    """

    volume: Volume
    grid: Grid
    box: Box


def case_key(files: CaseFiles, params: PreprocessParams, digests: dict[str, str]) -> str:
    """SHA-256 over all that decides a prepared case's bytes, apart from the rules' policies.

    Those are left out so that changing one redoes only the cases it concerns.
    """
    parts = {
        "case_id": files.case_id,
        "patient_id": files.patient_id,
        "names": files.names,
        "digests": digests,
        "params": params.model_dump(mode="json"),
        "version": [PREPARE_VERSION, FORMAT_VERSION],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def cut_case(inspected: Inspected, params: PreprocessParams) -> tuple[Cut, Mask]:
    """Crop a case.

    Returns:
        The CT, and the liver inside the same box.

    Raises:
        SourceError: the crop is impossible.
    """
    cut = cut_volume(inspected.ct, inspected.hu, params, inspected.mask)
    return cut, inspected.mask[cut.box.slices]


def prepare_case(inspected: Inspected, cut: Cut, cut_mask: Mask, info: CaseInfo) -> PreparedCase:
    """Bring a case that was cut to its grid.

    Args:
        inspected: the case as it passed the rules.
        cut: its CT, cropped.
        cut_mask: the liver inside the same box, 0/1.
        info: what is known of it; its ``prepared_grid`` is the one the case is brought to.
    """
    volume = _resized(cut, info.prepared_grid)
    mask = resize_mask(cut_mask, info.prepared_grid.shape_zyx)
    source_mask = from_lps(inspected.mask, info.orientation)
    return PreparedCase(info, volume, mask, source_mask, sample_foreground(mask))


def prepare_volume(ct: SourceVolume, hu: Volume, params: PreprocessParams) -> Cut:
    """Crop a CT and bring it to its grid, without a label.

    Args:
        ct: the CT as read.
        hu: its voxels as int16 HU, LPS.
        params: the ``preprocess`` section; ``crop: label`` takes the body's box.

    Raises:
        SourceError: the crop is impossible.
    """
    cut = cut_volume(ct, hu, params, None)
    grid = target_grid(cut.grid, params)
    return Cut(_resized(cut, grid), grid, cut.box)


def cut_volume(ct: SourceVolume, hu: Volume, params: PreprocessParams, mask: Mask | None) -> Cut:
    """Crop a CT; the mask is for ``crop: label`` alone.

    Raises:
        SourceError: the crop is impossible, or the grid asked for would have absurdly many voxels.
    """
    turned = lps_grid(ct.grid, ct.orientation)
    box = _box(ct, hu, turned, params, mask)
    cut = Cut(hu[box.slices], turned.cropped(box), box)
    voxels = math.prod(_target_shape(cut.grid, params))
    if voxels > MOST_VOXELS:
        spacing = ", ".join(f"{mm:.3g}" for mm in ct.grid.spacing_zyx_mm[::-1])
        fact = f"with its spacing (x, y, z) {spacing} mm it would become one of {voxels:,} voxels"
        fix = "check the spacing in the header, and preprocess.spacing_zyx_mm"
        raise SourceError(ct.path, fact, fix, rule="spacing_positive")
    return cut


def target_grid(cropped: Grid, params: PreprocessParams) -> Grid:
    """The grid a cropped CT is brought to."""
    return cropped.resized(_target_shape(cropped, params))


def sample_foreground(mask: Mask) -> Voxels:
    """Up to 4096 liver voxels, evenly drawn, in array order; int32 (N, 3) in z, y, x."""
    box = box_of(mask)
    if box is None:
        return np.empty((0, 3), np.int32)
    inside = mask[box.slices]  # the liver is a tenth of a CT, and looking for voxels takes long
    voxels = np.flatnonzero(inside)
    if voxels.size > FOREGROUND_VOXELS:
        # a fixed seed: the same source must give the same bytes, whatever the training's seed
        chosen = np.random.default_rng(0).choice(voxels.size, FOREGROUND_VOXELS, replace=False)
        voxels = voxels[np.sort(chosen)]
    found = np.stack(np.unravel_index(voxels, inside.shape), axis=1) + box.start_zyx
    return found.astype(np.int32)


def voxel_digest(volume: Volume) -> str:
    """SHA-256 of the shape and every fourth slice of a CT turned to LPS.

    Two files with the same CT have the same, whatever their format and the order of their axes;
    no two patients agree in a slice.
    """
    digest = hashlib.sha256(str(volume.shape).encode())
    for index in range(0, len(volume), DIGEST_STEP):
        digest.update(np.ascontiguousarray(volume[index]).data)
    return digest.hexdigest()


def _resized(cut: Cut, grid: Grid) -> Volume:
    if grid.shape_zyx == cut.grid.shape_zyx:
        return np.ascontiguousarray(cut.volume)
    return resize_volume(cut.volume, grid.shape_zyx)


def _box(
    ct: SourceVolume, volume: Volume, turned: Grid, params: PreprocessParams, mask: Mask | None
) -> Box:
    spacing = turned.spacing_zyx_mm
    if params.crop == "slices" and params.slices is not None:
        return slices_box(ct.path, volume.shape, ct.orientation, range(*params.slices))
    if params.crop == "label" and mask is not None and mask.any():
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
