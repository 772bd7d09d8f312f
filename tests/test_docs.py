"""The pages under docs say what the code does: rules, problems.json, layouts."""

import csv
import json
import re
import typing
from dataclasses import fields

import pytest

from pipeline.preprocess import main as preprocess
from stages.preprocess.layouts.detect import AUTO, NAMES
from stages.preprocess.policy import RulesParams
from stages.preprocess.problems import SCHEMA_VERSION, SEVERITIES, Problem
from stages.preprocess.reading.sniff import EXTENSIONS
from stages.preprocess.scan import scan

CASES_OF = {  # the ids in the trees of docs/data.md
    "image-label": ["17", "23", "29"],
    "lits": ["0", "28"],
    "nnunet": ["liver_001", "liver_002"],
    "msd": ["liver_0", "liver_1"],
    "ircadb": ["3Dircadb1.1", "3Dircadb1.2"],
    "chaos": ["1", "2"],
    "totalsegmentator": ["s0001", "s0002"],
    "folders": ["FL_Tr_0001", "FL_Tr_0002"],
    "list": ["ada-2019", "grace-2021"],
}


@pytest.fixture(scope="module")
def page(repo):
    return lambda name: (repo / "docs" / name).read_text(encoding="utf-8")


def tables(text):
    """The rows of all tables of a page, by the first heading cell; backticks taken off."""
    found, rows = {}, []
    for line in text.splitlines():
        if not line.startswith("|"):
            rows = []
            continue
        cells = [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        if not rows:
            found.setdefault(cells[0], [])
        elif not set(line) <= set("|-"):
            found[rows[0][0]].append(cells)
        rows.append(cells)
    return found


def block(text, language="", *, after=""):
    """The first block of code in this language after some words."""
    start = text.index(after)
    return re.search(rf"^```{language}\n(.*?)^```$", text[start:], re.DOTALL | re.MULTILINE)[1]


class TestRulesPage:
    @pytest.fixture
    def rows(self, page):
        return tables(page("rules.md"))["rule"]

    def test_the_page_of_rules_has_every_rule_once_and_no_other(self, rows):
        names = [row[0] for row in rows]
        assert sorted(names) == sorted(RulesParams.model_fields)

    def test_the_page_of_rules_names_the_policies_that_can_be_chosen_the_default_first(
        self, rows, rules
    ):
        defaults = rules()
        for name, _, _, policies, _ in rows:
            first, *others = policies.split(", ")
            allowed = typing.get_args(RulesParams.model_fields[name].annotation)
            assert first == defaults.policy(name), name
            assert sorted([first, *others]) == sorted(allowed), name

    def test_the_page_of_rules_gives_a_reason_for_the_default_of_every_rule_that_can_be_a_warning(
        self, page, rules
    ):
        reasons = tables(page("rules.md"))["a doubt"]
        fields = RulesParams.model_fields.items()
        allowed = {name: set(typing.get_args(field.annotation)) for name, field in fields}
        can_warn = [name for name, policies in allowed.items() if policies & {"warn", "keep"}]
        assert [name for name, _, _ in reasons] == can_warn
        assert {name: default for name, default, _ in reasons} == {
            name: rules().policy(name) for name in can_warn
        }

    def test_the_page_of_rules_says_what_a_fix_does_where_there_is_one(self, rows):
        for name, asks, why, policies, fix in rows:
            assert (fix != "-") == ("fix" in policies.split(", ")), name
            assert asks, name
            assert why, name


class TestProblemsPage:
    @pytest.fixture
    def of_a_run(self, write_dataset, run_command, params_file, tmp_path):
        """problems.json of a run with a cut CT and a file of no case."""
        src = write_dataset(["1", "2"])
        ct = src / "image/2/2.nii.gz"
        ct.write_bytes(ct.read_bytes()[:-3000])
        (src / "notes.txt").write_text("-")
        places = ("--src", src, "--out", tmp_path / "cases", "--params", params_file())
        run_command(preprocess, *places, "--workers", 1, "--check-only")
        return json.loads((tmp_path / "problems.json").read_text(encoding="utf-8"))

    @pytest.fixture
    def example(self, page):
        return json.loads(block(page("problems.md"), "json"))

    def test_the_page_of_problems_describes_every_key_of_a_real_file(self, page, of_a_run):
        rows = tables(page("problems.md"))
        assert {row[0] for row in rows["key"]} == set(of_a_run)
        assert {row[0] for row in rows["field"]} == {field.name for field in fields(Problem)}
        severities = {problem["severity"] for problem in of_a_run["problems"]}
        assert {"skipped", "ignored"} <= severities
        for problem in of_a_run["problems"]:
            assert set(problem) == {row[0] for row in rows["field"]}

    def test_the_page_of_problems_describes_all_that_is_counted_of_a_label(
        self, page, example, of_a_run
    ):
        described = {row[0] for row in tables(page("problems.md"))["of a value"]}
        for counted in (*of_a_run["labels"].values(), *example["labels"].values()):
            assert [set(one) for one in counted] == [described] * len(counted)
        assert set(of_a_run["labels"]) == {"1", "2"}  # of a case that is left out, too

    def test_the_example_on_the_page_of_problems_has_the_shape_of_a_real_file(
        self, example, of_a_run
    ):
        assert set(example) == set(of_a_run)
        assert example["schema_version"] == of_a_run["schema_version"] == SCHEMA_VERSION
        problems = [Problem(**problem) for problem in example["problems"]]
        severities = [problem.severity for problem in problems]
        assert example["counts"] == {name: severities.count(name) for name in set(severities)}

    def test_the_page_of_problems_describes_every_severity(self, page):
        assert {row[0] for row in tables(page("problems.md"))["severity"]} == {*SEVERITIES.values()}

    def test_the_page_of_problems_tells_rules_from_words_that_are_no_rules(self, page, example):
        words = {row[0] for row in tables(page("problems.md"))["rule"]}
        assert words.isdisjoint(RulesParams.model_fields)
        named = {problem["rule"] for problem in example["problems"]}
        assert named <= words | set(RulesParams.model_fields)


class TestDataPage:
    @pytest.fixture
    def lay_out(self, page, tmp_path):
        """Lay out the tree of a layout, with the list where there is one; gives the folder."""

        def write(layout):
            text = page("data.md")
            for line in block(text, after=f"### `{layout}`").splitlines():
                path = tmp_path / line
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"\0" * 128 + b"DICM" if path.suffix != ".json" else b"{}")
            if layout == "list":
                (tmp_path / "cases.csv").write_text(block(text, "csv"), encoding="utf-8")
            return tmp_path

        return write

    def test_the_page_of_data_has_every_layout_and_no_other(self, page):
        assert {AUTO, *re.findall(r"^### `(.+)`$", page("data.md"), re.MULTILINE)} == set(NAMES)

    @pytest.mark.parametrize("layout", CASES_OF)
    def test_every_tree_on_the_page_of_data_is_recognised_and_all_of_it_is_cases(
        self, lay_out, rules, layout
    ):
        found = scan(lay_out(layout), layout=AUTO, exclude=[], patient_id=None, rules=rules())
        assert found.layout == layout
        assert [case.case_id for case in found.cases] == CASES_OF[layout]
        assert {problem.severity for problem in found.problems} <= {"ignored"}

    def test_the_two_lists_on_the_page_of_data_say_the_same(self, page):
        text = page("data.md")
        rows = list(csv.DictReader(block(text, "csv").splitlines()))
        assert rows == json.loads(block(text, "json"))

    def test_the_page_of_data_names_every_ending(self, page):
        named = re.findall(r"`(\.[a-z.]+)`", page("data.md"))
        assert set(EXTENSIONS) <= set(named)

    def test_the_expression_on_the_page_of_data_finds_the_patient_it_says(self, page):
        [pattern] = re.findall(r"`'(.+?)'` makes", page("data.md"))
        assert {re.search(pattern, name)[1] for name in ("P012_2019", "P012_2021")} == {"P012"}


def test_the_readmes_python_runs_as_it_stands(
    repo, tmp_path, monkeypatch, prepared_case, write_store
):
    readme = (repo / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    write_store([prepared_case("phantom-000")], folder="data/cases")
    monkeypatch.chdir(tmp_path)
    # no workers: a DataLoader's would look for a script of their own
    exec("\n".join(blocks).replace("num_workers=2", "num_workers=0"), {})
