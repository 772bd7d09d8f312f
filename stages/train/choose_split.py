"""Which split a run has: the one of a file, or one drawn from the seed."""

import logging
from pathlib import Path

from cache.errors import ParamsError
from cache.manifest import Manifest
from stages.train.params import TrainParams
from stages.train.split import Split, read_split, split_patients

LOG = logging.getLogger(__name__)


def chosen_split(
    manifest: Manifest, params: TrainParams, seed: int, split_file: Path | None
) -> Split:
    """The split of a run over the patients of a store.

    Args:
        manifest: of the store.
        params: the ``train`` section.
        seed: of a split that is drawn.
        split_file: a split to use instead.

    Raises:
        ParamsError: the file or the folds do not allow it.
    """
    patients = {entry.patient_id for entry in manifest.cases.values()}
    if split_file is not None:
        if params.folds is not None:
            fact = f"is {params.folds}, but data.split_file names the split"
            raise ParamsError("train.folds", fact, "set one of the two to null")
        split = read_split(split_file, patients)
        _tell_strangers(split, patients, split_file)
        return split
    split = split_patients(
        patients,
        seed=seed,
        validation_share=params.validation_share,
        test_share=params.test_share,
        folds=params.folds,
        fold=params.fold,
    )
    for role, share in (("validation", params.validation_share), ("test", params.test_share)):
        if share > 0 and not getattr(split, role):
            LOG.warning("%d patients are too few to set any apart for %s", len(patients), role)
    return split


def _tell_strangers(split: Split, patients: set[str], split_file: Path) -> None:
    """Warn of names that a split file and the store do not share: one may be a slip."""
    named = {*split.train, *split.validation, *split.test}
    for fact, names in (
        ("names patients that the store has not", named - patients),
        ("leaves patients of the store out; evaluate counts them as test", patients - named),
    ):
        if names:
            LOG.warning("%s %s: %s", split_file, fact, ", ".join(sorted(names)[:10]))
