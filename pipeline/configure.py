"""``python -m pipeline.configure``: write params.yaml from a preset, comments kept."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.error import YAMLError

from pipeline.command import PathType, command, params_option, say
from pipeline.listing import source_of
from pipeline.params import read_params, read_text
from pipeline.rewrite import rewrite
from pipeline.upgrade import Change, leaves, upgraded

PRESETS = Path(__file__).parent.parent / "presets"
TEMPLATE = "liver.yaml"  # the preset that new keys take their values and comments from


@command
@click.option("--preset", help="What to start from, a name in presets/; else the file as it is.")
@click.option("--src", type=PathType, help="Your folder of scans, or a list of them.")
@click.option("--upgrade", is_flag=True, help="Bring a file of an older liver3d up to date.")
@params_option
def main(preset: str | None, src: Path | None, upgrade: bool, params_file: Path) -> None:
    """Write the parameter file from a preset, for your own folder, and say what changed.

    With --upgrade, keys that are missing are put in their places and keys that there are not any
    more are taken out; your values and comments stay. What was there stays as params.yaml.bak.
    If --src is a folder in which names do not say which label belongs to which CT, a cases.csv
    is written of what they do say, for you to complete.
    """
    if upgrade and (preset or src):
        raise click.UsageError("--upgrade goes by itself; name --preset and --src afterwards")
    if upgrade:
        _upgrade(params_file)
        return
    if preset is None and src is None:
        raise click.UsageError("name a --preset, a --src, or both; or --upgrade")
    template = _preset(preset) if preset else params_file
    read_params(template)  # refuses what is wrong with it before anything is written
    before = _readable_leaves(params_file)
    document = _load(template)
    if src is not None:
        _point_at(document["data"], src, params_file.parent)
    backup = rewrite(params_file, _dump(document))
    _tell(params_file, before, _leaves(document))
    if backup is not None:
        say(f"what it was is in {backup}")
    if src is not None and not src.exists():
        say(f"note: there is no {src} on this machine")


def _point_at(data: Any, src: Path, folder: Path) -> None:
    """Let the ``data`` section name somebody's scans, or the list that is written of them."""
    source = source_of(src, folder, data["layout"])
    data["src"], data["phantoms"] = source.as_posix(), _empty_list()
    if source != src:
        data["layout"] = "auto"  # which takes a list for what it is


def _upgrade(path: Path) -> None:
    """Bring a parameter file up to date, say what was done, and refuse what is wrong even then."""
    old = read_text(path)
    template = (PRESETS / TEMPLATE).read_text(encoding="utf-8")
    new, changes = upgraded(path, old, template)
    if not changes:
        say(f"{path}: has all keys of today and no others; nothing changed")
    else:
        newline = "\r\n" if b"\r\n" in path.read_bytes() else "\n"
        backup = rewrite(path, new, newline=newline)
        say(f"{path}: brought up to date; what it was is in {backup}")
    before, after = leaves(path, old), leaves(path, new)
    for change in changes:
        for line in _lines_of(change, before, after):
            say(f"  {line}")
    _tell_policies(after, leaves(PRESETS / TEMPLATE, template))
    read_params(path)


def _lines_of(change: Change, before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """What was done to a key, a line for each parameter in it."""
    values = before if change.kind == "removed" else after
    note = f", before {change.was}" if change.was else ""
    for key, value in values.items():
        if f"{key}.".startswith(f"{change.key}."):
            yield f"{change.kind}{note} {key}: {_text(value)}"


def _tell_policies(mine: dict[str, Any], today: dict[str, Any]) -> None:
    """Name the rules that follow another policy than today's default; it may be an old default."""
    others = [
        f"{key}: {_text(mine[key])} (the default is {_text(today[key])})"
        for key in mine
        if key.startswith("rules.") and key in today and mine[key] != today[key]
    ]
    if others:
        say("policies that are not the defaults of today, which docs/rules.md explains:")
    for line in others:
        say(f"  {line}")


def _preset(name: str) -> Path:
    names = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    if name not in names:
        raise click.UsageError(f"there is no preset {name!r}; there are {', '.join(names)}")
    return PRESETS / f"{name}.yaml"


def _yaml() -> YAML:
    yaml = YAML()
    yaml.width = 4096  # never fold a line
    yaml.preserve_quotes = True
    # null is written out, as it is in the presets
    yaml.representer.add_representer(
        type(None), lambda out, _: out.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def _load(path: Path) -> Any:
    return _yaml().load(path.read_text(encoding="utf-8"))


def _dump(document: Any) -> str:
    text = io.StringIO()
    _yaml().dump(document, text)
    return text.getvalue()


def _empty_list() -> CommentedSeq:
    empty = CommentedSeq()
    empty.fa.set_flow_style()
    return empty


def _readable_leaves(path: Path) -> dict[str, Any]:
    """The parameters of a file that is about to be replaced; none if it is missing or damaged."""
    try:
        return _leaves(_load(path))
    except (OSError, UnicodeDecodeError, YAMLError, AttributeError):
        return {}


def _leaves(section: Any, prefix: str = "") -> dict[str, Any]:
    """Every parameter by its dotted name."""
    return dict(_walk(section, prefix))


def _walk(section: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _walk(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _tell(path: Path, before: dict[str, Any], after: dict[str, Any]) -> None:
    changed = [name for name in after if before.get(name, ...) != after[name]]
    say(f"{path}: {len(changed)} of {len(after)} parameters changed")
    for name in changed:
        old = f"{_text(before[name])} -> " if name in before else ""
        say(f"  {name}: {old}{_text(after[name])}")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_text(one) for one in value) + "]"
    return "null" if value is None else str(value)


if __name__ == "__main__":
    main()
