"""Seconds to score one case on one core: ours, Google's surface-distance, MONAI's metrics.

    python -m benchmarks.scores

The pairs are a liver of about 1.5 l in 512·512·200 voxels and three predictions of it: wrong along
its edge; the same with six false islands in the corners of the CT, so that the box of both is
nearly the whole CT; and the whole body, the worst case. All tools get the same masks in memory and
take turns in one process, bound to one core; of each, the median of the rounds counts. Ours is
``score_case`` with everything it gives; Google's is its distances and the three scores read off
them; MONAI's are three calls, which look for the surfaces anew each time. MONAI's are left out for
the body, where a k-d tree takes minutes.

Google's package is in the ``test`` extra.
"""

import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import click
import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone uses
import surface_distance as google
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.measure import machine, progress, versions
from cache.grid import Grid, Triple, triple
from stages.evaluate.overlap import overlap
from stages.evaluate.scores import score_case

SPACING_ZYX_MM = (1.5, 0.7, 0.7)
TOLERANCE_MM = 2.0
LIVER_MM = (65.0, 75.0, 75.0)  # half axes before its surface is bent
CENTRE = (0.55, 0.5, 0.35)  # of the liver, as shares of the CT's sides
BENT, WRONG = 0.06, 0.02  # of those half axes: how much the truth's and the error's waves shift it
WAVES = (20, 32, 32)  # random numbers along each axis, interpolated
ISLANDS = ((0.1, 0.1, 0.9), (0.9, 0.9, 0.95), (0.5, 0.05, 0.93))  # and their opposites
BODY = "the body"

Flags = NDArray[np.bool_]
Found = tuple[float, float, float]  # HD95 mm, ASSD mm, surface Dice
Tool = Callable[[Flags, Flags], Found]


@dataclass(frozen=True)
class Row:
    """One tool on one pair.

    Attributes:
        seconds: of every round.
        found: what it computed.
    """

    seconds: list[float]
    found: Found


@click.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--shape-zyx", type=(int, int, int), default=(200, 512, 512), show_default=True)
def main(rounds: int, shape_zyx: Triple) -> None:
    """Print the table."""
    print(f"python -m benchmarks.scores --rounds {rounds}")
    packages = ["numpy", "scipy", "SimpleITK", "monai", "surface-distance-based-measures"]
    print("\n".join([*machine(), versions(packages)]))
    print("every tool in the same process on one core, median of the rounds")
    one_core()
    # Google's module asks for names that scipy will drop, MONAI's for arguments of its own
    warnings.simplefilter("ignore")
    for name, prediction, truth in pairs(triple(shape_zyx)):
        print(f"\n{name}: Dice {overlap(prediction, truth).dice:.4f}")
        print(f"{'':34}{'s':>8}{'x ours':>8}{'HD95 mm':>10}{'ASSD mm':>10}{'surface Dice':>14}")
        table(measured(name, prediction, truth, rounds))


def one_core() -> None:
    """Keep this process to one core and one thread."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def measured(name: str, prediction: Flags, truth: Flags, rounds: int) -> dict[str, Row]:
    """Every tool's rounds, taking turns."""
    rows: dict[str, Row] = {}
    tools = {tool: run for tool, run in TOOLS.items() if not (name == BODY and "MONAI" in tool)}
    for _ in range(rounds):
        for tool, run in tools.items():
            start = time.perf_counter()
            found = run(prediction, truth)
            seconds = time.perf_counter() - start
            progress(f"{name}, {tool}: {seconds:.2f} s")
            rows.setdefault(tool, Row([], found)).seconds.append(seconds)
    return rows


def table(rows: dict[str, Row]) -> None:
    """Print a line for each tool."""
    medians = {tool: statistics.median(row.seconds) for tool, row in rows.items()}
    for tool, row in rows.items():
        ratio = medians[tool] / medians["ours, all scores"]
        found = [
            f"{value:{width}}" if np.isfinite(value) else " " * int(width.partition(".")[0])
            for value, width in zip(row.found, ("10.3f", "10.4f", "14.4f"), strict=True)
        ]
        print(f"  {tool:32}{medians[tool]:8.2f}{ratio:8.1f}{''.join(found)}".rstrip(), flush=True)


