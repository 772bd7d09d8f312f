"""Which cases need not be prepared again: sources, parameters and stored bytes are the same."""

from typing import Any

from cache.manifest import case_files
from stages.preprocess.digests import Known, Origin, Shortcuts, absolute, hash_files
from stages.preprocess.outcome import Facts, Job, Outcome
from stages.preprocess.prepare import case_key
from stages.preprocess.problems import Finding, Problem
from stages.preprocess.stored_picture import read_picture


def kept(job: Job, key: str) -> Outcome | None:
    """The outcome of a case whose entry has this key, if it need not be prepared again.

    A policy may have changed since it was stored: it may now leave the case out, or ask for it to
    be mended, or not to be.
    """
    entry = job.entry
    if entry is None or entry.key != key or entry.file != job.path.name:
        return None
    for found in entry.findings:
        is_to_fix = found["fixable"] and job.rules.mends(found["rule"])
        if found["fixed"] != is_to_fix:
            return None
    problems = [_problem(found, job) for found in entry.findings]
    facts = Facts(
        picture_name(key),
        entry.liver_ml,
        entry.shape_zyx,
        entry.spacing_zyx_mm,
        entry.ct_digest,
        entry.source_shape_zyx,
        entry.source_spacing_zyx_mm,
    )
    counts = entry.label_counts
    return Outcome(job.files, problems, facts, entry, was_there=True, label_counts=counts)


def quickly_kept(job: Job, shortcuts: Shortcuts) -> Outcome | None:
    """The outcome of a case that is there and whole by all the shortcuts know; None if in doubt."""
    origin = None if job.entry is None else Origin.remembered(job.files, shortcuts)
    if job.entry is None or origin is None:
        return None
    outcome = kept(job, case_key(job.files, job.params, origin.digests(job.files)))
    if outcome is None or read_picture(job.pictures / picture_name(job.entry.key)) is None:
        return None
    is_whole = all(
        shortcuts.digest(job.out / name) == stored.sha256
        for name, stored in job.entry.files.items()
    )
    return outcome if is_whole else None


def stored_digests(job: Job) -> dict[str, Known] | None:
    """The digests of a case's files in the store; None unless they are those of its entry."""
    if job.entry is None:
        return None
    found = hash_files(case_files(job.path))
    wanted = {absolute(job.out / name): one.sha256 for name, one in job.entry.files.items()}
    return found if {name: one.sha256 for name, one in found.items()} == wanted else None


def finding_to_dict(finding: Finding, job: Job) -> dict[str, Any]:
    """A finding as it is stored: without a path, for the data set may be moved."""
    is_label = finding.path.is_relative_to(job.files.label)
    return {
        "rule": finding.rule,
        "role": "label" if is_label else "ct",
        "fact": finding.fact,
        "fix": finding.fix,
        "fixable": finding.fixable,
        "fixed": finding.fixable and job.rules.mends(finding.rule),
    }


def picture_name(key: str, *, check_only: bool = False) -> str:
    """The file name of a case's picture; one made while checking is of the case unresized."""
    return f"{key}-checked.jpg" if check_only else f"{key}.jpg"


def _problem(found: dict[str, Any], job: Job) -> Problem:
    path = job.files.label if found["role"] == "label" else job.files.ct
    finding = Finding(found["rule"], path, found["fact"], found["fix"], found["fixable"])
    return Problem.of(finding, job.files.case_id, job.rules.policy(finding.rule))
