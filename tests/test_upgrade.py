"""Parameter files of older states, brought up to date by ``pipeline.configure --upgrade``."""

import random
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from cache.errors import ParamsError
from pipeline.configure import PRESETS, main
from pipeline.params import UPGRADE, read_params
from pipeline.rewrite import rewrite
from pipeline.upgrade import leaves as leaves_of
from pipeline.upgrade import upgraded
from tiny import names

FORMATS = Path(__file__).parent / "formats"
OLD = sorted(FORMATS.glob("params-*.yaml"))
TEMPLATE = (PRESETS / "liver.yaml").read_text(encoding="utf-8")


def leaves(text):
    """Every parameter of a text by its dotted key."""
    return leaves_of(Path("params.yaml"), text)


@pytest.fixture
def upgrade(run_command, tmp_path):
    """Run the command on a text; gives how it ended and the text afterwards."""

    def run(text, name="params.yaml"):
        path = tmp_path / name
        path.write_bytes(text.encode("utf-8"))
        ended = run_command(main, "--upgrade", "--params", path)
        return ended, path.read_bytes().decode("utf-8")

    return run


def comments(text):
    """What stands behind every #, as long as no value holds one."""
    return [line.partition("#")[2] for line in text.splitlines() if "#" in line]


def without(text, *dotted):
    """A text without the lines of some keys of its sections."""
    for key in dotted:
        name = key.rpartition(".")[2]
        text, count = re.subn(rf"^ +{name}:.*\n", "", text, count=1, flags=re.M)
        assert count == 1
    return text


class TestOldFiles:
    @pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
    def test_an_old_file_is_refused_with_the_command_that_mends_it(self, path):
        with pytest.raises(ParamsError) as caught:
            read_params(path)
        assert f"{UPGRADE} --params {path}; else correct it in {path}" in caught.value.fix

    @pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
    def test_an_old_file_is_valid_afterwards_and_keeps_its_values_and_comments(
        self, upgrade, path, tmp_path
    ):
        old = path.read_text(encoding="utf-8")
        ended, new = upgrade(old)
        assert ended.exit_code == 0, ended.output
        read_params(tmp_path / "params.yaml")
        before, after = leaves(old), leaves(new)
        if "train.learning_rate" in before:
            before["train.lr"] = before.pop("train.learning_rate")
        assert {key: after[key] for key in before} == before
        rest = iter(comments(new))
        assert all(comment in rest for comment in comments(old))  # in their order
        assert (tmp_path / "params.yaml.bak").read_text(encoding="utf-8") == old

    def test_a_key_that_is_known_is_not_offered_for_one_that_is_missing(self):
        with pytest.raises(ParamsError) as caught:
            read_params(FORMATS / "params-before-upgrade.yaml")
        assert "rules.dicom_phases is missing\n" in caught.value.fact
        assert "is it" not in caught.value.fact

    def test_what_was_not_done_before_is_not_done_afterwards(self, upgrade):
        _, new = upgrade((FORMATS / "params-first.yaml").read_text(encoding="utf-8"))
        assert leaves(new)["train.augmentation"] is None

    def test_a_renamed_key_keeps_its_value_and_is_named(self, upgrade):
        ended, new = upgrade((FORMATS / "params-first.yaml").read_text(encoding="utf-8"))
        assert "renamed, before train.learning_rate train.lr: 0.003\n" in ended.output
        assert "  lr: 0.003\n" in new

    def test_policies_of_an_old_file_that_are_not_the_defaults_of_today_are_named(self, upgrade):
        ended, new = upgrade((FORMATS / "params-before-upgrade.yaml").read_text(encoding="utf-8"))
        assert leaves(new)["rules.liver_hu"] == "warn"
        assert "  rules.liver_hu: warn (the default is skip)\n" in ended.output


