"""Predicting CTs: seconds by step and peak memory, ours beside MONAI's, in one run.

    python -m benchmarks.predict --scratch DIR --peers-python PYTHON --out FILE.txt
    python -m benchmarks.predict --scratch DIR --large --out FILE.txt

Phantoms of params.yaml at full size (kept in --scratch for the next run), and a network with the
weights of no training: liver is what is much brighter than the rest, so that masks are of a liver's
kind. Every CT is predicted in a process of its own, ours and MONAI's taking turns with the same
network, window and overlap; the fastest round counts. MONAI's is benchmarks/peers/monai_predict.py;
Dice is between both masks, which differ where the two ways resample and crop in other ways.

Then the sliding window alone, both in this process over the same prepared CT: seconds, and the
largest difference between the probabilities.

--large: a CT of 1000 slices of 512 x 512 voxels, int16, predicted by ``pipeline.predict``: the
highest resident memory of its process, and with --probabilities. Windows do not overlap there,
which saves time and changes nothing in the memory.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone uses
import torch

from benchmarks.bench import at_most
from benchmarks.measure import (
    REPO,
    CommandError,
    machine,
    progress,
    settle,
    versions,
)
from benchmarks.peers.compare import version_in
from benchmarks.predict_large import by, large_ct
from benchmarks.predict_steps import STEPS, Figures, predict_in_steps, write_model
from benchmarks.sources import phantoms, sources_in
from cache.grid import Triple, triple
from stages.evaluate.overlap import overlap
from stages.evaluate.window import Network, Probability, Windows, liver_probability
from stages.predict.model import load_ensemble
from stages.preprocess.inspect import ct_to_predict
from stages.preprocess.prepare import prepare_volume

PEER = REPO / "benchmarks" / "peers" / "monai_predict.py"
PATCH_ZYX = (96, 128, 128)
NOT_SLOWER = 1.05  # x: runs of the very same differ by as much
CPU = torch.device("cpu")
FolderType = click.Path(path_type=Path, file_okay=False)
FileType = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--scratch", type=FolderType, required=True, help="For phantoms, model and masks.")
@click.option("--peers-python", default=sys.executable, help="Of the environment MONAI is in.")
@click.option("--count", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--shape-zyx", nargs=3, type=int, default=(200, 512, 512), show_default=True)
@click.option("--patch-zyx", nargs=3, type=int, default=PATCH_ZYX, show_default=True)
@click.option("--channels", default=24, show_default=True, help="Of the network's first level.")
@click.option("--rounds", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--large", is_flag=True, help="Only the peak memory of a CT of 1000 slices.")
@click.option("--out", type=FileType, help="For the table.")
@click.option("--worker", type=FileType, nargs=3, hidden=True)
def main(
    scratch: Path,
    peers_python: str,
    count: int,
    shape_zyx: Triple,
    patch_zyx: Triple,
    channels: int,
    rounds: int,
    large: bool,
    out: Path | None,
    worker: tuple[Path, Path, Path] | None,
) -> None:
    """Measure and print a table; ``--worker MODEL CT MASK`` is for its own use."""
    if worker:
        print(json.dumps(predict_in_steps(*worker)))
        return
    lines = [*machine(), versions(["torch", "monai", "SimpleITK", "numpy"])]
    lines.append(f"{channels} channels, patches of {by(patch_zyx)}, overlap 0.5, to 1.5 mm")
    scratch.mkdir(parents=True, exist_ok=True)
    model = write_model(scratch / "model.pt", channels, patch_zyx)
    src = phantoms(scratch, count, shape_zyx)
    try:
        if large:
            lines += large_ct(scratch, model, src)
        else:
            lines += beside_monai(scratch, model, src, peers_python=peers_python, rounds=rounds)
            lines += window_alone(model, sources_in(src)[0].ct, rounds)
    except CommandError as error:
        raise click.ClickException(str(error)) from error
    print("\n".join(lines), flush=True)
    if out:
        out.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def beside_monai(
    scratch: Path, model: Path, src: Path, *, peers_python: str, rounds: int
) -> list[str]:
    """A process for each CT, ours and MONAI's in turns."""
    monai = version_in(peers_python, "monai")
    heads = "".join(f"{head:>10}" for head in (*STEPS, "all", "process", "peak GB", "windows"))
    lines = ["", f"{'seconds, fastest of ' + str(rounds):24}{heads}"]
    for source in sources_in(src):
        masks = {name: scratch / name / f"{source.case_id}.nii.gz" for name in ("ours", "MONAI")}
        for mask in masks.values():
            mask.parent.mkdir(exist_ok=True)
        ours = [sys.executable, "-m", "benchmarks.predict", "--scratch", scratch, "--worker"]
        commands: dict[str, list[str | Path]] = {
            "ours": [*ours, model, source.ct, masks["ours"]],
            "MONAI": [peers_python, PEER, model, source.ct, masks["MONAI"], "0.5"],
        }
        said: dict[str, list[Figures]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                said[name].append(_told(command))
                progress(f"{source.case_id}, {name}: {said[name][-1]['process']:.1f} s")
        least = {name: min(each, key=lambda one: one["process"]) for name, each in said.items()}
        lines.append(source.case_id)
        lines += [
            _row("  ours", least["ours"]),
            _row(f"  MONAI {monai}", least["MONAI"]),
            f"  Dice between both {_dice(masks):.4f}; "
            + at_most(
                least["ours"]["process"] / least["MONAI"]["process"], NOT_SLOWER, "x MONAI's"
            ),
        ]
    return lines


def _told(command: list[str | Path]) -> Figures:
    """What a process prints of its steps, and its seconds from start to end.

    Raises:
        CommandError: it failed.
    """
    settle()
    start = time.perf_counter()
    words = [str(word) for word in command]
    ended = subprocess.run(words, cwd=REPO, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if ended.returncode:
        raise CommandError(" / ".join(ended.stderr.strip().splitlines()[-2:]))
    figures: Figures = json.loads(ended.stdout.splitlines()[-1])
    return {**figures, "process": seconds}


def _row(name: str, figures: Figures) -> str:
    steps = [figures[step] for step in STEPS]
    seconds = "".join(f"{each:10.2f}" for each in (*steps, sum(steps), figures["process"]))
    return f"{name:24}{seconds}{figures['peak_bytes'] / 1e9:10.2f}{figures['windows']:10d}"


def _dice(masks: dict[str, Path]) -> float:
    ours, theirs = (sitk.GetArrayFromImage(sitk.ReadImage(str(mask))) for mask in masks.values())
    return overlap(ours, theirs).dice


@torch.inference_mode()
def window_alone(model: Path, ct: Path, rounds: int) -> list[str]:
    """Ours and MONAI's sliding window over the same prepared CT, in this process, in turns."""
    from monai.inferers.utils import sliding_window_inference

    ensemble = load_ensemble([model], "cpu")
    source, hu, _ = ct_to_predict(ct)
    volume = prepare_volume(source, hu, ensemble.preprocess).volume
    network, window = ensemble.models[0].network, ensemble.window_zyx

    def theirs(network: Network) -> Any:
        return sliding_window_inference(
            torch.from_numpy(volume)[None, None].float(),
            window,
            1,
            lambda patch: network(patch).softmax(dim=1)[:, 1:],
            overlap=0.5,
            mode="gaussian",
            cval=-1000,
        )[0, 0].numpy()

    def ours(network: Network) -> Probability:
        return liver_probability(network, volume, window_zyx=window, overlap=0.5, device=CPU)

    ways, seconds, found = {"ours": ours, "MONAI": theirs}, {"ours": [], "MONAI": []}, {}
    for number in range(rounds):
        for name in list(ways)[:: 1 if number % 2 else -1]:  # nobody is always the first
            way = ways[name]
            start = time.perf_counter()
            found[name] = way(network)
            seconds[name].append(time.perf_counter() - start)
            progress(f"window alone, {name}: {seconds[name][-1]:.1f} s")
    least = {name: min(each) for name, each in seconds.items()}
    windows = Windows.over(triple(volume.shape), window, 0.5).count
    difference = float(np.abs(found["ours"] - found["MONAI"]).max())
    return [
        "",
        f"the window alone, {by(volume.shape)} voxels, {windows} windows, fastest of {rounds}",
        f"  ours {least['ours']:.2f} s, sliding_window_inference {least['MONAI']:.2f} s; "
        + at_most(least["ours"] / least["MONAI"], NOT_SLOWER, "x MONAI's"),
        f"  largest difference of the probability {difference:.1e}",
    ]


if __name__ == "__main__":
    main()
