"""Stage one: every case of a data set into the store, or into problems.json."""

import logging
from dataclasses import dataclass
from pathlib import Path

from cache.errors import StoreError
from cache.files import remove, remove_partials
from cache.manifest import Entry, Manifest, read_manifest, write_manifest
from cache.writer import stored_cases
from stages.preprocess.journal import Journal, only_writer, shortcuts_of, state_folder
from stages.preprocess.kept import quickly_kept
from stages.preprocess.outcome import Job, Outcome
from stages.preprocess.params import PreprocessParams
from stages.preprocess.policy import RulesParams
from stages.preprocess.problems import Problem
from stages.preprocess.scan import Scan, scan
from stages.preprocess.tell import problems_of, refusal, without_copies, write_pages
from stages.preprocess.workers.dispatch import worked

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sources:
    """What the ``data:`` section says of the scans.

    Attributes:
        src: their folder, or a list of them.
        layout: how they lie there; ``auto`` finds it out.
        exclude: ids of cases to leave out.
        patient_id: a regular expression that finds the patient in a case's id; None if every case
            is a patient of its own.
    """

    src: Path
    layout: str
    exclude: list[str]
    patient_id: str | None


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        cases: ids of the cases that passed; unless it was a mere check, they are in the store.
        problems: all that was found.
        kept: how many of the cases were already there, unchanged.
        refusal: why there is no manifest; None if all is well.
    """

    cases: list[str]
    problems: list[Problem]
    kept: int
    refusal: SourceError | None


def run(
    sources: Sources,
    out: Path,
    params: PreprocessParams,
    rules: RulesParams,
    *,
    workers: int,
    scheduler: str | None = None,
    prune: bool = False,
    check_only: bool = False,
) -> Summary:
    """Prepare every case of a data set; write the manifest last.

    Cases that lie in the store with the same key are kept. Faults of single cases are collected in
    ``problems.json`` beside ``out``; they never stop the others. A picture of each case goes to
    ``qc.html`` there.

    Args:
        sources: where the scans are.
        out: the store.
        params: the ``preprocess`` section.
        rules: the ``rules`` section.
        workers: processes at a time on this machine.
        scheduler: address of a Dask scheduler whose workers do it instead.
        prune: also delete stored cases that are no longer in the data set.
        check_only: hold everything against the rules, and store nothing.

    Raises:
        SourceError: the data set cannot be used, no case is left, or a rule whose policy is
            ``error`` is broken.
        StoreError: the store cannot be written to, or another run is writing to it.
    """
    _require_apart(sources.src, out)
    found = scan(
        sources.src,
        layout=sources.layout,
        exclude=sources.exclude,
        patient_id=sources.patient_id,
        rules=rules,
    )
    LOG.info("%s", found.reason)
    _make_folder(state_folder(out) if check_only else out)
    with only_writer(out):
        journal = Journal(out)
        before = journal.read()
        _remove_partials(out, check_only=check_only)
        jobs = _jobs(found, out, params, rules, before, check_only=check_only)
        outcomes = _outcomes(jobs, out, journal, workers=workers, scheduler=scheduler)
        outcomes = without_copies(outcomes, rules)
        problems = found.problems + [problem for one in outcomes for problem in problems_of(one)]
        write_pages(out, _pictures(out), outcomes, problems)
        good = [one for one in outcomes if one.facts is not None and not one.is_out]
        refused = refusal(sources.src, out, good, problems)
        if refused is not None and not check_only:
            journal.begin()
        if refused is not None:
            raise refused
        if not check_only:
            remove_partials(out)  # of workers that were killed in this run
            _publish(out, Manifest(_entries(good), params.model_dump(mode="json")))
            known = before | _entries(outcomes)
            if prune:
                _prune(out, _entries(good), known)
            journal.end(_unlisted(out, _entries(good), known))
    cases = [one.files.case_id for one in good]
    return Summary(cases, problems, sum(one.was_there for one in good))


def _require_apart(src: Path, out: Path) -> None:
    """Refuse a store inside the data set, whose files the next run would find there."""
    if out.resolve().is_relative_to(src.resolve()):
        raise StoreError(out, f"lies inside the data set {src}", "give an --out outside of it")


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


def _outcomes(
    jobs: list[Job], out: Path, journal: Journal, *, workers: int, scheduler: str | None
) -> list[Outcome]:
    """Every case's outcome: first of those that are there unchanged, then of the others.

    The manifest stays as long as nothing but a look at the files' times was needed.
    """
    shortcuts = shortcuts_of(out)
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
        for outcome in worked(rest, len(jobs), workers=workers, scheduler=scheduler):
            shortcuts.learn(outcome.learned)
            if outcome.entry is not None and not outcome.was_there:
                journal.add(outcome.entry)
            outcomes.append(outcome)
    finally:
        shortcuts.save()
    return outcomes


def _entries(outcomes: list[Outcome]) -> dict[str, Entry]:
    return {one.files.case_id: one.entry for one in outcomes if one.entry is not None}


def _publish(out: Path, manifest: Manifest) -> None:
    """Write the manifest, unless it is there: then a rerun touches nothing that is read."""
    try:
        if read_manifest(out) == manifest:
            return
    except StoreError:
        pass  # there is none, or it is damaged
    write_manifest(out, manifest)


def _prune(out: Path, listed: dict[str, Entry], known: dict[str, Entry]) -> None:
    """Delete the cases that are not listed: all that are whole, and damaged ones known to be ours.

    A file that only has our ending may be somebody's data, and stays.
    """
    ours = {path.name for path in stored_cases(out)} | {entry.file for entry in known.values()}
    for name in ours - {entry.file for entry in listed.values()}:
        remove(out / name)


def _unlisted(out: Path, listed: dict[str, Entry], known: dict[str, Entry]) -> dict[str, Entry]:
    """What lies in the store although the manifest does not list it; it may be listed again."""
    return {
        case_id: entry
        for case_id, entry in known.items()
        if case_id not in listed and (out / entry.file).exists()
    }


def _pictures(out: Path) -> Path:
    return state_folder(out) / "pictures"
