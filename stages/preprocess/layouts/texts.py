"""Reading the text files in which a data set describes itself."""

import json
from pathlib import Path
from typing import Any

from cache.errors import SourceError
from cache.jsons import parsed
from stages.preprocess.reading.regular import require_regular


def read_text(path: Path) -> str:
    """The content of a UTF-8 text file, without the mark that Windows puts before it.

    Raises:
        SourceError: it cannot be opened, is not a regular file, or is not UTF-8.
    """
    require_regular(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        fact = f"is not UTF-8 text: {error.reason} at byte {error.start}"
        raise SourceError(path, fact, "save it as UTF-8") from error
    except OSError as error:
        raise SourceError(path, f"cannot be opened ({error})", "check that it is there") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        SourceError: it cannot be opened or is not JSON; names the line.
    """
    try:
        return parsed(read_text(path))
    except json.JSONDecodeError as error:
        fact = f"is not JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        raise SourceError(path, fact, "mend that line") from error
