"""problems.json and the store never disagree, whatever is broken and whatever the policies are."""

import struct
from typing import get_args

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everyone uses
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import CASE_SPACING_XYZ_MM, body_hu, liver_label
from stages.preprocess.case import work
from stages.preprocess.files import CaseFiles
from stages.preprocess.outcome import Job
from stages.preprocess.params import PreprocessParams
from stages.preprocess.policy import RulesParams
from stages.preprocess.problems import LEFT_OUT
from test_geometry import KEEP

POLICIES = {name: get_args(field.annotation) for name, field in RulesParams.model_fields.items()}
# what is written into a NIfTI header, and where: the faults that some rule may call a warning
FAULTS = {
    "none": (),
    "sform flat, no qform": (
        (252, "<2h", (0, 1)),
        (280, "<12f", (9, 9, 0, 0, 0, 0, 0, 0, 0, 0, 11, 0)),
    ),
    "sform sheared, no qform": (
        (252, "<2h", (0, 1)),
        (280, "<12f", (-9, 0, 3, 0, 0, -10, 0, 0, 0, 0, 11, 0)),
    ),
    "sform a hair off": (
        (252, "<2h", (0, 1)),
        (280, "<12f", (-9, 0, 0, 0, 0, -10, 0.006, 0, 0, 0, 11, 0)),
    ),
    "sform without numbers": ((252, "<2h", (0, 1)), (280, "<f", (float("nan"),))),
    "spacing of zero": ((80, "<f", (0.0,)),),
    "metres": ((123, "B", (1,)),),
    "no magic word": ((344, "4s", (b"????",)),),
    "voxels nowhere": ((108, "<f", (3e9,)),),
    "other sides": ((42, "<h", (900,)),),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CT and its label, sound."""
    folder = tmp_path_factory.mktemp("agreement")
    for name, array in (("ct", body_hu(0)), ("label", liver_label())):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(CASE_SPACING_XYZ_MM)
        sitk.WriteImage(image, str(folder / f"{name}.nii"))
    return folder


def damaged(folder, name, fault):
    """A copy of a file with a fault in its header."""
    content = bytearray((folder / f"{name}.nii").read_bytes())
    for at, form, values in FAULTS[fault]:
        struct.pack_into(form, content, at, *values)
    path = folder / f"{name}-damaged.nii"
    path.write_bytes(content)
    return path


policies = st.fixed_dictionaries({name: st.sampled_from(one) for name, one in POLICIES.items()})


@given(ct=st.sampled_from([*FAULTS]), label=st.sampled_from([*FAULTS]), rules=policies)
@settings(max_examples=25)
def test_a_case_is_in_the_store_unless_a_problem_says_it_is_not(folder, ct, label, rules):
    paths = (damaged(folder, "ct", ct), damaged(folder, "label", label))
    files = CaseFiles("1", "1", *paths, None, folder)
    params = PreprocessParams.model_validate(KEEP)
    chosen = RulesParams(**rules)
    with np.errstate(all="ignore"):
        outcome = work(Job(files, folder / "cases", folder, params, chosen, None, True))
    assert not outcome.bug
    is_left_out = any(one.severity in LEFT_OUT for one in outcome.problems)
    assert (outcome.facts is None) == is_left_out, outcome.problems


def test_a_rule_that_may_be_a_warning_never_hides_that_nothing_was_read(folder, rules):
    params = PreprocessParams.model_validate(KEEP)
    path = damaged(folder, "ct", "sform flat, no qform")
    files = CaseFiles("1", "1", path, folder / "label.nii", None, folder)
    job = Job(files, folder / "cases", folder, params, rules(direction="warn"), None, True)
    outcome = work(job)
    assert outcome.facts is None
    assert any(one.severity == "skipped" for one in outcome.problems)
