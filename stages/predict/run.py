"""Predicting a folder of CTs: one after the other, what is finished is left as it is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.errors import DataError, ParamsError, SourceError
from stages.predict.find import Task
from stages.predict.journal import Entry, Journal, stamp_of
from stages.predict.one import Predicted, Predictor, predict_one


@dataclass(frozen=True)
class Outcome:
    """What became of one CT.

    Attributes:
        task: the CT and its mask.
        liver_ml: volume of the mask; None if there is none.
        warnings: what is to be doubted about the CT.
        fault: why there is no mask; None if there is one.
        is_old: whether an earlier run had finished it.
    """

    task: Task
    liver_ml: float | None
    warnings: list[str]
    fault: DataError | None = None
    is_old: bool = False


def run(tasks: Sequence[Task], out: Path, predictor: Predictor) -> Iterator[Outcome]:
    """Predict CTs, one when its outcome is asked for; a CT that cannot be used stops no other.

    Args:
        tasks: their masks lie below ``out``.
        out: the folder of the masks and of predictions.json.
        predictor: what stays the same from CT to CT.

    Raises:
        DataError: a file cannot be written.
    """
    journal, key = Journal(out), predictor.key
    for task in tasks:
        yield _outcome(task, out, predictor, journal=journal, key=key)


def _outcome(task: Task, out: Path, predictor: Predictor, *, journal: Journal, key: str) -> Outcome:
    stamp = [0, 0, 0]
    try:
        stamp = stamp_of(task.path)
        entry = journal.finished(task.name, key, stamp)
        if entry is not None:
            return Outcome(task, entry.liver_ml, entry.warnings, is_old=True)
        predicted = predict_one(task, predictor)
    except (SourceError, ParamsError) as fault:  # the CT cannot be used, or is too large
        told = f"{fault.fact}; {fault.fix}"
        journal.add(task.name, Entry(key, stamp, [], None, [], told))
        return Outcome(task, None, [], fault)
    entry = _entry(predicted, out, key, stamp)
    for stale in set(journal.files(task.name)) - set(entry.files):
        # the probability of another model beside this mask would mislead
        (out / stale).unlink(missing_ok=True)
    journal.add(task.name, entry)
    return Outcome(task, predicted.liver_ml, predicted.warnings)


def _entry(predicted: Predicted, out: Path, key: str, stamp: list[int]) -> Entry:
    files = [path.relative_to(out).as_posix() for path in predicted.files]
    return Entry(key, stamp, files, round(predicted.liver_ml, 3), predicted.warnings, None)
