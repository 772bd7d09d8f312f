"""Which patch is read when: sample i of epoch e is a pure function of (seed, epoch, i)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cache.case import Patch, Voxels
from cache.grid import Box, Triple, triple
from stages.train.params import SMALLEST_SIDE


@dataclass(frozen=True)
class Plan:
    """The order and the place of all patches of a training run.

    Attributes:
        shapes_zyx: prepared shape of each training case, by case id.
        foreground_of: gives a case's stored liver voxels, (N, 3) in z, y, x; may read a file.
        patch_zyx: shape of a patch, or None for whole volumes.
        patches_per_case: patches of each case in an epoch.
        foreground_share: of the patches are centred on a liver voxel.
        seed: of the run.
    """

    shapes_zyx: dict[str, Triple]
    foreground_of: Callable[[str], Voxels]
    patch_zyx: Triple | None
    patches_per_case: int
    foreground_share: float
    seed: int

    def __len__(self) -> int:
        """Samples in an epoch."""
        return len(self.shapes_zyx) * self.patches_per_case

    def patches(self, epoch: int, indices: Sequence[int]) -> list[Patch]:
        """The patches of some samples, all of one shape, as a batch needs them."""
        patches = [self.patch(epoch, index) for index in indices]
        shape = triple(np.max([patch.box.shape_zyx for patch in patches], axis=0))
        return [
            Patch(patch.case_id, Box(patch.box.start_zyx, _stop(patch.box.start_zyx, shape)))
            for patch in patches
        ]

    def patch(self, epoch: int, index: int) -> Patch:
        """Sample ``index`` of an epoch."""
        case_id = self._case(epoch, index)
        shape = self.shapes_zyx[case_id]
        if self.patch_zyx is None:
            return Patch(case_id, Box((0, 0, 0), triple(max(SMALLEST_SIDE, n) for n in shape)))
        random = np.random.default_rng((self.seed, epoch, index))
        if self._is_foreground(index):
            voxels = self.foreground_of(case_id)
            if len(voxels):
                centre = voxels[random.integers(len(voxels))]
                return Patch(case_id, _inside(Box.centred(centre, self.patch_zyx), shape))
        return Patch(case_id, _random_box(random, self.patch_zyx, shape))

    def _case(self, epoch: int, index: int) -> str:
        """Each case comes up equally often, in an order drawn anew for every pass over them."""
        case_ids = sorted(self.shapes_zyx)
        turn, place = divmod(index, len(case_ids))
        # a stream of its own: (seed, epoch, index) alone belongs to the samples
        order = np.random.default_rng((self.seed, epoch, turn, 1)).permutation(len(case_ids))
        return case_ids[int(order[place])]

    def _is_foreground(self, index: int) -> bool:
        """Evenly spread, so that any run of samples has its share."""
        share = self.foreground_share
        return int((index + 1) * share + 1e-9) > int(index * share + 1e-9)


def _stop(start_zyx: Triple, shape_zyx: Triple) -> Triple:
    return triple(a + n for a, n in zip(start_zyx, shape_zyx, strict=True))


def _inside(box: Box, shape_zyx: Triple) -> Box:
    """The box moved into the volume, as far as it fits; centred along an axis where it does not."""
    starts = []
    for start, side, patch in zip(box.start_zyx, shape_zyx, box.shape_zyx, strict=True):
        room = side - patch
        starts.append(min(max(start, 0), room) if room >= 0 else room // 2)
    return Box(triple(starts), _stop(triple(starts), box.shape_zyx))


def _random_box(random: np.random.Generator, patch_zyx: Triple, shape_zyx: Triple) -> Box:
    rooms = [max(0, side - patch) for side, patch in zip(shape_zyx, patch_zyx, strict=True)]
    start = triple(random.integers(0, room + 1) for room in rooms)
    return _inside(Box(start, _stop(start, patch_zyx)), shape_zyx)
