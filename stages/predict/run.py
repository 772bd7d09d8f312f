"""Predicting a folder of CTs: one after the other, what is finished is left as it is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cache.errors import DataError, ModelError, ParamsError, SourceError
from stages.predict.find import Task
from stages.predict.journal import Entry, Journal, digest_of, stamp_of
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
        entry = journal.finished(task.name, key, stamp, task.mask)
        if entry is not None:
            return Outcome(task, entry.liver_ml, entry.warnings, is_old=True)
        journal.require_unchanged(task.name, task.mask)
        predicted = predict_one(task, predictor)
    except (SourceError, ParamsError, ModelError) as fault:  # of this CT; others may do
        # the mask of what the CT was before would pass for its own
        left = journal.discard(task.name, but={})
        # the journal goes with the masks: folders above the CTs are nobody's business
        told = f"{fault.fact}; {fault.fix}".replace(str(task.path), task.name)
        journal.add(task.name, Entry(key, stamp, left, None, [], told))
        return Outcome(task, None, [], fault)
    entry = _entry(predicted, out, key, stamp)
    # the probability of another model beside this mask would mislead
    left = journal.discard(task.name, but=entry.files)
    journal.add(task.name, replace(entry, files=left | entry.files))
    return Outcome(task, predicted.liver_ml, predicted.warnings)


def _entry(predicted: Predicted, out: Path, key: str, stamp: list[int]) -> Entry:
    files = {path.relative_to(out).as_posix(): digest_of(path) for path in predicted.files}
    return Entry(key, stamp, files, round(predicted.liver_ml, 3), predicted.warnings, None)
