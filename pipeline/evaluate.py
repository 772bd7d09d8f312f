"""``python -m pipeline.evaluate``: score the model on the source grid and write the report."""

from pathlib import Path

import torch

from cache.case import Role
from cache.errors import ModelError
from cache.manifest import Manifest, read_manifest
from pipeline.command import command, device_option, params_option, place_option, say
from pipeline.facts import facts, in_full, preparation_time, training_time
from pipeline.identity import evaluation_digest
from pipeline.params import read_params
from stages.evaluate.background import Background
from stages.evaluate.known_problems import read_problems
from stages.evaluate.one import Model
from stages.evaluate.run import run
from stages.evaluate.scores import CaseScores
from stages.evaluate.summary import summarise
from stages.evaluate.tables import case_lines, mean_line
from stages.evaluate.window import Network
from stages.machine import MORE_MEMORY, naming_shortage
from stages.preprocess.params import preparation_differences
from stages.train.checkpoints.checkpoint import Checkpoint, load_checkpoint
from stages.train.device import choose_device, network_on_hu
from stages.train.split import Split
from stages.train.watch.picture import curves_picture

WITHOUT_GPU = f"use --device cpu, {MORE_MEMORY}"


@command
@place_option("cases", "data/cases", "The store.")
@place_option("models", "models", "Folder with best.pt, last.pt and split.json.")
@place_option("problems", "data/problems.json", "What preparing the data found, for the report.")
@place_option("out", "reports", "Folder for metrics.json, cases.csv, report.html, predictions/.")
@device_option
@params_option
def main(
    cases: Path, models: Path, problems: Path, out: Path, device: str, params_file: Path
) -> None:
    """Score the best model on the test cases and write the report."""
    params = read_params(params_file)
    best, last = load_checkpoint(models / "best.pt"), load_checkpoint(models / "last.pt")
    manifest = read_manifest(cases)
    _require_same_preparation(best, manifest, models)
    chosen = choose_device(device)
    case_roles = roles(manifest, Split(**best.split))
    whole = last if last.run_key == best.run_key else best
    model = Model(
        network=_network(best, chosen),
        window_zyx=best.spec.patch_zyx,
        hu_window=best.spec.hu_window,
        smallest_side=best.spec.smallest_side,
        roles=case_roles,
        background=Background(
            facts=facts(best, manifest, case_roles, chosen),
            folded=in_full(best, params, manifest, case_roles),
            curves=curves_picture(whole.history),
            problems=read_problems(problems),
            times=[preparation_time(cases), training_time(whole)],
        ),
        digest=evaluation_digest(best, chosen),
    )
    with naming_shortage(f"a case on {chosen}", WITHOUT_GPU):
        scores = run(cases, out, params.evaluate, model=model, device=chosen)
    _print(scores, out / "report.html")


def roles(manifest: Manifest, split: Split) -> dict[str, Role]:
    """Each case's role in the training. A case whose patient the training never knew has none.

    The split is the one the model carries: ``split.json`` may be of a run begun since.
    """
    found = {id_: split.role_of(entry.patient_id) for id_, entry in manifest.cases.items()}
    return {case_id: role for case_id, role in found.items() if role is not None}


def _network(best: Checkpoint, device: torch.device) -> Network:
    with naming_shortage(f"the model on {device}", WITHOUT_GPU):
        return network_on_hu(best.network(), best.spec, device)


def _require_same_preparation(best: Checkpoint, manifest: Manifest, models: Path) -> None:
    if differing := preparation_differences(manifest.params, best.preprocess):
        fact = "the model was trained on data prepared with other parameters than the store's"
        fact = f"{fact}: {', '.join(differing)}"
        raise ModelError(models / "best.pt", fact, "run python -m dvc repro, or train again")


def _print(scores: list[CaseScores], report: Path) -> None:
    for line in case_lines(scores):
        say(line)
    tests = [score for score in scores if score.role == "test"] or scores
    say(mean_line(summarise(tests)))
    say(f"report: {report}")


if __name__ == "__main__":
    main()
