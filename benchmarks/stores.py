"""Stores that loaders are measured on, written straight from arrays: no CT files, no stage one."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.case import CaseInfo, Mask, PreparedCase, Volume
from cache.formats import backends
from cache.grid import Box, Grid, Triple, TripleMm
from cache.manifest import Manifest, entry_of, write_manifest
from cache.reader import CaseStore
from cache.writer import write_case

MOST_FOREGROUND = 4000  # voxels of a case
SPACING_ZYX_MM = (1.5, 0.8, 0.8)
TISSUE_HU, LIVER_HU, AIR_HU = 40, 110, -1000
NOISE_HU = 20  # standard deviation; without it, chunks would decode faster than those of a CT


@dataclass(frozen=True)
class Scan:
    """A case in memory.

    Attributes:
        volume: int16 HU, (Z, Y, X).
        mask: uint8 0/1, likewise.
    """

    case_id: str
    volume: Volume
    mask: Mask
    spacing_zyx_mm: TripleMm = SPACING_ZYX_MM


def ellipsoids(count: int, shape_zyx: Triple) -> Iterator[Scan]:
    """Noisy CTs of a body with a liver, both ellipses; made one by one, each elsewhere."""
    for index in range(count):
        rng = np.random.default_rng((index, *shape_zyx))
        shift = rng.uniform(-0.1, 0.1, 3)
        body = _ellipsoid(shape_zyx, (0.0, 0.0, 0.0), (9.0, 0.8, 0.9))
        liver = _ellipsoid(shape_zyx, np.add((0.0, -0.1, -0.3), shift), (0.6, 0.35, 0.45))
        volume = np.where(body, np.int16(TISSUE_HU), np.int16(AIR_HU))
        volume[liver] = LIVER_HU
        noise = rng.standard_normal(shape_zyx, np.float32)
        noise *= NOISE_HU
        volume += noise.astype(np.int16)
        yield Scan(f"case-{index:04d}", volume, liver.astype(np.uint8))


def scans_of(store: CaseStore) -> Iterator[Scan]:
    """The cases of a store, one by one."""
    for case_id in store.case_ids:
        spacing = store.manifest.cases[case_id].spacing_zyx_mm
        yield Scan(case_id, store.image(case_id), store.mask(case_id), spacing)


def write_store(root: Path, scans: Iterable[Scan], name: str) -> Path:
    """Write scans as a store of a format, "zarr" or "hdf5", with its manifest last."""
    entries = {}
    for scan in scans:
        case = _prepared(scan)
        path = write_case(root, case, backends()[name])
        entries[scan.case_id] = entry_of(case.info, root, path)
    write_manifest(root, Manifest(entries, {"format": name}))
    return root


def write_arrays(folder: Path, scans: Iterable[Scan]) -> Path:
    """Write scans as ``.npy`` files, the fastest that peers can be given."""
    folder.mkdir(parents=True)
    for scan in scans:
        np.save(folder / f"{scan.case_id}-image.npy", scan.volume)
        np.save(folder / f"{scan.case_id}-mask.npy", scan.mask)
    return folder


def _prepared(scan: Scan) -> PreparedCase:
    grid = Grid(scan.volume.shape, scan.spacing_zyx_mm)
    info = CaseInfo(
        case_id=scan.case_id,
        patient_id=scan.case_id,
        key="0" * 64,
        source_grid=grid,
        orientation="LPS",
        box=Box.whole(grid.shape_zyx),
        prepared_grid=grid,
        liver_ml=float(scan.mask.sum() * grid.voxel_ml),
        source_digests={},
        ct_digest="0" * 64,
        params={},
        findings=[],
    )
    voxels = np.argwhere(scan.mask).astype(np.int32)
    sample = voxels[:: -(-len(voxels) // MOST_FOREGROUND) or 1]
    return PreparedCase(info, scan.volume, scan.mask, scan.mask, sample)


def _ellipsoid(shape_zyx: Triple, centre: Iterable[float], radii: Iterable[float]) -> Mask:
    """Where an ellipsoid is, bool; centre and radii in half sides, 0 being the middle."""
    axes = np.ogrid[tuple(slice(-1, 1, side * 1j) for side in shape_zyx)]
    parts = zip(axes, centre, radii, strict=True)
    return sum(((axis - c) / r) ** 2 for axis, c, r in parts) <= 1
