"""Programs that follow a run from outside, epoch by epoch: TensorBoard and MLflow.

Neither is needed, and neither is imported unless it is asked for.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from cache.errors import ParamsError
from stages.train.checkpoints.checkpoint import Row

LOG = logging.getLogger(__name__)
EXPERIMENT = "liver3d"
RUN_KEY_TAG = "liver3d.run_key"
SHORT = 8  # characters of a run key that name a run for people


class Tracker(Protocol):
    """A program that is told how a run goes."""

    def begin(self, history: Sequence[Row]) -> None:
        """Hear what was done before; of a row already known nothing is doubled."""

    def tell(self, row: Row) -> None:
        """Hear what one more epoch brought."""

    def close(self, *, is_finished: bool) -> None:
        """Hear that no more will come from this process."""


class Trackers:
    """All trackers of a run. One that fails in its midst is left behind, not the training."""

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        """Tell these, by name."""
        self._wanted = trackers
        self._told: dict[str, Tracker] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(is_finished=kind is None)

    def begin(self, history: Sequence[Row]) -> None:
        """Tell what was done before this process; call it first, with no row in a fresh run.

        Raises:
            ParamsError: a tracker cannot be reached or written.
        """
        for name, tracker in self._wanted.items():
            try:
                tracker.begin(history)
                self._told[name] = tracker
            except Exception as error:  # each has its own kinds, from files to HTTP to SQL
                fact = f"names {name}, which refuses ({type(error).__name__}: {error})"
                raise ParamsError("train.trackers", fact, "mend that, or take it out") from error

    def tell(self, row: Row) -> None:
        """Tell what an epoch brought."""
        self._try(lambda tracker: tracker.tell(row))

    def close(self, *, is_finished: bool = True) -> None:
        """Tell that no more will come; ``is_finished`` is False for a run that was stopped."""
        self._try(lambda tracker: tracker.close(is_finished=is_finished))
        self._told.clear()

    def _try(self, action: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._told.items()):
            try:
                action(tracker)
            except Exception as error:  # hours of training are worth more than its curves
                del self._told[name]
                why = f"{type(error).__name__}: {error}"
                LOG.warning("%s fails (%s); it is told no more until the run resumes", name, why)


def open_trackers(
    names: Sequence[str], folder: Path, *, run_key: str, params: Mapping[str, Any]
) -> Trackers:
    """Import the trackers that are wanted; nothing is written yet.

    Args:
        names: of ``tensorboard`` and ``mlflow``; may be empty.
        folder: of the curves; TensorBoard's files go to ``tensorboard/`` in it.
        run_key: a run is known again by it.
        params: the ``train`` section; logged flat, as ``train.lr``.

    Raises:
        ParamsError: one is not installed.
    """
    for name in names:
        if find_spec(name) is None:
            fix = f"python -m pip install {name}, or take it out"
            raise ParamsError("train.trackers", f"names {name}, which is not installed", fix)
    flat = _flat(params, "train")
    makers: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: _TensorBoard(folder / "tensorboard", run_key, flat),
        "mlflow": lambda: _MLflow(run_key, flat),
    }
    return Trackers({name: makers[name]() for name in names})


class _TensorBoard:
    """Event files, in a folder for each run: TensorBoard shows several runs side by side."""

    def __init__(self, folder: Path, run_key: str, params: Mapping[str, str]) -> None:
        self._new_writer = import_module("torch.utils.tensorboard").SummaryWriter
        self._folder = folder / run_key[:SHORT]
        self._params = params

    def begin(self, history: Sequence[Row]) -> None:
        # event files cannot be amended: what those of earlier processes hold is declared void, and
        # told anew. So there is no gap even where TensorBoard was asked for in the midst of a run
        self._writer = self._new_writer(str(self._folder), purge_step=0)
        lines = [f"| {name} | {value} |" for name, value in self._params.items()]
        self._writer.add_text("parameters", "\n".join(["| | |", "|-|-|", *lines]), 0)
        for row in history:
            self._write(row, _when(row, history[-1]))
        self._writer.flush()

    def tell(self, row: Row) -> None:
        self._write(row, time.time())
        self._writer.flush()

    def close(self, *, is_finished: bool) -> None:
        self._writer.close()

    def _write(self, row: Row, when_s: float) -> None:
        for name, value in _numbers(row).items():
            self._writer.add_scalar(name, value, int(row["epoch"]), when_s)


class _MLflow:
    """A run where ``MLFLOW_TRACKING_URI`` points, or at MLflow's own default."""

    def __init__(self, run_key: str, params: Mapping[str, str]) -> None:
        # what is trained on patients' data reports to nobody that was not named
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._new_client = import_module("mlflow.tracking").MlflowClient
        self._entities = import_module("mlflow.entities")
        self._run_key = run_key
        self._params = params

    def begin(self, history: Sequence[Row]) -> None:
        self._client = self._new_client()
        experiment_id = self._experiment_id()
        found = self._client.search_runs(
            [experiment_id],
            f"tags.`{RUN_KEY_TAG}` = '{self._run_key}'",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        known = int(found[0].data.metrics.get("epoch", 0)) if found else 0
        if found and (history or not known):
            self._run_id = found[0].info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
        else:  # none yet, or one that was begun anew from nothing
            known, self._run_id = 0, self._begun(experiment_id)
        for row in history:
            if row["epoch"] > known:
                self._log(row, _when(row, history[-1]))

    def tell(self, row: Row) -> None:
        self._log(row, time.time())

    def close(self, *, is_finished: bool) -> None:
        self._client.set_terminated(self._run_id, "FINISHED" if is_finished else "KILLED")

    def _experiment_id(self) -> str:
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return str(self._client.create_experiment(EXPERIMENT))
        return str(experiment.experiment_id)

    def _begun(self, experiment_id: str) -> str:
        tags = {RUN_KEY_TAG: self._run_key}
        run = self._client.create_run(experiment_id, tags=tags, run_name=self._run_key[:SHORT])
        params = [self._entities.Param(name, value) for name, value in self._params.items()]
        self._client.log_batch(run.info.run_id, params=params)
        return str(run.info.run_id)

    def _log(self, row: Row, when_s: float) -> None:
        when_ms, epoch = int(when_s * 1e3), int(row["epoch"])
        numbers = {"epoch": row["epoch"], **_numbers(row)}
        metrics = [self._entities.Metric(*pair, when_ms, epoch) for pair in numbers.items()]
        self._client.log_batch(self._run_id, metrics)


def _numbers(row: Row) -> Row:
    """What of a row makes a curve."""
    return {name: row[name] for name in row if name != "epoch" and math.isfinite(row[name])}


def _when(row: Row, last: Row) -> float:
    """When an epoch ended, in seconds since 1970, as if the training had never paused."""
    return time.time() - 60 * (last.get("time/minutes", 0.0) - row.get("time/minutes", 0.0))


def _flat(params: Mapping[str, Any], prefix: str) -> dict[str, str]:
    """Parameters by their dotted names, as text."""
    flat: dict[str, str] = {}
    for name, value in params.items():
        dotted = f"{prefix}.{name}"
        flat |= _flat(value, dotted) if isinstance(value, Mapping) else {dotted: str(value)}
    return flat
