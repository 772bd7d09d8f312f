"""The models of earlier runs: put aside before another run writes in their folder, never lost.

``earlier/`` has a folder for each, named by the beginning of its run key.
"""

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path

from cache.errors import ModelError
from cache.files import named, remove, replacing, second_name
from stages.train.checkpoints.checkpoint import Checkpoint, load_checkpoint
from stages.train.checkpoints.going_on import load_unfinished
from stages.train.split import Split, write_split

LOG = logging.getLogger(__name__)
LAST, PREVIOUS, BEST, SPLIT = "last.pt", "previous.pt", "best.pt", "split.json"
NOTEBOOK_NAMES = "*_trainIOU_*_testIOU_*.pth"
EARLIER = "earlier"
UNREAD = "unread-"  # begins the names of folders with models that cannot be read
MOST = 5  # runs that are kept; a finished one of the preset liver takes about 400 MB
DIGITS = 12  # of a run key: enough to tell five apart

Files = dict[str, Path]  # by the names they have in ``earlier/``


def put_aside(models: Path, *, spare: Path | None = None) -> None:
    """Move what other runs left in a folder to ``earlier/``; a crash loses nothing of it.

    The notebook's own files have names as ours, and stay: they are nobody's to move.

    Args:
        models: the folder.
        spare: a run in ``earlier/`` that is not to give way to those put aside now.

    Raises:
        OSError: the disk refused it.
    """
    runs = _by_run(models)
    put = {_put(models, name, files) for name, files in runs.items()}
    moved = [path for files in runs.values() for path in files.values()]
    # best.pt at the end: beside a last.pt, its absence would let the present weights be the best
    for path in (models / PREVIOUS, models / LAST, *moved, models / BEST):
        path.unlink(missing_ok=True)
    _give_way(models / EARLIER, {*put, spare})


def bring_back(models: Path, start: Checkpoint) -> Checkpoint | None:
    """Move the run that begins so, and was put aside, back in the place of what is there.

    Returns:
        Its ``last.pt``. None, and nothing is changed, if there is no such run that could go on.
    """
    place, last = _furthest(models, start)
    if place is None:
        return None
    put_aside(models, spare=place)
    # last.pt at the end: until then, the run is found in earlier/
    for file in sorted(place.iterdir(), key=lambda file: file.name == LAST):
        if not (models / file.name).exists():
            second_name(file, models / file.name)
    remove(place)
    LOG.info("moved this run back from %s to %s", place, models)
    return last


def _furthest(models: Path, start: Checkpoint) -> tuple[Path | None, Checkpoint | None]:
    """Where in ``earlier/`` a run lies, and its ``last.pt``; a crash may have left two of it."""
    place, furthest = None, None
    for path in sorted(models.glob(f"{EARLIER}/*/{LAST}")):
        last = _unfinished(path, start)  # one at a time: each holds all weights
        if last is None or last.run_key != start.run_key:
            continue
        if furthest is None or (last.epoch, last.batch) > (furthest.epoch, furthest.batch):
            place, furthest = path.parent, last
    return place, furthest


def _by_run(models: Path) -> dict[str, Files]:
    """What in a folder of models somebody may want, by the name of their run's folder."""
    runs: dict[str, Files] = {}
    for name, path in _candidates(models).items():
        checkpoint = _loaded(path)
        if checkpoint is not None and (checkpoint.epoch or checkpoint.batch):
            runs.setdefault(checkpoint.run_key[:DIGITS], {})[name] = path
        elif checkpoint is None and path.suffix == ".pt":  # damaged, or of another version
            runs.setdefault(f"{UNREAD}{_digest(path)[:DIGITS]}", {})[name] = path
    return runs


def _candidates(models: Path) -> Files:
    """The files in a folder of models by the names they are to have; one before a whole is none."""
    paths = [models / LAST, *sorted(models.glob(NOTEBOOK_NAMES)), models / BEST]
    found = {path.name: path for path in paths if path.is_file()}
    if _loaded(models / LAST) is None and _loaded(models / PREVIOUS) is not None:
        lost = {f"damaged-{LAST}": found[LAST]} if LAST in found else {}
        found |= lost | {LAST: models / PREVIOUS}
    return found


def _put(models: Path, name: str, files: Files) -> Path:
    """Put the files of one run aside, all of them or none; gives their new folder."""
    place = _free_place(models / EARLIER / name, files)
    known = _loaded(next(iter(files.values())))
    if not place.is_dir():
        with replacing(place) as partial:
            partial.mkdir()
            for new, file in files.items():
                second_name(file, partial / new)
            if known is not None:
                write_split(partial / SPLIT, Split(**known.split))
        LOG.info("the models that were there are kept in %s%s", place, _told(known))
    return place


def _free_place(wanted: Path, files: Files) -> Path:
    """A folder that is not there, or holds these very files since a crash; no other."""
    place, number = wanted, 1
    while place.is_dir() and not all(_is_same(file, place / new) for new, file in files.items()):
        number += 1
        place = wanted.with_name(f"{wanted.name}-{number}")
    return place


def _is_same(one: Path, other: Path) -> bool:
    return other.is_file() and (one.samefile(other) or _digest(one) == _digest(other))


def _give_way(earlier: Path, spared: Iterable[Path | None]) -> None:
    """Delete the runs that are too many, those first that took the least time to train.

    What cannot be read is not among them: it may be a good model of a newer liver3d.
    """
    found = sorted(path for path in earlier.glob("*") if path.is_dir())
    places = [path for path in found if not path.name.startswith(UNREAD)]
    others = [path for path in places if path not in set(spared)]
    costs = {place: _trained_s(place) for place in others} if len(places) > MOST else {}
    for place in sorted(costs, key=lambda place: costs[place])[: max(0, len(places) - MOST)]:
        LOG.warning("deleting %s: of more than %d runs it took the least to train", place, MOST)
        remove(place)


def _trained_s(place: Path) -> float:
    known = [_loaded(place / name) for name in (LAST, BEST)]
    return max([0.0, *(one.trained_s for one in known if one is not None)])


def _told(checkpoint: Checkpoint | None) -> str:
    if checkpoint is None or checkpoint.best_dice is None:
        return ""
    return f" (best validation Dice {checkpoint.best_dice:.4f})"


def _digest(path: Path) -> str:
    with named(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unfinished(path: Path, start: Checkpoint) -> Checkpoint | None:
    try:
        return load_unfinished(path, start)
    except ModelError:
        return None


def _loaded(path: Path) -> Checkpoint | None:
    try:
        return load_checkpoint(path)
    except ModelError:
        return None