def ours(prediction: Flags, truth: Flags) -> Found:
    """All of a case's scores."""
    grid = Grid(triple(truth.shape), SPACING_ZYX_MM)
    pair = {"prediction": (prediction, grid), "truth": (truth, grid)}
    scores = score_case("case", "patient", "", **pair, tolerance_mm=TOLERANCE_MM)
    return scores.hd95_mm, scores.assd_mm, scores.surface_dice


def googles(prediction: Flags, truth: Flags) -> Found:
    """Google's package; its two mean distances are joined by the surfaces' areas."""
    ways = google.compute_surface_distances(truth, prediction, SPACING_ZYX_MM)
    means = google.compute_average_surface_distance(ways)
    areas = ways["surfel_areas_gt"].sum(), ways["surfel_areas_pred"].sum()
    return (
        google.compute_robust_hausdorff(ways, 95),
        np.average(means, weights=areas),
        google.compute_surface_dice_at_tolerance(ways, TOLERANCE_MM),
    )


def monais(prediction: Flags, truth: Flags) -> Found:
    """MONAI's metrics as they come: surfaces are voxels, and every voxel counts the same."""
    pair, how = _tensors(prediction, truth), {"include_background": True, "spacing": SPACING_ZYX_MM}
    return (
        float(compute_hausdorff_distance(*pair, percentile=95, **how)),
        float(compute_average_surface_distance(*pair, symmetric=True, **how)),
        float(compute_surface_dice(*pair, [TOLERANCE_MM], **how)),
    )


def monais_subvoxel_dice(prediction: Flags, truth: Flags) -> Found:
    """MONAI's surface Dice with the surface elements that we have too."""
    pair, how = _tensors(prediction, truth), {"include_background": True, "spacing": SPACING_ZYX_MM}
    dice = compute_surface_dice(*pair, [TOLERANCE_MM], use_subvoxels=True, **how)
    return np.nan, np.nan, float(dice)


TOOLS: dict[str, Tool] = {
    "ours, all scores": ours,
    "Google's surface-distance": googles,
    "MONAI, voxels": monais,
    "MONAI, surface Dice, subvoxels": monais_subvoxel_dice,
}


def _tensors(*masks: Flags) -> list[torch.Tensor]:
    return [torch.from_numpy(mask)[None, None] for mask in masks]


def pairs(shape_zyx: Triple) -> Iterator[tuple[str, Flags, Flags]]:
    """The three predictions and the truth; the same ones every time."""
    rng = np.random.default_rng(0)
    sides = zip(shape_zyx, CENTRE, SPACING_ZYX_MM, LIVER_MM, strict=True)
    axes = [(np.arange(n) - share * n) * mm / half for n, share, mm, half in sides]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    level = (1 - np.sqrt(z**2 + y**2 + x**2)).astype(np.float32) + BENT * _waves(rng, shape_zyx)
    truth, prediction = level > 0, level + WRONG * _waves(rng, shape_zyx) > 0
    yield "wrong along the edge", prediction, truth
    yield "the same and six islands", prediction | _islands(shape_zyx), truth
    rows, columns = np.ogrid[tuple(slice(-1, 1, side * 1j) for side in shape_zyx[1:])]
    body = (rows / 0.8) ** 2 + (columns / 0.9) ** 2 <= 1
    yield BODY, np.broadcast_to(body, shape_zyx).copy(), truth


def _waves(rng: np.random.Generator, shape_zyx: Triple) -> NDArray[np.float32]:
    """A smooth random field with a standard deviation of about 1."""
    coarse = ndimage.gaussian_filter(rng.standard_normal(WAVES), 1.2)
    zooms = [side / waves for side, waves in zip(shape_zyx, WAVES, strict=True)]
    return ndimage.zoom((coarse / coarse.std()).astype(np.float32), zooms, order=1)


def _islands(shape_zyx: Triple) -> Flags:
    """Six balls of 3 to 8 voxels' radius, near corners."""
    places = [*ISLANDS, *([1 - share for share in place] for place in ISLANDS)]
    grid = np.ogrid[tuple(slice(0, side) for side in shape_zyx)]
    islands = np.zeros(shape_zyx, bool)
    for radius, place in enumerate(places, 3):
        far = [
            axis - share * side for axis, share, side in zip(grid, place, shape_zyx, strict=True)
        ]
        islands |= sum(axis**2 for axis in far) <= radius**2
    return islands


if __name__ == "__main__":
    main()
