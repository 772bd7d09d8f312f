"""Reading JSON that somebody else wrote, or a disk damaged."""

import json
from typing import Any


def parsed(text: str) -> Any:
    """What a JSON text says, as ``json.loads``, but whatever is wrong with it is a ValueError.

    Raises:
        JSONDecodeError: it is not JSON; nested too deeply to be read; or a number in it is too
            long. Names line and column where they are known.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError as error:
        raise json.JSONDecodeError("nested too deeply", text, 0) from error
    except ValueError as error:  # Python refuses to convert thousands of digits
        raise json.JSONDecodeError("a number of too many digits", text, 0) from error
