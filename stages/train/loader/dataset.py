"""The plan's samples as a torch data set, for people with a training loop of their own."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cache.errors import ParamsError
from cache.reader import CaseStore
from stages.train.augment.apply import network_input
from stages.train.plan import Plan
from stages.train.sample import Batch

Window = tuple[float, float]


class PatchDataset(Dataset[dict[str, Any]]):
    """The samples of a plan, for ``torch.utils.data.DataLoader`` with any number of workers.

    Nothing is opened before the first item, in the process that asks for it. Each epoch's samples
    are others: call ``set_epoch`` before each; it reaches workers that are running already.
    Whole volumes (a plan without ``patch_zyx``) of unequal shape need a batch size of 1.

    Example:
        >>> store = CaseStore("data/cases")
        >>> plan = Plan.of_store(store, patch_zyx=(96, 128, 128), patches_per_case=4)
        >>> dataset = PatchDataset(store, plan, hu_window=(-160, 240))
        >>> for batch in DataLoader(dataset, batch_size=2, num_workers=2):
        ...     logits = network(batch["volume"])  # float32 (2, 1, 96, 128, 128)
    """

    def __init__(self, store: CaseStore, plan: Plan, *, hu_window: Window | None = None) -> None:
        """Say what is to be read.

        Args:
            store: where the cases are.
            plan: which patch is read when, and how it is augmented.
            hu_window: (low, high) in HU, which become -1 and 1; None leaves HU as they are.

        Raises:
            ParamsError: the plan changes intensities, and there is no window.
        """
        _require_window(plan, hu_window)
        self._store = store
        self._plan = plan
        self._hu_window = hu_window
        # in shared memory, so that workers see it change
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # unpickled or copied, it is this process' own memory until it is shared again
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Give the samples of this epoch from now on."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        """Samples in an epoch."""
        return len(self._plan)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A sample of the epoch.

        Returns:
            ``volume``, (1, D, H, W): int16 HU, or float32 if it is windowed or augmented;
            ``mask``, uint8 0/1, (D, H, W); ``case_id``.

        Raises:
            IndexError: there is no such sample.
            StoreError: the case is damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        (sample,) = self._plan.samples(int(self._epoch), [index])
        voxels = self._store.read(sample.source)
        volume, mask = (torch.from_numpy(array) for array in voxels)
        if sample.draw is None and self._hu_window is None:
            return _item(volume.unsqueeze(0), mask, sample.case_id)
        volumes, masks = network_input(Batch([sample], [volume], [mask]), self._hu_window)
        return _item(volumes[0], masks[0], sample.case_id)


def _require_window(plan: Plan, hu_window: Window | None) -> None:
    kinds = plan.augmentation.intensity_names if plan.augmentation else []
    if hu_window is None and kinds:
        fact = f"is None, but {', '.join(kinds)} are measured in widths of the window"
        raise ParamsError("hu_window", fact, "give a window, or set these kinds to None")


def _item(volume: Tensor, mask: Tensor, case_id: str) -> dict[str, Any]:
    return {"volume": volume, "mask": mask, "case_id": case_id}
