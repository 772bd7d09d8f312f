"""Where the keys of a YAML text stand, so that it can be changed without touching the rest of it.

Offsets count characters of the text.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node


@dataclass(frozen=True)
class Entry:
    """A key with its value.

    Attributes:
        name: the key.
        start: of the key.
        key_stop: behind the key.
        stop: behind the value; in a block, behind the last of its lines.
        section: what is in it, if it is a mapping.
    """

    name: str
    start: int
    key_stop: int
    stop: int
    section: "Section | None"


@dataclass(frozen=True)
class Section:
    """A mapping.

    Attributes:
        entries: by key, in the order of the text.
        is_flow: whether it is written in braces, and not as lines.
        start: of its text.
        stop: behind its text; of a flow mapping, behind the brace.
    """

    entries: dict[str, Entry]
    is_flow: bool
    start: int
    stop: int


@dataclass(frozen=True)
class Edit:
    """A part of a text, and what comes in its place."""

    start: int
    stop: int
    text: str


def outermost(text: str) -> Section:
    """The mapping that a text is, which is YAML and a mapping."""
    return _section(YAML(typ="safe", pure=True).compose(text), text, len(text))


def edited(text: str, edits: Iterable[Edit]) -> str:
    """A text with its edits made; those at one place in the order they are given."""
    parts, done = [], 0
    for edit in sorted(edits, key=lambda one: one.start):
        parts += [text[done : edit.start], edit.text]
        done = max(done, edit.stop)
    return "".join([*parts, text[done:]])


def line_start(text: str, place: int) -> int:
    """Where the line begins that a place is on."""
    return text.rfind("\n", 0, place) + 1


def comments_start(text: str, place: int) -> int:
    """Where the comments begin that stand directly above the line of a place."""
    start = line_start(text, place)
    while start > 0:
        above = line_start(text, start - 1)
        if not text[above:start].lstrip().startswith("#"):
            break
        start = above
    return start


def column(text: str, entry: Entry) -> int:
    """By how many characters an entry of a block is indented."""
    return entry.start - line_start(text, entry.start)


def _section(node: Any, text: str, limit: int) -> Section:
    """A mapping that ends before ``limit``."""
    entries, is_flow = {}, bool(node.flow_style)
    followers = [key.start_mark.index for key, _ in node.value[1:]]
    for (key, value), behind in zip(node.value, [*followers, limit], strict=True):
        stop = value.end_mark.index
        if not is_flow:
            stop = _content_stop(text, key.start_mark.index, behind)
        inner = _inner(value, text, stop)
        name = str(key.value)
        entries[name] = Entry(name, key.start_mark.index, key.end_mark.index, stop, inner)
    return Section(entries, is_flow, node.start_mark.index, node.end_mark.index)


def _inner(node: Node, text: str, limit: int) -> Section | None:
    return _section(node, text, limit) if isinstance(node, MappingNode) else None


def _content_stop(text: str, start: int, behind: int) -> int:
    """Behind the last line of a block's entry; comments and blank lines below go with the next."""
    stop = len(text) if behind >= len(text) else line_start(text, behind)
    while (above := line_start(text, stop - 1)) > start and _is_idle(text[above:stop]):
        stop = above
    return stop


def _is_idle(line: str) -> bool:
    """Whether it is blank or a comment alone."""
    return not line.strip() or line.lstrip().startswith("#")
