"""The peak memory of ``pipeline.predict``, of a CT as large as they come."""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone uses

from benchmarks.bench import at_most
from benchmarks.measure import progress, run_watched
from benchmarks.sources import sources_in

LARGE_ZYX = (1000, 512, 512)
LARGE_SPACING_XYZ_MM = (0.8, 0.8, 1.0)
MOST_GB = 4.0


def large_ct(scratch: Path, model: Path, src: Path) -> list[str]:
    """The peak memory of the command, of a CT as large as they come."""
    ct = scratch / "large.nii.gz"
    if not ct.is_file():
        progress(f"writing a CT of {by(LARGE_ZYX)}")
        write_large(sources_in(src)[0].ct, ct)
    lines = ["", f"a CT of {by(LARGE_ZYX)} voxels, int16, {ct.stat().st_size / 1e6:.0f} MB"]
    for flags in ([], ["--probabilities"]):
        command = ["pipeline.predict", "--model", model, "--ct", ct, "--device", "cpu", *flags]
        command += ["--overlap", "0"]
        out = scratch / "large-mask.nii.gz"
        start = time.perf_counter()
        peaks = run_watched([sys.executable, "-m", *command, "--out", out])
        seconds = time.perf_counter() - start
        name = " ".join(["pipeline.predict", *flags])
        gigabytes = peaks.main / 1e9
        bar = at_most(gigabytes, MOST_GB, "GB")
        lines.append(f"  {name:36}{seconds:8.0f} s{gigabytes:8.2f} GB   {bar}")
        progress(lines[-1])
    return lines


def write_large(ct: Path, path: Path) -> None:
    """A CT that repeats another one's slices, there and back, until there are enough."""
    hu = sitk.GetArrayFromImage(sitk.ReadImage(str(ct), sitk.sitkInt16))
    slices, rows, columns = LARGE_ZYX
    there_and_back = np.concatenate([hu, hu[::-1]])
    several = np.concatenate([there_and_back] * (slices // len(there_and_back) + 1))[:slices]
    wide = np.full(LARGE_ZYX, -1000, np.int16)
    wide[:, : hu.shape[1], : hu.shape[2]] = several[:, :rows, :columns]
    image = sitk.GetImageFromArray(wide)
    image.SetSpacing(LARGE_SPACING_XYZ_MM)
    sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)


def by(sides: Any) -> str:
    """A shape, as it is printed."""
    return "·".join(str(side) for side in sides)
