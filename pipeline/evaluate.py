"""``python -m pipeline.evaluate``: score the model on the source grid and write the report."""

from pathlib import Path
from typing import Any

import click
import torch

from cache.case import Role
from cache.errors import ModelError
from cache.manifest import Manifest, read_manifest
from pipeline.command import command, device_option, params_option, place_option
from pipeline.params import read_params
from pipeline.version import liver3d_version
from stages.evaluate.run import Model, run
from stages.evaluate.scores import CaseScores
from stages.evaluate.summary import summarise
from stages.evaluate.tables import case_lines, mean_line
from stages.train.checkpoints.checkpoint import Checkpoint, load_checkpoint
from stages.train.device import choose_device, network_on_hu
from stages.train.memory import explained_shortage
from stages.train.split import Split
from stages.train.watch.picture import curves_picture


@command
@place_option("cases", "data/cases", "The store.")
@place_option("models", "models", "Folder with best.pt, last.pt and split.json.")
@place_option("out", "reports", "Folder for metrics.json, cases.csv, report.html, predictions/.")
@device_option
@params_option
def main(cases: Path, models: Path, out: Path, device: str, params_file: Path) -> None:
    """Score the best model on the test cases and write the report."""
    params = read_params(params_file)
    best, last = load_checkpoint(models / "best.pt"), load_checkpoint(models / "last.pt")
    manifest = read_manifest(cases)
    _require_same_preparation(best, manifest, models)
    chosen = choose_device(device)
    model = _model(best, last, roles(manifest, Split(**best.split)), chosen)
    with explained_shortage(chosen):
        scores = run(cases, out, params.evaluate, model=model, device=chosen)
    _print(scores, out / "report.html")


def roles(manifest: Manifest, split: Split) -> dict[str, Role]:
    """Each case's role in the training. A case whose patient the training never knew has none.

    The split is the one the model carries: ``split.json`` may be of a run begun since.
    """
    found = {id_: split.role_of(entry.patient_id) for id_, entry in manifest.cases.items()}
    return {case_id: role for case_id, role in found.items() if role is not None}


def _require_same_preparation(best: Checkpoint, manifest: Manifest, models: Path) -> None:
    ours, theirs = ({**params, "format": None} for params in (best.preprocess, manifest.params))
    if ours != theirs:
        fact = "the model was trained on data prepared with other parameters than the store's"
        raise ModelError(models / "best.pt", fact, "run python -m dvc repro, or train again")


def _model(
    best: Checkpoint, last: Checkpoint, case_roles: dict[str, Role], device: torch.device
) -> Model:
    train = best.params()
    return Model(
        network=network_on_hu(best.network(), train, device),
        window_zyx=train.patch_zyx,
        hu_window=train.hu_window,
        curves=curves_picture((last if last.run_key == best.run_key else best).history),
        facts=_facts(best, case_roles, device),
        roles=case_roles,
    )


def _facts(
    best: Checkpoint, case_roles: dict[str, Role], device: torch.device
) -> list[tuple[str, str]]:
    weights = sum(weight.numel() for weight in best.model.values())
    counts = [list(case_roles.values()).count(role) for role in ("train", "validation", "test")]
    return [
        (
            "Network",
            f"UNet3d, {weights:,} weights; {_text(best.train, 'n_channels', 'upsampling')}",
        ),
        (
            "Trained",
            f"best after {best.epoch} of {best.train['epochs']} epochs; "
            f"{_text(best.train, 'loss', 'lr', 'schedule')}, seed {best.seed}",
        ),
        ("Patches", _text(best.train, "patch_zyx", "hu_window", "foreground_share")),
        ("Prepared", _text(best.preprocess, "crop", "grid", "spacing_zyx_mm", "shape_zyx")),
        ("Cases", "{} for training, {} for validation, {} for testing".format(*counts)),
        ("Data", f"digest {best.data_digest[:16]}"),
        ("Began with", _text(best.began_from, "file", "digest") or "random weights"),
        ("Trained by", ", ".join(f"{name} {version}" for name, version in best.code.items())),
        ("Scored by", f"liver3d {liver3d_version()}, torch {torch.__version__} on {device}"),
    ]


def _text(section: dict[str, Any], *names: str) -> str:
    return ", ".join(f"{name} {section[name]}" for name in names if section.get(name) is not None)


def _print(scores: list[CaseScores], report: Path) -> None:
    for line in case_lines(scores):
        click.echo(line)
    tests = [score for score in scores if score.role == "test"] or scores
    click.echo(mean_line(summarise(tests)))
    click.echo(f"report: {report}")


if __name__ == "__main__":
    main()
