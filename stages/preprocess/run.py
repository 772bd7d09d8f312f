"""Stage one: every case of a data set into the store, or into problems.json."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from cache.errors import SourceError, StoreError
from cache.files import remove_partials
from cache.manifest import Entry, read_manifest
from cache.state import state_folder
from stages.preprocess.digests import absolute
from stages.preprocess.journal import Journal, only_writer, shortcuts_of
from stages.preprocess.kept import quickly_kept
from stages.preprocess.outcome import Job, Outcome
from stages.preprocess.params import PreprocessParams
from stages.preprocess.policy import RulesParams
from stages.preprocess.publish import entries_of, list_cases, prune, publish
from stages.preprocess.scan import Scan, scan
from stages.preprocess.tell import Summary, problems_of, summary_of, without_copies, write_pages
from stages.preprocess.workers.dispatch import worked

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sources:
    """What the ``data:`` section says of the scans.

    Attributes:
        src: their folder, or a list of them.
        layout: how they are laid out; ``auto`` finds it out.
        exclude: ids of cases to leave out.
        patient_id: a regular expression that finds the patient in a case's id; None if every case
            is a patient of its own.
    """

    src: Path
    layout: str
    exclude: list[str]
    patient_id: str | None


@dataclass(frozen=True)
class Manner:
    """How a run goes about it; none of it changes a prepared case.

    Attributes:
        workers: processes at a time; with one, all is done in this process.
        scheduler: address of a Dask scheduler whose workers do it instead.
        prune: also delete stored cases that are no longer in the data set.
        deep: read every file, also those whose size and time are as they were.
        check_only: hold everything against the rules, and store nothing.
    """

    workers: int
    scheduler: str | None = None
    prune: bool = False
    deep: bool = False
    check_only: bool = False


def run(
    sources: Sources, out: Path, params: PreprocessParams, rules: RulesParams, manner: Manner
) -> Summary:
    """Prepare every case of a data set; write the manifest last.

    Cases that are in the store with the same key are kept. Faults of single cases are collected in
    ``problems.json`` beside ``out``; they never stop the others. A picture of each case goes to
    ``qc.html`` there.

    Args:
        sources: where the scans are.
        out: the store.
        params: the ``preprocess`` section.
        rules: the ``rules`` section.
        manner: how to go about it.

    Raises:
        SourceError: the data set cannot be used.
        StoreError: the store cannot be written to, or another run is writing to it.
    """
    check_only = manner.check_only
    if manner.scheduler is not None:  # the cluster's machines have other working folders
        sources = replace(sources, src=Path(absolute(sources.src)))
        out = Path(absolute(out))
    found = _scanned(sources, out, rules)
    _make_folder(state_folder(out) if check_only else out)
    with only_writer(out):
        journal = Journal(out)
        before = journal.read()
        _remove_partials(out, check_only=check_only)
        jobs = _jobs(found, out, params, rules, before, check_only=check_only)
        outcomes = _outcomes(jobs, out, journal, manner)
        outcomes = without_copies(outcomes, rules)
        problems = found.problems + [problem for one in outcomes for problem in problems_of(one)]
        write_pages(out, _pictures(out), outcomes, problems)
        summary = summary_of(sources.src, out, outcomes, problems)
        if check_only:
            return summary
        if summary.refusal is not None:
            journal.begin()  # nobody is to train on what was there before
            return summary
        publish(out, journal, outcomes, before, params)
        if manner.prune:
            prune(out, {files.case_id for files in found.cases}, before | entries_of(outcomes))
    return summary


def run_again(
    sources: Sources,
    out: Path,
    params: PreprocessParams,
    rules: RulesParams,
    *,
    only: frozenset[str],
    workers: int,
) -> Summary:
    """Prepare some cases of a store again, whatever is there; all others stay as they are.

    ``problems.json`` and ``qc.html`` stay too: they are of the whole data set.

    Args:
        sources: where the scans are.
        out: the store.
        params: the ``preprocess`` section it was made with.
        rules: the ``rules`` section.
        only: ids of the cases.
        workers: processes at a time.

    Raises:
        SourceError: the data set cannot be used, or lacks one of the cases; nothing is changed.
        StoreError: the store cannot be written to, or another run is writing to it.
    """
    found = _scanned(sources, out, rules)
    cases = [files for files in found.cases if files.case_id in only]
    _require_all(sources.src, only, {files.case_id for files in cases})
    with only_writer(out):
        journal = Journal(out)
        listed = read_manifest(out).cases
        before = journal.read()
        remove_partials(out)
        # without their entries, none of them is believed to be there
        jobs = _jobs(replace(found, cases=cases), out, params, rules, {}, check_only=False)
        outcomes = _outcomes(jobs, out, journal, Manner(workers))
        good = {case_id: entry for case_id, entry in listed.items() if case_id not in only}
        good |= entries_of([one for one in outcomes if not one.is_out])
        list_cases(out, journal, good, before, params)
    problems = [problem for one in outcomes for problem in one.problems]
    return summary_of(sources.src, out, outcomes, problems)


def _scanned(sources: Sources, out: Path, rules: RulesParams) -> Scan:
    _require_apart(sources.src, out)
    found = scan(
        sources.src,
        layout=sources.layout,
        exclude=sources.exclude,
        patient_id=sources.patient_id,
        rules=rules,
    )
    LOG.info("%s", found.reason)
    return found


def _require_all(src: Path, wanted: frozenset[str], found: set[str]) -> None:
    missing = sorted(wanted - found)
    if missing:
        fact = f"does not have case {', '.join(missing)}, or has it with a problem"
        raise SourceError(src, fact, "name the data set the store was made from")


def _require_apart(src: Path, out: Path) -> None:
    """Refuse a store inside the data set, whose files the next run would find there."""
    if out.resolve().is_relative_to(src.resolve()):
        raise StoreError(out, f"is inside the data set {src}", "give an --out outside of it")


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(out, f"cannot be made ({error})", "give another --out") from error


def _remove_partials(out: Path, *, check_only: bool) -> None:
    """Delete what killed runs left behind, now that nobody else writes there."""
    remove_partials(state_folder(out))
    if not check_only:
        remove_partials(out)


def _jobs(
    found: Scan,
    out: Path,
    params: PreprocessParams,
    rules: RulesParams,
    entries: dict[str, Entry],
    *,
    check_only: bool,
) -> list[Job]:
    return [
        Job(files, out, _pictures(out), params, rules, entries.get(files.case_id), check_only)
        for files in found.cases
    ]


def _outcomes(jobs: list[Job], out: Path, journal: Journal, manner: Manner) -> list[Outcome]:
    """Every case's outcome: first of those that are there unchanged, then of the others.

    The manifest stays as long as nothing but a look at the files' times was needed.
    """
    shortcuts = shortcuts_of(out)
    if manner.deep:
        shortcuts.forget()
    outcomes, rest = [], []
    for job in jobs:
        outcome = quickly_kept(job, shortcuts)
        if outcome is None:
            rest.append(job)
        else:
            outcomes.append(outcome)
    if rest and not rest[0].check_only:
        journal.begin()
    try:
        for outcome in worked(rest, len(jobs), workers=manner.workers, scheduler=manner.scheduler):
            shortcuts.learn(outcome.learned)
            if outcome.entry is not None and not outcome.was_there:
                journal.add(outcome.entry)
            outcomes.append(outcome)
    finally:
        shortcuts.save()
    return outcomes


def _pictures(out: Path) -> Path:
    return state_folder(out) / "pictures"
