"""All files below a folder, or none: what cannot be listed must not pass for what is not there."""

import os
from pathlib import Path
from typing import NoReturn

from cache.errors import SourceError


def files_below(folder: Path) -> list[Path]:
    """The files in a folder and in those below it, sorted; links to folders are not followed.

    Raises:
        SourceError: one of the folders cannot be listed; names it. Python's own rglob passes over
            it without a word, and a series would lack slices.
    """
    found = [
        Path(place, name) for place, _, names in os.walk(folder, onerror=_refuse) for name in names
    ]
    return sorted(path for path in found if path.is_file())


def _refuse(error: OSError) -> NoReturn:
    fact = f"cannot be listed ({error.strerror})"
    raise SourceError(
        error.filename, fact, "let it be read, or take it out of the folder"
    ) from error
