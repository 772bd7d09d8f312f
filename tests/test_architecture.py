"""The promises of docs/architecture.md that can be read off the tree."""

import ast
import re
from pathlib import Path
from typing import get_args

import pytest
from ruamel.yaml import YAML

from pipeline.params import Params
from stages.preprocess.layouts.detect import NAMES
from stages.preprocess.params import LayoutName

ROOT = Path(__file__).parent.parent
PACKAGES = ("pipeline", "stages", "cache")
WORDS = ("phantom", "preprocess", "train", "evaluate")
DVC = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))


def stage(word: str) -> dict:
    fields = DVC["stages"][word]
    return fields.get("do", fields)


def imported_files(path: Path) -> set[Path]:
    """The project's files that a file imports by name, packages included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.split(".")[0] in PACKAGES:
                found.add((ROOT / name.replace(".", "/")).with_suffix(".py"))
    return {file for file in found if file.is_file()}


def import_closure(path: Path) -> set[Path]:
    done: set[Path] = set()
    waiting = {path}
    while waiting:
        file = waiting.pop()
        done.add(file)
        waiting |= imported_files(file) - done
    return done


@pytest.mark.parametrize("word", WORDS)
def test_every_stage_word_names_its_module_section_and_folder(word):
    assert word in DVC["stages"]
    assert f"python -m pipeline.{word}" in stage(word)["cmd"]
    assert (ROOT / "pipeline" / f"{word}.py").is_file()
    assert (ROOT / "stages" / word / "run.py").is_file()
    section = Params.model_fields[word].annotation
    assert section.__name__ == f"{word.capitalize()}Params"
    assert section.__module__ == f"stages.{word}.params"


@pytest.mark.parametrize("word", WORDS)
def test_every_dvc_stage_depends_on_the_code_it_imports(word):
    deps = [ROOT / dep for dep in stage(word)["deps"] if "$" not in dep]
    missing = [
        str(file.relative_to(ROOT))
        for file in import_closure(ROOT / "pipeline" / f"{word}.py")
        if not any(file == dep or dep in file.parents for dep in deps)
    ]
    assert missing == []


@pytest.mark.parametrize("word", WORDS)
def test_every_dvc_stage_depends_on_nothing_that_is_not_there(word):
    data = ("data/", "models", "$")
    deps = [dep for dep in stage(word)["deps"] if not dep.startswith(data)]
    assert [dep for dep in deps if not (ROOT / dep).exists()] == []


def test_neither_training_parameters_nor_the_hu_window_redo_preprocessing():
    keys = stage("preprocess")["params"]
    assert "preprocess" in keys
    assert not [key for key in keys if key.startswith(("train", "evaluate", "seed"))]
    assert "hu_window" not in Params.model_fields["preprocess"].annotation.model_fields


def test_no_dvc_stage_uses_a_shell():
    commands = [stage(word)["cmd"] for word in WORDS]
    assert [command for command in commands if re.search(r"[|&;<>`]", command)] == []


def test_nothing_of_params_yaml_reaches_a_shell():
    stages = [stage.get("do", stage) for stage in DVC["stages"].values()]
    assert [each["cmd"] for each in stages if "$" in each["cmd"]] == []


def test_packages_hold_a_docstring_and_import_nothing():
    for init in [file for package in PACKAGES for file in (ROOT / package).rglob("__init__.py")]:
        body = ast.parse(init.read_text(encoding="utf-8")).body
        assert len(body) == 1, init
        assert isinstance(body[0], ast.Expr), init


def test_only_pipeline_prints_exits_or_reads_params_yaml():
    forbidden = re.compile(r"\bprint\(|\bsys\.exit\(|click\.echo|params\.yaml\"")
    for package in ("stages", "cache"):
        for file in (ROOT / package).rglob("*.py"):
            assert not forbidden.search(file.read_text(encoding="utf-8")), file


def test_what_a_command_prints_goes_through_what_shows_names():
    printed = [
        file.name
        for file in (ROOT / "pipeline").glob("*.py")
        if "click.echo" in file.read_text(encoding="utf-8")
    ]
    assert printed == ["command.py"]


def test_json_of_others_is_read_where_a_deep_nesting_is_a_damaged_file():
    reader = ROOT / "cache" / "jsons.py"
    alone = ROOT / "stages" / "export" / "example.py"  # it is copied into bundles
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    others = [file for file in files if "json.load" in file.read_text(encoding="utf-8")]
    assert set(others) == {reader, alone}


def test_the_readme_map_is_the_tree():
    """Every folder and file the README's map names is there, and every top folder is named."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme.split("## What is where")[1].split("```")[1]
    named = {line.split()[0].rstrip("/") for line in block.strip().splitlines()}
    made = {"data/cases", "data/problems.json", "data/qc.html", "models", "training", "folds"}
    made |= {"reports"}
    assert [name for name in named - made if not (ROOT / name).exists()] == []
    folders = {*PACKAGES, "presets", "docs", "tests", "benchmarks"}
    assert folders <= {name.split("/")[0] for name in named}


def test_the_invariants_name_tests_that_are_there():
    table = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)`", table)
    assert len(named) >= 10
    assert [name for name in named if not (ROOT / "tests" / name).is_file()] == []


def test_the_list_of_commands_is_complete():
    from pipeline.__main__ import COMMANDS

    commands = {
        file.stem
        for file in (ROOT / "pipeline").glob("*.py")
        if "if __name__" in file.read_text(encoding="utf-8") and file.stem != "__main__"
    }
    assert set(COMMANDS) == commands


def test_every_layout_can_be_named_in_the_parameters():
    assert get_args(LayoutName) == NAMES


def test_links_between_documents_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_decisions_named_in_code_are_there():
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            for name in re.findall(r"docs/decisions/[\w-]+\.md", file.read_text(encoding="utf-8")):
                assert (ROOT / name).is_file(), f"{file}: {name}"