class TestKeys:
    def test_a_missing_key_comes_to_its_place_with_its_comment(self, upgrade):
        ended, new = upgrade(without(TEMPLATE, "train.loss"))
        assert new == TEMPLATE
        assert "  added train.loss: dice_ce\n" in ended.output

    def test_a_missing_key_brings_the_comment_lines_above_it(self, upgrade):
        lines = TEMPLATE.splitlines(keepends=True)
        place = next(i for i, line in enumerate(lines) if line.startswith("  patient_id: null"))
        start = place
        while lines[start - 1].lstrip().startswith("#"):
            start -= 1
        assert start < place
        _, new = upgrade("".join(lines[:start] + lines[place + 1 :]))
        assert new == TEMPLATE

    @pytest.mark.parametrize("name", ["phantom", "rules", "train", "evaluate"])
    def test_a_missing_section_comes_to_its_place(self, upgrade, name, tmp_path):
        block = re.search(rf"^{name}:.*?(?=^\w|\Z)", TEMPLATE, flags=re.M | re.S)[0]
        _, new = upgrade(TEMPLATE.replace(block, ""))
        assert list(YAML(typ="safe").load(new)) == list(YAML(typ="safe").load(TEMPLATE))
        read_params(tmp_path / "params.yaml")

    def test_an_unknown_key_is_taken_out_and_named_with_its_value(self, upgrade):
        ended, new = upgrade(TEMPLATE.replace("  epochs:", "  dropout: 0.1 # mine\n  epochs:"))
        assert new == TEMPLATE
        assert "  removed train.dropout: 0.1\n" in ended.output

    def test_an_unknown_section_is_taken_out_with_all_that_is_in_it(self, upgrade):
        ended, new = upgrade(TEMPLATE + "\nwatch:\n  mail: me # always\n  every: [1, 2]\n")
        assert leaves(new) == leaves(TEMPLATE)
        assert "  removed watch.mail: me\n" in ended.output
        assert "  removed watch.every: [1, 2]\n" in ended.output

    def test_comments_above_an_unknown_key_stay(self, upgrade):
        mine = "  # what follows is for the long runs\n"
        _, new = upgrade(TEMPLATE.replace("  epochs:", f"{mine}  dropout: 0.1\n  epochs:"))
        assert f"{mine}  epochs:" in new

    def test_keys_in_braces_are_added_and_taken_out_as_well(self, upgrade):
        old = "    rotation: {probability: 0.2, degrees: 30}"
        assert old in TEMPLATE
        mine = "    rotation: {axis: z, degrees: 45, speed: 3}"
        ended, new = upgrade(TEMPLATE.replace(old, mine))
        after = leaves(new)
        assert after["train.augmentation.rotation.degrees"] == 45
        assert after["train.augmentation.rotation.probability"] == 0.2
        assert leaves(TEMPLATE).keys() == after.keys()
        assert "  removed train.augmentation.rotation.axis: z\n" in ended.output

    def test_a_section_without_anything_in_it_is_filled_below_its_comment(self, upgrade):
        section = re.search(r"^phantom:.*\n(?:  .*\n)+", TEMPLATE, flags=re.M)[0]
        head = section.splitlines(keepends=True)[0]
        assert "#" in head
        _, new = upgrade(TEMPLATE.replace(section, head))
        assert new == TEMPLATE

    def test_a_section_that_is_null_stays_null(self, upgrade):
        off = re.sub(
            r"  augmentation:.*?(?=^  \w)", "  augmentation: null\n", TEMPLATE, flags=re.M | re.S
        )
        ended, new = upgrade(off)
        assert new == off
        assert "nothing changed" in ended.output

    def test_another_indentation_is_kept(self, upgrade, tmp_path):
        wide = re.sub(r"^( +)", r"\1\1", without(TEMPLATE, "train.loss"), flags=re.M)
        _, new = upgrade(wide)
        assert re.search(r"^    loss: dice_ce", new, flags=re.M)
        read_params(tmp_path / "params.yaml")

    def test_line_ends_of_windows_are_kept(self, upgrade):
        _, new = upgrade(without(TEMPLATE, "train.loss").replace("\n", "\r\n"))
        assert new == TEMPLATE.replace("\n", "\r\n")

    def test_a_file_without_a_line_end_at_its_end_gets_its_last_key(self, upgrade):
        _, new = upgrade(without(TEMPLATE, "evaluate.tolerance_mm").rstrip("\n"))
        assert leaves(new) == leaves(TEMPLATE)


