"""Where everything is kept that can be made again: beside what the stages write, never in it."""

import os
from pathlib import Path

STATE = ".liver3d"  # ignored by git


def state_folder(out: Path) -> Path:
    """Where all is kept that belongs to a folder and is not part of it: journal, pictures, lock.

    The same whatever link the folder is named through, so that it has one lock.
    """
    place = Path(os.path.realpath(out))
    return place.parent / STATE / place.name
