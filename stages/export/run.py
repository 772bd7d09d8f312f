"""Export: write a bundle whose graph was seen to compute what the trained network does."""

import hashlib
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from cache.errors import ModelError, ParamsError
from cache.files import replacing, write_json, write_text
from cache.sealed import sealed
from stages.evaluate.window import Network
from stages.export.card import Card, card_text, read_metrics
from stages.export.cases import training_cases
from stages.export.form import Form
from stages.export.parity import Parity, allowed, compared, require_parity
from stages.export.preparation import FILE, GraphFile, Preparation
from stages.export.program import OnHu
from stages.export.sample import Sample, sample_of
from stages.preprocess.params import preparation_of
from stages.train.checkpoints.checkpoint import Checkpoint, load_checkpoint

CARD, PARITY = "README.md", "parity.json"
BUNDLE_FILES = {FILE, CARD, PARITY, "model.onnx", "model.pt2", "example.py"}
LIBRARIES = ("torch", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Places:
    """Where export reads and writes.

    Attributes:
        model: the checkpoint.
        cases: the store, of which a case serves to compare.
        metrics: test scores to quote, or None.
        out: the bundle's folder.
    """

    model: Path
    cases: Path
    metrics: Path | None
    out: Path


def run(places: Places, form: Form, *, code: dict[str, str]) -> Parity:
    """Write a bundle, whole or not at all; an earlier bundle at its place is replaced.

    Args:
        places: where to read and write.
        form: of the graph.
        code: versions of the software, for the card.

    Returns:
        How far the graph is from the trained network.

    Raises:
        ModelError: there is no whole model, the scores are none, ``out`` holds something else than
            a bundle, or the graph does not compute what the network does.
        ParamsError: a library that the form needs is not installed, the model's windows are too
            small for it, or its preparation has parameters this version does not know.
        StoreError: the store is damaged.
    """
    _require_replaceable(places.out)
    checkpoint = load_checkpoint(places.model)
    fix = "use the liver3d it was trained with, or train it again"
    preparation_of(checkpoint.preprocess, places.model, made="was trained", fix=fix)
    _require_large_windows(checkpoint, form)
    metrics = read_metrics(places.metrics)
    sample = sample_of(places.cases, checkpoint)
    with replacing(places.out.resolve()) as partial:  # "." has no name of its own
        partial.mkdir()
        form.write(partial / form.file, checkpoint.network(), checkpoint.spec.hu_window)
        preparation = _preparation(checkpoint, partial / form.file, form)
        write_json(partial / FILE, sealed(preparation.model_dump(mode="json")))
        parity = _parity(checkpoint, form.open(partial), sample, form.smallest_side)
        require_parity(parity, f"the {form.file} of {places.model}")
        write_json(partial / PARITY, _record(parity, form))
        cases = training_cases(places.cases, checkpoint)
        card = Card(checkpoint, form, preparation, parity, cases, metrics)
        write_text(partial / CARD, card_text(card, code=code))
        for name in form.extras:
            shutil.copyfile(Path(__file__).with_name(name), partial / name)
    return parity


def _require_replaceable(out: Path) -> None:
    """Refuse a place that holds anything but a bundle: it would all be deleted."""
    if out.is_dir():
        names = {path.name for path in out.iterdir()}
        if not names or (FILE in names and names <= BUNDLE_FILES):
            return
        fact = "is a folder with other things than a bundle in it"
    elif out.exists():
        fact = "is a file"
    else:
        return
    raise ModelError(out, f"{fact}, which would be deleted", "name another folder with --out")


def _require_large_windows(checkpoint: Checkpoint, form: Form) -> None:
    window_zyx = checkpoint.spec.patch_zyx
    if window_zyx is not None and min(window_zyx) < form.smallest_side:
        sides = "·".join(map(str, window_zyx))
        fact = f"is {form.name}, which takes {form.smallest_side} voxels on every axis or more;"
        raise ParamsError("--to", f"{fact} the model's windows have {sides}", "use --to onnx")


def _preparation(checkpoint: Checkpoint, graph: Path, form: Form) -> Preparation:
    spec = checkpoint.spec
    digest = hashlib.sha256(graph.read_bytes()).hexdigest()
    return Preparation(
        graph=GraphFile(file=form.file, sha256=digest, smallest_side=form.smallest_side),
        preprocess=checkpoint.preprocess,
        window_zyx=spec.patch_zyx,
        hu_window=spec.hu_window,
        classes=spec.classes,
    )


def _parity(
    checkpoint: Checkpoint, exported: Network, sample: Sample, smallest_side: int
) -> Parity:
    spec = checkpoint.spec
    # contiguous and in float32, which is exact: channels last, torch's GroupNorm of 96·128·128
    # voxels on a CPU was off by 1e-3, and mixed precision is by more
    trained = OnHu(checkpoint.network(), spec.hu_window)
    return compared(
        trained, exported, sample, window_zyx=spec.patch_zyx, smallest_side=smallest_side
    )


def _record(parity: Parity, form: Form) -> dict[str, Any]:
    """What ``parity.json`` says."""
    return {
        "graph": form.file,
        "device": "cpu",
        "found": asdict(parity),
        "allowed": allowed(),
        "versions": {name: version for name in LIBRARIES if (version := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return installed(name)
    except PackageNotFoundError:  # a form of torch's own needs no other library
        return None