class TestTheFile:
    def test_a_file_that_is_up_to_date_is_left_alone(self, upgrade, tmp_path):
        ended, new = upgrade(TEMPLATE)
        assert new == TEMPLATE
        assert ended.output.endswith("has all keys of today and no others; nothing changed\n")
        assert names(tmp_path) == ["params.yaml"]

    def test_the_second_upgrade_changes_nothing(self, upgrade):
        _, once = upgrade((FORMATS / "params-first.yaml").read_text(encoding="utf-8"))
        ended, twice = upgrade(once)
        assert twice == once
        assert "nothing changed" in ended.output

    def test_an_impossible_value_is_refused_after_the_keys_were_brought_up_to_date(self, upgrade):
        old = without(TEMPLATE, "train.loss").replace("  epochs: 200", "  epochs: -3")
        ended, new = upgrade(old)
        assert ended.exit_code == 2
        assert "train.epochs: Input should be greater than 0 (it is -3)" in ended.output
        assert "loss: dice_ce" in new

    @pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "seed: [1\n", "seed: 1\nseed: 2\n"])
    def test_a_text_that_is_no_parameter_file_is_refused_and_left_alone(
        self, upgrade, text, tmp_path
    ):
        ended, new = upgrade(text)
        assert ended.exit_code == 2
        assert ended.output.startswith(f"error: {tmp_path / 'params.yaml'}: ")
        assert new == text
        assert names(tmp_path) == ["params.yaml"]

    def test_a_missing_file_is_refused(self, run_command, tmp_path):
        ended = run_command(main, "--upgrade", "--params", tmp_path / "none.yaml")
        assert ended.exit_code == 2
        assert "there is no such file" in ended.output

    def test_a_key_that_others_refer_to_is_not_taken_out_and_the_file_left_alone(
        self, upgrade, tmp_path
    ):
        old = TEMPLATE.replace("  epochs: 200", "  long: &long 200\n  epochs: *long")
        ended, new = upgrade(old)
        assert ended.exit_code == 2
        assert "has keys that are written in a way that cannot be changed by itself" in ended.output
        assert new == old

    def test_upgrade_goes_by_itself(self, run_command, tmp_path):
        path = tmp_path / "params.yaml"
        ended = run_command(main, "--upgrade", "--preset", "liver", "--params", path)
        assert ended.exit_code == 2
        assert not path.exists()

    def test_a_new_preset_keeps_the_file_it_replaces_beside_it(self, run_command, tmp_path):
        path = tmp_path / "params.yaml"
        for preset in ("liver", "notebook", "liver", "notebook"):
            run_command(main, "--preset", preset, "--params", path)
        assert names(tmp_path) == ["params.yaml", "params.yaml.bak", "params.yaml.bak2"]
        kept = [(tmp_path / f"params.yaml.{name}").read_bytes() for name in ("bak", "bak2")]
        assert kept == [(PRESETS / f"{name}.yaml").read_bytes() for name in ("liver", "notebook")]

    def test_a_file_written_with_the_same_text_has_no_backup(self, tmp_path):
        path = tmp_path / "a.yaml"
        assert [rewrite(path, "a: 1\n"), rewrite(path, "a: 1\n")] == [None, None]
        assert rewrite(path, "a: 2\n") == tmp_path / "a.yaml.bak"


@pytest.mark.parametrize("seed", range(20))
def test_whatever_keys_are_missing_or_unknown_the_others_keep_their_values_and_places(seed):
    draw = random.Random(seed)
    lines, kept, gone = [], [], []
    for line in TEMPLATE.splitlines(keepends=True):
        is_key = re.match(r" +\w+: (?![#{])", line) is not None
        if is_key and draw.random() < 0.3:
            gone.append(line)
            continue
        if is_key and draw.random() < 0.2:
            indent, value = re.match(" +", line)[0], draw.choice(["1", "null", "[a, b]", "x # y"])
            lines.append(f"{indent}odd_{len(lines)}: {value}\n")
        lines.append(line)
        kept.append(line)
    new, changes = upgraded(Path("params.yaml"), "".join(lines), TEMPLATE)
    assert leaves(new) == leaves(TEMPLATE)
    rest = iter(new.splitlines(keepends=True))
    assert all(line in rest for line in kept)
    assert sum(change.kind == "added" for change in changes) == len(gone)
    assert upgraded(Path("params.yaml"), new, TEMPLATE) == (new, [])
