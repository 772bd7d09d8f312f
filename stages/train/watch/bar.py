"""The progress bar of a training run."""

from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from stages.train.loader.meter import Meter
from stages.train.tally import Tally


class Bar:
    """Steps done and time left, and how the present epoch goes."""

    def __init__(
        self, *, steps: int | None, done: int, device: torch.device, is_shown: bool
    ) -> None:
        """Show a bar, if this process is to and the output is a terminal.

        Args:
            steps: of the whole run; None where the clock ends it.
            done: before this process.
            device: whose memory is shown.
            is_shown: whether this process is the one that shows.
        """
        hidden = None if is_shown else True  # None: shown on a terminal alone
        self._bar: tqdm[Any] = tqdm(
            None, "train", steps, initial=done, disable=hidden, unit="step", dynamic_ncols=True
        )
        self._device = device
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        if not self._bar.disable:  # a line of the log stands above the bar, not in it
            self._opened.enter_context(logging_redirect_tqdm())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
        self._opened.close()

    def step(self, tally: Tally, meter: Meter, left_s: float | None) -> None:
        """Show one more step, and the seconds that are left where the clock ends the run."""
        if not self._bar.disable:
            left = {} if left_s is None else {"left": f"{max(0.0, left_s) / 60:.1f}min"}
            figures = _figures(tally, meter) | self._memory() | left
            self._bar.set_postfix(figures, refresh=False)
        self._bar.update()

    def _memory(self) -> dict[str, str]:
        if self._device.type != "cuda":
            return {}
        return {"gpu": f"{torch.cuda.max_memory_allocated(self._device) / 1e9:.1f}GB"}


def _figures(tally: Tally, meter: Meter) -> dict[str, str]:
    return {
        "loss": f"{tally.mean_loss:.4f}",
        "acc": f"{tally.counts.accuracy:.4f}",
        "iou": f"{tally.counts.iou:.3f}",
        "samples/s": f"{meter.samples_per_s:.1f}",
        "wait": f"{meter.waiting_share:.1%}",
    }
