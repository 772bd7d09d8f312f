"""The CTs that stage one is measured on: phantoms of full size, or many tiny cases."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone uses

from benchmarks.measure import REPO, progress
from cache.errors import SourceError
from cache.files import write_json
from cache.grid import Triple
from pipeline.params import Params, read_params
from stages.phantom.run import run as make_phantoms
from stages.preprocess.scan import scan

SEED = 2026
SMALL_SHAPE_ZYX = (24, 28, 32)
SMALL_SPACING_XYZ_MM = (6.5, 6.0, 5.0)
SMALL_BODY = (slice(2, 22), slice(3, 25), slice(3, 29))  # z, y, x
SMALL_LIVER = (slice(5, 16), slice(6, 18), slice(8, 21))  # 335 ml: nothing in it is doubted
SUFFIX = ".nii.gz"


@dataclass(frozen=True)
class Source:
    """A CT and its label."""

    case_id: str
    ct: Path
    label: Path


def phantoms(folder: Path, count: int, shape_zyx: Triple) -> Path:
    """A folder of phantoms, made unless an earlier run left it whole."""
    src = folder / f"phantoms-{count}-{'x'.join(map(str, shape_zyx))}"
    stamp = {"count": count, "shape_zyx": list(shape_zyx), "seed": SEED}
    if not _is_stamped(src, stamp):
        progress(f"making {count} phantoms of {'·'.join(map(str, shape_zyx))}, kept in {src}")
        make_phantoms(src, count=count, shape_zyx=shape_zyx, seed=SEED)
        write_json(_stamp(src), stamp)
    return src


def small_cases(folder: Path, count: int) -> Path:
    """A folder of tiny cases, each with its own noise, made unless an earlier run left it whole."""
    src = folder / f"small-{count}"
    stamp = {"count": count, "shape_zyx": list(SMALL_SHAPE_ZYX), "seed": SEED}
    if not _is_stamped(src, stamp):
        progress(f"making {count} tiny cases")
        for index in range(count):
            _write_small(src, index)
        write_json(_stamp(src), stamp)
    return src


def sources_in(src: Path) -> list[Source]:
    """The cases of a data set in any layout that stage one knows, CTs and labels in files.

    Raises:
        click.UsageError: there is none, a layout is not recognised, or a case is a folder of
            slices, which neither the limit nor the peers read.
    """
    try:
        found = scan(src, layout="auto", exclude=(), patient_id=None, rules=preset().rules)
    except SourceError as error:
        raise click.UsageError(str(error)) from error
    folders = [one.case_id for one in found.cases if one.ct.is_dir() or one.label.is_dir()]
    if folders:
        fact = f"{len(folders)} cases are folders of slices, such as {folders[0]}"
        raise click.UsageError(f"{src}: {fact}; turn them into files, such as {SUFFIX}, first")
    if not found.cases:
        raise click.UsageError(f"{src}: no case can be prepared; {found.reason}")
    return [Source(one.case_id, one.ct, one.label) for one in found.cases]


def require_nifti(sources: list[Source]) -> None:
    """Refuse CTs that the peers cannot be given as they are: nnU-Net goes by the ending.

    Raises:
        click.UsageError: a CT or label does not end in .nii.gz.
    """
    others = [path.name for one in sources for path in (one.ct, one.label)
              if not path.name.endswith(SUFFIX)]  # fmt: skip
    if others:
        raise click.UsageError(f"--peers takes {SUFFIX} alone; {len(others)} are not: {others[0]}")


def preset() -> Params:
    """The parameters of every run that is measured, before a variant changes some."""
    return read_params(REPO / "presets" / "liver.yaml")


def largest_bytes(sources: list[Source]) -> int:
    """Bytes of the largest CT as int16 in memory, from the headers alone."""
    return max(2 * math.prod(_size(source.ct)) for source in sources)


def _size(path: Path) -> tuple[int, ...]:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return tuple(reader.GetSize())


def _stamp(src: Path) -> Path:
    # beside the folder: in it, it would be a file that the scan has to explain
    return src.with_name(f"{src.name}.json")


def _is_stamped(src: Path, stamp: dict[str, object]) -> bool:
    """Whether the folder was finished, from the same numbers."""
    path = _stamp(src)
    return src.is_dir() and path.is_file() and json.loads(path.read_text(encoding="utf-8")) == stamp


def _write_small(src: Path, index: int) -> None:
    """A noisy body in air with a brighter liver, and its label."""
    rng = np.random.default_rng((SEED, index))
    label = np.zeros(SMALL_SHAPE_ZYX, np.uint8)
    label[SMALL_LIVER] = 1
    volume = np.full(SMALL_SHAPE_ZYX, -1000, np.int16)
    volume[SMALL_BODY] = rng.integers(-30, 31, volume[SMALL_BODY].shape)
    volume[SMALL_LIVER] += 110
    case_id = f"small-{index:04d}"
    for kind, voxels in (("image", volume), ("label", label)):
        image = sitk.GetImageFromArray(voxels)
        image.SetSpacing(SMALL_SPACING_XYZ_MM)
        image.SetOrigin((-100.0, -80.0, 40.0))
        path = src / kind / case_id / f"{case_id}{SUFFIX}"
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)
