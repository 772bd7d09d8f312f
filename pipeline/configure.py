"""``python -m pipeline.configure``: write params.yaml from a preset, comments kept."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.error import YAMLError

from cache.files import replacing
from pipeline.command import PathType, command, params_option, say
from pipeline.params import read_params

PRESETS = Path(__file__).parent.parent / "presets"


@command
@click.option("--preset", help="What to start from, a name in presets/; else the file as it is.")
@click.option("--src", type=PathType, help="Your folder of scans, or a list of them.")
@params_option
def main(preset: str | None, src: Path | None, params_file: Path) -> None:
    """Write the parameter file from a preset, for your own folder, and say what changed."""
    if preset is None and src is None:
        raise click.UsageError("name a --preset, a --src, or both")
    template = _preset(preset) if preset else params_file
    read_params(template)  # refuses what is wrong with it before anything is written
    before = _readable_leaves(params_file)
    document = _load(template)
    if src is not None:
        document["data"]["src"] = src.as_posix()
        document["data"]["phantoms"] = _empty_list()
    with replacing(params_file) as partial:
        partial.write_text(_dump(document), encoding="utf-8", newline="\n")
    _tell(params_file, before, _leaves(document))
    if src is not None and not src.exists():
        say(f"note: there is no {src} on this machine")


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
