"""Bringing a parameter file of another liver3d up to date: its values and comments stay."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML

from cache.errors import ParamsError
from pipeline.params import parsed
from pipeline.yaml_text import Edit, Entry, Section, column, comments_start, edited, outermost

RENAMED = {"train.lr": "learning_rate"}  # keys, and what they are called in older files
# new keys that the template sets to something else than what was done before
AS_BEFORE = {
    "train.augmentation": "augmentation: null # none, as before; presets/liver.yaml has all kinds\n"
}
MERGE = "<<"
INDENT = 2  # as in the template


@dataclass(frozen=True)
class Change:
    """What is done to one key.

    Attributes:
        kind: of it.
        key: the dotted key, as it is called now.
        edit: of the text.
        was: what it was called.
    """

    kind: Literal["added", "renamed", "removed"]
    key: str
    edit: Edit
    was: str = ""


def upgraded(path: Path, text: str, template: str) -> tuple[str, list[Change]]:
    """A parameter file with all keys of today and no others.

    Args:
        path: of the file, for messages.
        text: of the file.
        template: of a complete file, whose values, comments and order new keys take.

    Raises:
        ParamsError: it is not YAML, or its keys are written in a way that cannot be changed here.
    """
    before = leaves(path, text)
    mine, complete = (text, outermost(text)), (template, outermost(template))
    changes = list(_changes(mine, complete, above=""))
    new = edited(text, [change.edit for change in changes])
    try:
        is_as_meant = _is_as_meant(before, leaves(path, new), changes)
    except ParamsError:  # an alias of what was taken out, or the like
        is_as_meant = False
    if not is_as_meant:
        fact = "has keys that are written in a way that cannot be changed by itself"
        raise ParamsError(path, fact, "write its values into a copy of a file in presets/")
    return new, changes


def leaves(path: Path, text: str) -> dict[str, Any]:
    """Every parameter of a file's text by its dotted key.

    Raises:
        ParamsError: it is not YAML, or holds no parameters.
    """
    return dict(_walk(parsed(path, text), ""))


def _walk(section: dict[Any, Any], above: str) -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, dict) and value:
            yield from _walk(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


Part = tuple[str, Section]  # a whole text and a section of it


def _changes(mine: Part, complete: Part, *, above: str) -> Iterator[Change]:
    """What is to be done to a section and what is in it; one that merges others is left alone."""
    text, section = mine
    if MERGE in section.entries:
        return
    kept: list[str] = []
    anchor = _first_place(text, section)
    for name, wanted in complete[1].entries.items():
        key = f"{above}{name}"
        found = section.entries.get(name) or section.entries.get(RENAMED.get(key, name))
        if found is None:
            yield Change("added", key, _insertion(mine, complete, key, anchor))
            continue
        kept.append(found.name)
        anchor = anchor if section.is_flow else found.stop
        if found.name != name:
            edit = Edit(found.start, found.key_stop, name)
            yield Change("renamed", key, edit, f"{above}{found.name}")
        if found.section is not None and wanted.section is not None:
            inner = (text, found.section), (complete[0], wanted.section)
            yield from _changes(*inner, above=f"{key}.")
        elif not above and wanted.section is not None and _is_bare(text, found):
            yield from _filled(text, found, (complete[0], wanted.section), key)
    for name, entry in section.entries.items():
        if name not in kept:
            yield Change("removed", f"{above}{name}", _removal(mine, entry))


def _is_bare(text: str, entry: Entry) -> bool:
    """Whether nothing stands behind a key but comments."""
    lines = text[entry.key_stop : entry.stop].removeprefix(":").splitlines()
    return all(not line.partition("#")[0].strip() for line in lines)


def _filled(text: str, entry: Entry, complete: Part, key: str) -> Iterator[Change]:
    """All of a section for a key that has nothing behind it."""
    for name, wanted in complete[1].entries.items():
        lines = _indented(_lines(complete[0], wanted), INDENT)
        yield Change("added", f"{key}.{name}", _at(text, entry.stop, lines))


def _first_place(text: str, section: Section) -> int:
    """Where a key is put that is to be the first."""
    if section.is_flow or not section.entries:
        return section.start + 1
    return comments_start(text, next(iter(section.entries.values())).start)


def _insertion(mine: Part, complete: Part, key: str, place: int) -> Edit:
    """A new key as the template has it, with the comments above it."""
    text, section = mine
    name = key.rpartition(".")[2]
    entry = complete[1].entries[name]
    if section.is_flow:
        value = json.dumps(_value(complete[0][entry.start : entry.stop], name))
        return Edit(place, place, f"{name}: {value}, ")
    lines = AS_BEFORE.get(key) or _lines(complete[0], entry)
    block = _indented(lines, column(text, next(iter(section.entries.values()))))
    apart = "\n" if "." not in key and entry.section is not None else ""
    return _at(text, place, apart + block)


def _at(text: str, place: int, lines: str) -> Edit:
    """Lines put to a place, which may be behind a last line without an end."""
    before = "" if place == 0 or text[place - 1] == "\n" else "\n"
    return Edit(place, place, before + lines)


def _lines(template: str, entry: Entry) -> str:
    """An entry of a block with the comments above it, without the indentation it has there."""
    indent = column(template, entry)
    lines = template[comments_start(template, entry.start) : entry.stop].splitlines(True)
    return "".join(line[indent:] if line.strip() else line for line in lines)


def _indented(lines: str, columns: int) -> str:
    indent = " " * columns
    return "".join(indent + line if line.strip() else line for line in lines.splitlines(True))


def _value(text: str, name: str) -> Any:
    """The value of an entry's text."""
    return YAML(typ="safe", pure=True).load(text)[name]


def _removal(mine: Part, entry: Entry) -> Edit:
    """A key taken out; comments above it stay, they may be of others."""
    text, section = mine
    if not section.is_flow:
        return Edit(entry.start - column(text, entry), entry.stop, "")
    comma = text[entry.stop : section.stop].lstrip()
    behind = text.index(",", entry.stop) + 1 if comma.startswith(",") else entry.stop
    return Edit(entry.start, behind, "")


def _is_as_meant(before: dict[str, Any], after: dict[str, Any], changes: list[Change]) -> bool:
    """Whether every value that was to stay has stayed, and all else is new or gone."""
    old = {change.was: change.key for change in changes if change.kind == "renamed"}
    gone = [change.key for change in changes if change.kind == "removed"]
    new = [change.key for change in changes if change.kind == "added"]
    empty = [key.rpartition(".")[0] for key in new]  # a section that had nothing in it
    meant = {
        old.get(key, key): value
        for key, value in before.items()
        if not _is_in(key, gone) and not (value is None and key in empty)
    }
    found = {key: value for key, value in after.items() if not _is_in(key, new)}
    return repr(sorted(meant.items())) == repr(sorted(found.items()))


def _is_in(key: str, sections: list[str]) -> bool:
    return any(f"{key}.".startswith(f"{section}.") for section in sections)
