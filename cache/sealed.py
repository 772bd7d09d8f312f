"""A digest that goes with what is written, looked at when it is read back: no bit rots unnoticed.

Against accidents, not against people: who changes a file may make its digest again.
"""

import hashlib
import json
from typing import Any

from cache.files import json_text
from cache.jsons import parsed

KEY = "sha256"  # of a document's other values
LENGTH = 64  # of a digest in hexadecimal


def sealed(fields: dict[str, Any]) -> dict[str, Any]:
    """A document's values with their digest among them, in the place of an earlier one."""
    values = {name: value for name, value in fields.items() if name != KEY}
    return {**values, KEY: _digest_of_values(values)}


def unsealed(fields: Any, *, is_old: bool = False) -> dict[str, Any]:
    """The values of a document without their digest.

    Args:
        fields: the document.
        is_old: whether it may have been written before there were digests.

    Raises:
        ValueError: it is not a document, has no digest, or has another than that of its values.
    """
    if not isinstance(fields, dict):
        raise ValueError(f"it holds {type(fields).__name__}, not an object with keys")
    values = {name: value for name, value in fields.items() if name != KEY}
    if KEY not in fields and not is_old:
        raise ValueError(f"it has no {KEY}")
    if KEY in fields and fields[KEY] != _digest_of_values(values):
        raise ValueError(f"its values are not those its {KEY} was taken of")
    return values


def sealed_line(value: Any) -> str:
    """A line of JSON behind its digest, with its end."""
    text = json.dumps(value, sort_keys=True)
    return f"{hashlib.sha256(text.encode()).hexdigest()} {text}\n"


def unsealed_line(line: bytes) -> Any:
    """What ``sealed_line`` was given. ValueError if the line is not as it was written."""
    digest, _, text = line.partition(b" ")
    if hashlib.sha256(text).hexdigest().encode() != digest:
        raise ValueError("is not as it was written")
    return parsed(text.decode("utf-8"))


def sealed_bytes(content: bytes) -> bytes:
    """A file's content with its digest behind it, which readers of pictures pass over."""
    return content + hashlib.sha256(content).hexdigest().encode()


def unsealed_bytes(content: bytes) -> bytes:
    """What ``sealed_bytes`` was given. ValueError if it is not as it was written."""
    before, digest = content[:-LENGTH], content[-LENGTH:]
    if hashlib.sha256(before).hexdigest().encode() != digest:
        raise ValueError("is not as it was written")
    return before


def _digest_of_values(values: dict[str, Any]) -> str:
    # a name on Linux may be no text; write_text writes such characters as escapes
    return hashlib.sha256(json_text(values).encode("utf-8", "backslashreplace")).hexdigest()
