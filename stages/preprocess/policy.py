"""The ``rules:`` section of params.yaml: what follows when a rule is broken.

``error``: the run ends with exit code 2, after all cases were looked at. ``skip``: the case stays
out of the store. ``warn``: it is prepared all the same. ``fix``: it is mended in a way that is
sound, and said so. Only what makes sense for a rule can be chosen. docs/rules.md explains each.
"""

from typing import Literal

from pydantic import BaseModel

Policy = Literal["error", "skip", "warn", "fix", "keep", "ignore"]
OTHER_FILES = "other_files"  # not broken by anything: files beside a case's own, told and left
Must = Literal["error", "skip"]  # without it there is nothing to prepare
Should = Literal["error", "skip", "warn"]
Fixable = Literal["error", "skip", "fix"]
Any = Literal["error", "skip", "warn", "fix"]


class RulesParams(BaseModel, frozen=True, extra="forbid"):
    """One policy per rule. Every key is required; none is hidden here."""

    # names and files
    ct_missing: Must
    label_missing: Must
    one_file_per_case: Must
    safe_id: Must
    patient_id: Should
    unknown_exclusion: Literal["error", "warn"]
    case_count: Literal["error", "warn"]
    data_inside: Must
    lfs_pointer: Must
    extension: Fixable
    readable: Must
    truncated: Must
    checksum: Must
    # the header
    three_dimensional: Fixable
    plain_numbers: Must
    spacing_positive: Must
    spacing_plausible: Should
    length_unit: Fixable
    direction: Should
    right_angles: Fixable
    identity_affine: Should
    # DICOM
    dicom_gaps: Should
    dicom_repeats: Fixable
    dicom_mixed: Should
    dicom_phases: Should
    dicom_choice: Should
    # the CT's voxels
    finite: Fixable
    padding: Any
    not_hu: Any
    hu_limits: Should
    hu_range: Should
    # the label and the CT
    label_names: Must
    label_integers: Fixable
    ignore_label: Should
    label_values: Should
    other_organs: Should
    many_values: Should
    geometry_lost: Fixable
    label_grid: Fixable
    overlap: Must
    label_outside: Should
    liver_empty: Literal["error", "skip", "keep"]
    label_filled: Should
    liver_volume: Should
    liver_too_large: Should
    liver_hu: Should
    liver_turned: Should
    # the crop
    slices_there: Must
    body_found: Must
    liver_cropped_away: Should
    # the data set
    same_ct: Should

    def mends(self, rule: str) -> bool:
        """Whether what can be mended is, in a case that breaks this rule.

        Under ``warn`` too, since prediction mends it: a policy never decides about voxels.
        """
        return self.policy(rule) in ("fix", "warn")

    def policy(self, rule: str) -> Policy:
        """What follows when this rule is broken."""
        policy: Policy = "ignore" if rule == OTHER_FILES else getattr(self, rule)
        return policy
