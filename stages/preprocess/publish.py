"""The end of a run: the manifest of the cases that passed, and what is deleted."""

from pathlib import Path

from cache.errors import StoreError
from cache.files import remove, remove_partials
from cache.manifest import Entry, Manifest, read_manifest, write_manifest
from cache.writer import stored_cases
from stages.preprocess.journal import Journal
from stages.preprocess.outcome import Outcome
from stages.preprocess.params import PreprocessParams


def entries_of(outcomes: list[Outcome]) -> dict[str, Entry]:
    """The entries of the cases that are in the store, by their ids."""
    return {one.files.case_id: one.entry for one in outcomes if one.entry is not None}


def publish(
    out: Path,
    journal: Journal,
    outcomes: list[Outcome],
    before: dict[str, Entry],
    params: PreprocessParams,
) -> None:
    """Write the manifest of the cases that passed."""
    remove_partials(out)  # of workers that were killed in this run
    listed = entries_of([one for one in outcomes if not one.is_out])
    for entry in listed.values():
        if not (out / entry.file).exists():
            fact = "was written elsewhere by the cluster"
            fix = "mount the store under the same path on every machine"
            raise StoreError(out / entry.file, fact, fix)
    list_cases(out, journal, listed, before | entries_of(outcomes), params)


def list_cases(
    out: Path,
    journal: Journal,
    listed: dict[str, Entry],
    known: dict[str, Entry],
    params: PreprocessParams,
) -> None:
    """Write a manifest of these cases, and end the journal with the others that are there."""
    _write_unless_there(out, Manifest(listed, params.model_dump(mode="json")))
    journal.end(_unlisted(out, listed, known))


def _write_unless_there(out: Path, manifest: Manifest) -> None:
    """Write a manifest, unless it is there: then a rerun touches nothing that is read."""
    try:
        if read_manifest(out) == manifest:
            return
    except StoreError:
        pass  # there is none, or it is damaged
    write_manifest(out, manifest)


def prune(out: Path, wanted: set[str], known: dict[str, Entry]) -> None:
    """Delete the cases that are no longer in the data set, damaged ones known to be ours too.

    Of a case that is there in two formats, the one that is not listed goes. A file that only has
    our ending may be somebody's data, and stays.
    """
    ours = {path.name: info.case_id for path, info in stored_cases(out).items()}
    ours |= {entry.file: entry.case_id for entry in known.values()}
    listed = read_manifest(out).cases
    for name, case_id in ours.items():
        is_twin = case_id in listed and listed[case_id].file != name
        if is_twin or case_id not in wanted:
            remove(out / name)


def _unlisted(out: Path, listed: dict[str, Entry], known: dict[str, Entry]) -> dict[str, Entry]:
    """What is in the store although the manifest does not list it; it may be listed again."""
    return {
        case_id: entry
        for case_id, entry in known.items()
        if case_id not in listed and (out / entry.file).exists()
    }
