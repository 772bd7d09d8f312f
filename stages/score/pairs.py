"""Which prediction belongs to which label: the names of their files say so."""

from dataclasses import dataclass
from pathlib import Path

from cache.errors import DataError, SourceError
from stages.preprocess.layouts.names import composed
from stages.preprocess.layouts.volumes import has_extension, stem
from stages.preprocess.reading.sniff import EXTENSIONS

SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Pair:
    """A label and its prediction.

    Attributes:
        case_id: the name both files have, without their endings.
        prediction: the file with the prediction.
        label: the file with the label.
    """

    case_id: str
    prediction: Path
    label: Path


@dataclass(frozen=True)
class Paired:
    """What two folders hold.

    Attributes:
        pairs: by name.
        labels: how many labels there are, with a prediction or without.
        faults: files that are not in a pair, and names that two files have.
    """

    pairs: list[Pair]
    labels: int
    faults: list[DataError]


def pair_up(predictions: Path, labels: Path) -> Paired:
    """Pair the volumes of two folders; folders below them are not looked into.

    Raises:
        SourceError: one of the folders is missing or empty, they are the same one, or no name is
            in both.
    """
    if predictions.resolve() == labels.resolve():
        fact = "is named for the predictions and for the labels"
        raise SourceError(predictions, fact, "name two folders")
    ours, theirs = _volumes(predictions), _volumes(labels)
    _require_common_names(predictions, ours, labels, theirs)
    common = sorted(ours.keys() & theirs.keys())
    faults: list[DataError] = [
        *_doubles(ours),
        *_doubles(theirs),
        *(
            _without_prediction(theirs[name], predictions)
            for name in sorted(theirs.keys() - ours.keys())
        ),
        *(_without_label(ours[name], labels) for name in sorted(ours.keys() - theirs.keys())),
    ]
    pairs = [
        Pair(name, ours[name][0], theirs[name][0])
        for name in common
        if len(ours[name]) == len(theirs[name]) == 1
    ]
    return Paired(pairs, len(theirs), faults)


def _volumes(folder: Path) -> dict[str, list[Path]]:
    """The volumes of a folder by their names without endings; more than one is a fault."""
    if not folder.is_dir():
        raise SourceError(folder, "there is no such folder", "name the folder with the masks")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        # macOS puts ._name beside a file it copies
        if path.is_file() and has_extension(path) and not path.name.startswith("."):
            found.setdefault(composed(stem(path.name)), []).append(path)
    if not found:
        fact = f"holds no volume ({', '.join(EXTENSIONS)})"
        raise SourceError(folder, fact, "name the folder with the masks")
    return found


def _require_common_names(
    predictions: Path, ours: dict[str, list[Path]], labels: Path, theirs: dict[str, list[Path]]
) -> None:
    if ours.keys() & theirs.keys():
        return
    fact = f"holds {_list(ours)}; {labels} holds {_list(theirs)}: no name is in both"
    raise SourceError(predictions, fact, "name every prediction like its label")


def _doubles(found: dict[str, list[Path]]) -> list[DataError]:
    return [
        SourceError(
            paths[0], f"has the name of {', '.join(p.name for p in paths[1:])}", "keep one of them"
        )
        for paths in found.values()
        if len(paths) > 1
    ]


def _without_prediction(paths: list[Path], predictions: Path) -> DataError:
    fact = f"has no prediction in {predictions}, and so is in no mean"
    return SourceError(paths[0], fact, "predict it, or take the label out of the folder")


def _without_label(paths: list[Path], labels: Path) -> DataError:
    fix = "name it like its label, or take it out of the folder"
    return SourceError(paths[0], f"has no label in {labels}", fix)


def _list(names: dict[str, list[Path]]) -> str:
    more = ", …" if len(names) > SHOWN else ""
    return ", ".join(sorted(names)[:SHOWN]) + more
