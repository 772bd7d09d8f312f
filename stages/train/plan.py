"""Which patch is read when: sample i of epoch e is a pure function of (seed, epoch, i)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cache.case import Voxels
from cache.errors import StoreError
from cache.grid import Box, Triple, TripleMm, triple
from cache.reader import CaseStore
from stages.network import SMALLEST_SIDE
from stages.train.augment.draw import draw
from stages.train.augment.params import AugmentationParams
from stages.train.sample import Sample

# what else is drawn from (seed, epoch, i), each from a stream of its own
ORDER, AUGMENTATION = 1, 2


@dataclass(frozen=True)
class Plan:
    """The order, the place and the augmentation of all patches of a training run.

    Attributes:
        shapes_zyx: prepared shape of each training case, by case id.
        spacings_zyx_mm: prepared spacing of each.
        foreground_of: gives a case's stored liver voxels, (N, 3) in z, y, x; may read a file.
        patch_zyx: shape of a patch, or None for whole volumes.
        patches_per_case: patches of each case in an epoch.
        foreground_share: of the patches are centred on a liver voxel; of any run of samples, so of
            any batch, this share to within one.
        augmentation: what may be done to them; None for nothing.
        seed: of the run.
    """

    shapes_zyx: dict[str, Triple]
    spacings_zyx_mm: dict[str, TripleMm]
    foreground_of: Callable[[str], Voxels]
    patch_zyx: Triple | None
    patches_per_case: int
    foreground_share: float
    augmentation: AugmentationParams | None
    seed: int

    @classmethod
    def of_store(
        cls,
        store: CaseStore,
        *,
        case_ids: Iterable[str] | None = None,
        patch_zyx: Triple | None,
        patches_per_case: int = 1,
        foreground_share: float = 0.5,
        augmentation: AugmentationParams | None = None,
        seed: int = 0,
    ) -> Self:
        """The plan of some cases of a store, by default of all.

        Raises:
            StoreError: the store has no manifest, or not one of the cases.
        """
        entries = store.manifest.cases
        chosen = sorted(entries if case_ids is None else case_ids)
        if unknown := [case_id for case_id in chosen if case_id not in entries]:
            fix = f"cases are {', '.join(store.case_ids[:5])}, …"
            raise StoreError(store.root, f"there is no case {unknown[0]!r}", fix)
        return cls(
            shapes_zyx={case_id: entries[case_id].shape_zyx for case_id in chosen},
            spacings_zyx_mm={case_id: entries[case_id].spacing_zyx_mm for case_id in chosen},
            foreground_of=store.foreground_zyx,
            patch_zyx=patch_zyx,
            patches_per_case=patches_per_case,
            foreground_share=foreground_share,
            augmentation=augmentation,
            seed=seed,
        )

    def __len__(self) -> int:
        """Samples in an epoch."""
        return len(self.shapes_zyx) * self.patches_per_case

    def samples(self, epoch: int, indices: Sequence[int]) -> list[Sample]:
        """Some samples of an epoch, their boxes all of one shape, as a batch needs them."""
        samples = [self.sample(epoch, index) for index in indices]
        shape = triple(np.max([sample.box.shape_zyx for sample in samples], axis=0))
        return [replace(one, box=_box(one.box.start_zyx, shape)) for one in samples]

    def sample(self, epoch: int, index: int) -> Sample:
        """Sample ``index`` of an epoch."""
        case_id = self._case(epoch, index)
        box = self._place(epoch, index, case_id)
        if self.augmentation is None:
            return Sample(case_id, box)
        random = np.random.default_rng((self.seed, epoch, index, AUGMENTATION))
        return Sample(case_id, box, draw(self.augmentation, random, self.spacings_zyx_mm[case_id]))

    def _place(self, epoch: int, index: int, case_id: str) -> Box:
        shape = self.shapes_zyx[case_id]
        if self.patch_zyx is None:
            return Box.whole(triple(max(SMALLEST_SIDE, side) for side in shape))
        random = np.random.default_rng((self.seed, epoch, index))
        if self._is_foreground(index):
            voxels = self.foreground_of(case_id)
            if len(voxels):
                centre = voxels[random.integers(len(voxels))]
                return _inside(Box.centred(centre, self.patch_zyx), shape)
        return _random_box(random, self.patch_zyx, shape)

    def _case(self, epoch: int, index: int) -> str:
        """Each case comes up equally often, in an order drawn anew for every pass over them."""
        turn, place = divmod(index, len(self._case_ids))
        order = _order(self.seed, epoch, turn, len(self._case_ids))
        return self._case_ids[int(order[place])]

    @cached_property
    def _case_ids(self) -> list[str]:
        return sorted(self.shapes_zyx)

    def _is_foreground(self, index: int) -> bool:
        """Evenly spread, so that any run of samples has its share."""
        share = self.foreground_share
        return int((index + 1) * share + 1e-9) > int(index * share + 1e-9)


@lru_cache(maxsize=8)  # else a sample would cost more, the more cases there are
def _order(seed: int, epoch: int, turn: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch, turn, ORDER)).permutation(count)


def _box(start_zyx: Triple, shape_zyx: Triple) -> Box:
    return Box(start_zyx, triple(a + n for a, n in zip(start_zyx, shape_zyx, strict=True)))


def _inside(box: Box, shape_zyx: Triple) -> Box:
    """The box moved into the volume, as far as it fits; centred along an axis where it does not."""
    starts = []
    for start, side, patch in zip(box.start_zyx, shape_zyx, box.shape_zyx, strict=True):
        room = side - patch
        starts.append(min(max(start, 0), room) if room >= 0 else room // 2)
    return _box(triple(starts), box.shape_zyx)


def _random_box(random: np.random.Generator, patch_zyx: Triple, shape_zyx: Triple) -> Box:
    rooms = [max(0, side - patch) for side, patch in zip(shape_zyx, patch_zyx, strict=True)]
    start = triple(random.integers(0, room + 1) for room in rooms)
    return _inside(_box(start, patch_zyx), shape_zyx)
