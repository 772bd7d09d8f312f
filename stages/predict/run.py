"""Predicting a folder of CTs: one after the other, what is finished is left as it is."""

import errno
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cache.errors import DataError
from stages.predict.find import Task
from stages.predict.journal import Entry, Journal, Stamp, digest_of, stamp_of
from stages.predict.one import Predicted, Predictor, predict_one

# a disk that refuses one mask for these would refuse all of them
OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
REPORT = "report it with the traceback at the end; the other CTs are predicted"


@dataclass(frozen=True)
class Outcome:
    """What became of one CT.

    Attributes:
        task: the CT and its mask.
        liver_ml: volume of the mask; None if there is none.
        warnings: what is to be doubted about the CT.
        fault: why there is no mask; None if there is one.
        is_old: whether an earlier run had finished it.
        bug: the traceback of an error that is not a fault of the CT; empty if there was none.
    """

    task: Task
    liver_ml: float | None
    warnings: list[str]
    fault: DataError | None = None
    is_old: bool = False
    bug: str = ""


def run(tasks: Sequence[Task], out: Path, predictor: Predictor) -> Iterator[Outcome]:
    """Predict CTs, one when its outcome is asked for; none stops another, whatever is odd about it.

    Args:
        tasks: their masks lie below ``out``.
        out: the folder of the masks and of predictions.json.
        predictor: what stays the same from CT to CT.

    Raises:
        DataError, OSError: the disk of the masks is full, or cannot be written or read.
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
    except DataError as fault:  # of this CT; others may do
        if _is_of_the_disk(fault):
            raise
        return _not_predicted(task, fault, journal, key, stamp)
    except OSError:  # of the journal, or of what an earlier run wrote
        raise
    except Exception as error:
        # its words may quote what the CT's header says: they are printed, but not written down
        bug = DataError(task.path, f"met a bug of liver3d: {type(error).__name__}", REPORT)
        outcome = _not_predicted(task, bug, journal, key, stamp)
        return replace(outcome, bug=f"{task.path}:\n{traceback.format_exc()}")
    entry = _entry(predicted, out, key, stamp)
    # the probability of another model beside this mask would mislead
    left = journal.discard(task.name, but=entry.files)
    journal.add(task.name, replace(entry, files=left | entry.files))
    return Outcome(task, predicted.liver_ml, predicted.warnings)


def _is_of_the_disk(fault: BaseException) -> bool:
    """Whether a fault comes of a disk that would refuse the other masks, too."""
    if isinstance(fault, OSError):
        return fault.errno in OF_THE_DISK
    return fault.__cause__ is not None and _is_of_the_disk(fault.__cause__)


def _not_predicted(
    task: Task, fault: DataError, journal: Journal, key: str, stamp: Stamp
) -> Outcome:
    """The outcome of a CT without a mask, written down."""
    # the mask of what the CT was before would pass for its own
    left = journal.discard(task.name, but={})
    # the journal goes with the masks: folders above the CTs are nobody's business
    told = f"{fault.fact}; {fault.fix}".replace(str(task.path), task.name)
    journal.add(task.name, Entry(key, stamp, left, None, [], told))
    return Outcome(task, None, [], fault)


def left_behind(tasks: Sequence[Task], out: Path) -> list[str]:
    """Files that earlier runs wrote of CTs which are not among these, as predictions.json has them.

    They stay: a folder of masks may be of several folders of CTs.
    """
    return Journal(out).files_of_others({task.name for task in tasks})


def _entry(predicted: Predicted, out: Path, key: str, stamp: Stamp) -> Entry:
    files = {path.relative_to(out).as_posix(): digest_of(path) for path in predicted.files}
    return Entry(key, stamp, files, round(predicted.liver_ml, 3), predicted.warnings, None)
