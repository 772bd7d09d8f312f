"""The CT on which an exported graph is compared: one of the store, or else a synthetic one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.case import Patch, Role, Volume
from cache.errors import StoreError
from cache.grid import Box, Triple, triple
from cache.manifest import NAME
from cache.orientation import to_lps
from cache.reader import CaseStore
from stages.phantom.make import make_phantom
from stages.preprocess.params import preparation_differences
from stages.train.checkpoints.checkpoint import Checkpoint
from stages.train.split import Split

PHANTOM_SHAPE_ZYX = (56, 112, 112)  # as in params.yaml, where the model's spacing is not known
BODY_MM = (250, 360, 360)  # about what a phantom shows along z, y and x
ROLES: tuple[Role, ...] = ("validation", "test")  # the first that has a case gives it
FEWEST, MOST = 24, 256  # voxels along a side of a phantom


@dataclass(frozen=True)
class Sample:
    """A part of a CT around the liver.

    Attributes:
        volume: int16 HU, (Z, Y, X), LPS.
        origin: what it is, in words that name no case.
    """

    volume: Volume
    origin: str


def sample_of(cases: Path, checkpoint: Checkpoint) -> Sample:
    """A part of a validation case, else of a test case, else of any case of the store.

    Without a store, or with one that was prepared otherwise than the model's data, a part of a
    phantom. The part is as large as the window, and half as deep again, so that two windows
    overlap; without a window it is the whole case.

    Raises:
        StoreError: the store is damaged.
    """
    window_zyx = checkpoint.spec.patch_zyx
    if not (cases / NAME).is_file():
        return _phantom(checkpoint, window_zyx, "there is no store")
    store = CaseStore(cases)
    if preparation_differences(checkpoint.preprocess, store.manifest.params):
        return _phantom(checkpoint, window_zyx, "the store is prepared otherwise")
    case_id, origin = _chosen(store, Split(**checkpoint.split))
    shape = store.manifest.cases[case_id].shape_zyx
    box = _box(shape, _centre(store.foreground_zyx(case_id), shape), window_zyx)
    return Sample(store.read(Patch(case_id, box))[0], origin)


def _chosen(store: CaseStore, split: Split) -> tuple[str, str]:
    for role in ROLES:
        if case_ids := split.cases(store.manifest, role):
            return case_ids[0], f"a {role} case"
    if not store.case_ids:
        fix = "run python -m pipeline.preprocess, or name a folder that is no store"
        raise StoreError(store.root, "holds no case", fix)
    return store.case_ids[0], "a case of the store that neither validated nor tested"


def _phantom(checkpoint: Checkpoint, window_zyx: Triple | None, why: str) -> Sample:
    phantom = make_phantom(0, 0, shape_zyx=_phantom_shape(checkpoint.preprocess))
    columns = np.reshape(phantom.grid.direction, (3, 3)).diagonal()
    orientation = "".join(
        letters[0] if sign > 0 else letters[1]
        for letters, sign in zip(("LR", "PA", "SI"), columns, strict=True)
    )
    volume, label = (to_lps(one, orientation) for one in (phantom.volume, phantom.label_map))
    box = _box(volume.shape, _centre(np.argwhere(label > 0), volume.shape), window_zyx)
    return Sample(np.ascontiguousarray(volume[box.slices]), f"a synthetic CT ({why})")


def _phantom_shape(preprocess: dict[str, object]) -> Triple:
    """Sides that give a phantom about the voxels that the model knows."""
    spacing = preprocess.get("spacing_zyx_mm")
    if preprocess.get("grid") != "spacing" or not isinstance(spacing, Sequence):
        return PHANTOM_SHAPE_ZYX
    sides = [
        usual if mm is None else round(extent / mm)
        for mm, extent, usual in zip(spacing, BODY_MM, PHANTOM_SHAPE_ZYX, strict=True)
    ]
    return triple(np.clip(sides, FEWEST, MOST))


def _centre(voxels_zyx: np.ndarray, shape_zyx: Sequence[int]) -> Sequence[int]:
    """The middle of these voxels, or of the volume where there are none."""
    if not len(voxels_zyx):
        return [side // 2 for side in shape_zyx]
    return [int(place) for place in np.median(voxels_zyx, axis=0)]


def _box(shape_zyx: Sequence[int], centre_zyx: Sequence[int], window_zyx: Triple | None) -> Box:
    """A box inside the volume, as near to the centre as it can be."""
    if window_zyx is None:
        return Box.whole(shape_zyx)
    depth, rows, columns = window_zyx
    wanted = Box.centred(centre_zyx, (depth + depth // 2, rows, columns))
    starts = [
        min(max(start, 0), max(side - n, 0))
        for start, n, side in zip(wanted.start_zyx, wanted.shape_zyx, shape_zyx, strict=True)
    ]
    stops = [start + n for start, n in zip(starts, wanted.shape_zyx, strict=True)]
    return Box(triple(starts), triple(stops)).clipped(shape_zyx)
