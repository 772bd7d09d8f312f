"""How long preparing a store took. A note beside the store, for the report; nothing depends on it.

Not in the store and not in problems.json: these are the same bytes from the same data.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from cache.files import write_json
from cache.jsons import parsed
from cache.sealed import sealed, unsealed
from cache.state import state_folder

NAME = "times.json"


@dataclass(frozen=True)
class PreparationTime:
    """A run that prepared something.

    Attributes:
        seconds: it took, checks included.
        prepared: cases it brought into the store.
        kept: cases that were there already.
    """

    seconds: float
    prepared: int
    kept: int


def note_time(out: Path, seconds: float, *, prepared: int, kept: int) -> None:
    """Note how long a run took; one that found everything there leaves the note of the run before.

    Args:
        out: the store.
        seconds: the run's.
        prepared: cases it brought into the store.
        kept: cases that were there already.
    """
    if prepared:
        note = PreparationTime(round(seconds, 3), prepared, kept)
        write_json(state_folder(out) / NAME, sealed(asdict(note)))


def noted_time(out: Path) -> PreparationTime | None:
    """What was noted of a store; None if nothing was, or the note was damaged since."""
    try:
        fields = unsealed(parsed((state_folder(out) / NAME).read_text(encoding="utf-8")))
        return PreparationTime(
            float(fields["seconds"]), int(fields["prepared"]), int(fields["kept"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it can be made again, as all in that folder
