"""Where all lies that can be made again: beside a store, never in it."""

import os
from pathlib import Path

STATE = ".liver3d"  # ignored by git


def state_folder(out: Path) -> Path:
    """Where shortcuts, the journal, pictures and times of a store lie: beside it, never in it."""
    place = Path(os.path.realpath(out))  # one store has one lock, through whatever link it is named
    return place.parent / STATE / place.name
