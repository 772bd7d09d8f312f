"""Bytes, seconds and memory of the two pages with many cases, all of them made up.

    python -m benchmarks.pages --out DIR --qc-cases 10000 --report-cases 1000

Writes ``DIR/qc.html`` and ``DIR/reports/report.html``, to be opened in a browser. Pictures are
those of one made-up case, made different by bytes behind their end, which browsers pass over; a
tenth of the cases of ``qc.html`` has a problem. Memory is Python's own, at its peak.
"""

import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from scipy import ndimage

from stages.evaluate.background import Background
from stages.evaluate.distributions import distributions_picture
from stages.evaluate.pictures import case_picture as report_picture
from stages.evaluate.report import Report, write_report
from stages.evaluate.scores import CaseScores
from stages.evaluate.summary import summarise
from stages.preprocess.picture import case_picture as qc_picture
from stages.preprocess.problems import Problem
from stages.preprocess.qc import Card, write_qc

SHAPE_ZYX = (60, 256, 256)
SPACING_ZYX_MM = (3.0, 1.4, 1.4)


@dataclass(frozen=True)
class _Made:
    """A picture that is not in memory until it is asked for, as in an evaluation."""

    alike: bytes
    number: int
    error: None = None

    @property
    def png(self) -> bytes:
        return self.alike + b"%07d" % self.number


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write to.")
@click.option("--qc-cases", type=int, default=10_000, show_default=True)
@click.option("--report-cases", type=int, default=1_000, show_default=True)
def main(out: Path, qc_cases: int, report_cases: int) -> None:
    """Write both pages and print what they take."""
    volume, mask = _case()
    jpeg = qc_picture(volume, mask, SPACING_ZYX_MM)
    _measure(out / "qc.html", lambda path: _write_qc(path, jpeg, qc_cases))
    shifted = np.roll(mask, 3, axis=2)
    png = report_picture(
        volume, mask, shifted, spacing_zyx_mm=SPACING_ZYX_MM, hu_window=(-160, 240)
    ).png
    _measure(out / "reports" / "report.html", lambda path: _write_report(path, png, report_cases))


def _case() -> tuple[np.ndarray, np.ndarray]:
    """A noisy body with a liver, as bytes of pictures go: noise is most of them."""
    rng = np.random.default_rng(1)
    z, y, x = np.ogrid[tuple(slice(0, side) for side in SHAPE_ZYX)]
    body = ((y - 128) / 90) ** 2 + ((x - 128) / 115) ** 2 < 1
    liver = ((z - 30) / 22) ** 2 + ((y - 120) / 50) ** 2 + ((x - 90) / 55) ** 2 < 1
    smooth = ndimage.gaussian_filter(rng.normal(0, 1, SHAPE_ZYX), 1.0)
    hu = np.where(body, 40 + 70 * liver + 120 * smooth, -1000)
    return hu.astype(np.int16), np.broadcast_to(liver, SHAPE_ZYX).astype(np.uint8).copy()


def _measure(path: Path, write: Callable[[Path], None]) -> None:
    tracemalloc.start()
    began = time.perf_counter()
    write(path)
    seconds = time.perf_counter() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    beside = [file.stat().st_size for file in path.with_name(f"{path.stem}_files").iterdir()]
    click.echo(
        f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, and {len(beside)} pictures of "
        f"{sum(beside) / 1e6:.1f} MB beside it; {seconds:.1f} s, {peak / 1e6:.0f} MB in memory"
    )


def _write_qc(path: Path, jpeg: bytes, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    problems = [
        Problem("warning", "liver_volume", f"case-{at:05}", f"data/ct/{at:05}/ct.nii.gz",
                "has 412 ml of liver; 600 to 3,500 ml are usual", "look at its picture")
        for at in range(0, count, 10)
    ]  # fmt: skip
    write_qc(path, _cards(jpeg, count), problems)


def _cards(jpeg: bytes, count: int) -> Iterator[Card]:
    for at in range(count):
        yield Card(
            f"case-{at:05}", f"patient-{at // 2:05}", jpeg + b"%07d" % at, 1500.0,
            (88, 192, 224), (3.0, 1.5, 1.5), (200, 512, 512), (1.25, 0.703, 0.703),
        )  # fmt: skip


def _write_report(path: Path, png: bytes, count: int) -> None:
    rng = np.random.default_rng(2)
    scores = [
        CaseScores(
            f"case-{at:04}", f"patient-{at // 2:04}", "test", dice, dice / (2 - dice), dice, dice,
            4.0, 1.2, 0.8, 1500 * dice, 1500.0, 1500 * (dice - 1), 100 * (dice - 1),
        )
        for at, dice in enumerate(rng.beta(30, 2, count).tolist())
    ]  # fmt: skip
    pictures = [(one, _Made(png, at)) for at, one in enumerate(scores)]
    spread = distributions_picture(scores, scores)
    background = Background([("Network", "made up")], [], spread, None, [])
    write_report(path, Report(background, scores, scores, summarise(scores), spread, pictures, 2.0))


if __name__ == "__main__":
    main()
