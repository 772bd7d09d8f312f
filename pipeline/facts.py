"""What the report says of a model: what was trained on what, by which software, how long.

No path, name of a machine or of a person is among it: a report goes to others.
"""

import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cache.case import Role
from cache.manifest import Manifest
from pipeline.params import Params
from pipeline.version import code_version
from stages.evaluate.background import Folded, StageTime
from stages.machine import processors
from stages.preprocess.times import noted_time
from stages.train.checkpoints.checkpoint import Checkpoint

CPU_NAMES = Path("/proc/cpuinfo")  # where Linux tells them
DIGITS = 16  # of a digest: enough to tell two apart
ROLES: tuple[Role, ...] = ("train", "validation", "test")


def facts(
    best: Checkpoint, manifest: Manifest, roles: dict[str, Role], device: torch.device
) -> list[tuple[str, str]]:
    """Pairs of a name and a value, in the order to show.

    Args:
        best: the model.
        manifest: of the store it is scored on.
        roles: each case's role in its training, by case id.
        device: what it is scored on.
    """
    spec = best.spec.model_dump(mode="json")
    weights = sum(weight.numel() for weight in best.model.values())
    dice = "" if best.best_dice is None else f" with a validation Dice of {best.best_dice:.4f}"
    return [
        (
            "Network",
            f"UNet3d, {weights:,} weights; {_text(spec, 'n_channels', 'upsampling')}",
        ),
        (
            "Trained",
            f"best after {best.epoch} of {best.train.get('epochs', '?')} epochs{dice}; "
            f"{_text(best.train, 'loss', 'optimizer', 'lr', 'schedule')}, seed {best.seed}",
        ),
        ("Patches", _text({**best.train, **spec}, "patch_zyx", "hu_window", "foreground_share")),
        ("Prepared", _text(best.preprocess, "crop", "grid", "spacing_zyx_mm", "shape_zyx")),
        ("Cases", ", ".join(_counts(manifest, roles))),
        ("Data", _data(best, manifest)),
        ("Began with", _beginning(best)),
        ("Trained by", _versions(best.code)),
        ("Scored by", _versions({**code_version(), "Python": platform.python_version()})),
        ("Scored on", f"{platform.system()} {platform.machine()}, {_device_name(device)}"),
    ]


def in_full(
    best: Checkpoint, params: Params, manifest: Manifest, roles: dict[str, Role]
) -> list[Folded]:
    """All parameters in effect, and the cases with the digests of their CTs."""
    cases = [
        (entry.case_id, entry.patient_id, roles.get(case_id, "not in the training's split"),
         f"{entry.liver_ml:,.0f}", entry.ct_digest[:DIGITS], entry.key[:DIGITS])
        for case_id, entry in sorted(manifest.cases.items())
    ]  # fmt: skip
    columns = ("Case", "Patient", "Role", "Liver, ml", "CT's digest", "Key of the prepared case")
    return [
        _parameters("Parameters of the training", best.train),
        _parameters("Parameters of the preparation", best.preprocess),
        _parameters("Rules for the data", params.rules.model_dump(mode="json")),
        _parameters("Parameters of the evaluation", params.evaluate.model_dump(mode="json")),
        Folded("Cases of the store", columns, cases),
    ]


def preparation_time(cases: Path) -> StageTime:
    """How long the run took that last prepared a case of a store."""
    noted = noted_time(cases)
    if noted is None:
        return StageTime("Preparation", None)
    kept = f"; {noted.kept} were there already" if noted.kept else ""
    word = "case" if noted.prepared == 1 else "cases"
    return StageTime("Preparation", noted.seconds, f"{noted.prepared} {word} prepared{kept}")


def training_time(last: Checkpoint) -> StageTime:
    """How long a training took, all restarts together, and how much of it was spent waiting."""
    waiting = waiting_share(last.history)
    waited = "" if waiting is None else f"; waited for data {waiting:.1%} of the time"
    note = f"{last.epoch} epochs, validation included{waited}"
    return StageTime("Training", last.trained_s or None, note)


def waiting_share(history: list[dict[str, float]]) -> float | None:
    """The share of the time that a device waited for data, over all epochs.

    Args:
        history: rows with ``time/minutes``, counted from the beginning, and ``loader/waiting``.

    Returns:
        The mean over epochs by their lengths, 0 to 1; None if nothing was recorded.
    """
    waited, total, before = 0.0, 0.0, 0.0
    for row in history:
        if "time/minutes" in row and "loader/waiting" in row:
            length = row["time/minutes"] - before
            waited, total = waited + length * row["loader/waiting"], total + length
            before = row["time/minutes"]
    return waited / total if total > 0 else None


def _text(section: dict[str, Any], *names: str) -> str:
    return ", ".join(f"{name} {section[name]}" for name in names if section.get(name) is not None)


def _counts(manifest: Manifest, roles: dict[str, Role]) -> Iterator[str]:
    for role, words in zip(ROLES, ("training", "validation", "testing"), strict=True):
        ids = [case_id for case_id, its in roles.items() if its == role]
        patients = {manifest.cases[case_id].patient_id for case_id in ids}
        who = "patient" if len(patients) == 1 else "patients"
        yield f"{len(ids)} for {words} ({len(patients)} {who})"


def _data(best: Checkpoint, manifest: Manifest) -> str:
    trained = f"digest {best.data_digest[:DIGITS]}"
    if manifest.digest == best.data_digest:
        return trained
    return f"trained on {trained}, scored on digest {manifest.digest[:DIGITS]}"


def _beginning(best: Checkpoint) -> str:
    if not best.began_from:
        return "random weights"
    return f"{best.began_from['file']}, digest {best.began_from['digest'][:DIGITS]}"


def _versions(code: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in code.items()) or "not recorded"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    count = processors()
    return f"{count} {'processor' if count == 1 else 'processors'} {_cpu_name()}".rstrip()


def _cpu_name() -> str:
    try:
        lines = CPU_NAMES.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def _parameters(title: str, section: dict[str, Any]) -> Folded:
    return Folded(title, ("Parameter", "Value"), list(_flat(section)))


def _flat(section: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", json.dumps(value, ensure_ascii=False, default=str)
