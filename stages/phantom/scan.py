"""The scanner: where its voxels lie, the table, and the noise and blur of an image."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache.grid import Grid, Triple, triple
from stages.phantom.lattice import Lattice
from stages.phantom.patient import Patient

# signs of the x, y and z axes in LPS: as most NIfTI files, as DICOM, and from head to feet
DIRECTIONS = ((-1, -1, 1), (1, 1, 1), (1, 1, -1))


@dataclass(frozen=True)
class Scan:
    """One acquisition.

    Attributes:
        grid: the voxels.
        centre_xyz_mm: where the standard patient's origin lies in the world.
        noise_hu: standard deviation of the noise.
        blur: share of each neighbour in the in-plane kernel (blur, 1 - 2 blur, blur).
        table_hu: the scanner table's skin.
    """

    grid: Grid
    centre_xyz_mm: tuple[float, float, float]
    noise_hu: float
    blur: float
    table_hu: float


def draw_scan(rng: np.random.Generator, patient: Patient, *, shape_zyx: Triple) -> Scan:
    """A scan of this patient with about this many voxels, the liver wholly or nearly in view."""
    shape = _draw_shape(rng, shape_zyx)
    spacing, low = _draw_view(rng, patient, shape=shape)
    centre = np.array([rng.uniform(-40, 40), rng.uniform(-80, 80), rng.uniform(-900, 400)])
    signs = DIRECTIONS[rng.choice(len(DIRECTIONS), p=(0.5, 0.3, 0.2))]
    lengths = (np.array(shape) - 1)[::-1] * spacing[::-1]
    # an eighth of a millimetre is exact in the file's float32
    origin = np.round(8 * (centre + low + np.where(np.array(signs) < 0, lengths, 0))) / 8
    return Scan(
        grid=Grid(
            shape_zyx=shape,
            spacing_zyx_mm=spacing,
            origin_xyz_mm=(float(origin[0]), float(origin[1]), float(origin[2])),
            direction=tuple(np.diag(signs).astype(float).ravel().tolist()),
        ),
        centre_xyz_mm=(float(centre[0]), float(centre[1]), float(centre[2])),
        noise_hu=float(rng.uniform(8, 18)),
        blur=float(rng.uniform(0.1, 0.2)),
        table_hu=float(rng.uniform(-120, 200)),
    )


def _draw_shape(rng: np.random.Generator, shape_zyx: Triple) -> Triple:
    """All sides within 15 % of the typical ones; in-plane both follow one factor."""
    both = rng.uniform(0.92, 1.15)
    factors = rng.permutation([both, both * rng.uniform(0.925, 0.985)])
    sides = np.multiply(shape_zyx, [rng.uniform(0.85, 1.15), *factors])
    z, y, x = triple(np.maximum(np.rint(sides), 16))
    # unequal, so that a swapped axis shows
    return z, y, x + (x == y)


def _draw_view(
    rng: np.random.Generator, patient: Patient, *, shape: Triple
) -> tuple[tuple[float, float, float], NDArray[np.float64]]:
    """The spacing (Z, Y, X), and the first voxel centre (X, Y, Z) from the patient's, in mm."""
    scale = np.array(patient.scale_xyz)
    width = 2 * scale[0] * (138 + patient.fat_mm)
    field = np.clip(width + rng.uniform(0, 45), 320, 400)
    length = rng.uniform(200, 320)
    # a 512th of a millimetre is exact in the file's float32
    in_plane, along = np.round(512 * np.array([field / min(shape[1:]), length / shape[0]])) / 512
    above = rng.uniform(5, np.clip(length - 190 * scale[2], 8, 50))
    x, y = rng.uniform(-10, 10, 2) - in_plane * (np.array([shape[2], shape[1]]) - 1) / 2
    low = np.array([x, y, 84 * scale[2] + above - length])
    return (float(along), float(in_plane), float(in_plane)), low


def lattice_of(scan: Scan, patient: Patient) -> Lattice:
    """The lattice in the patient's standard millimetres that covers the scan."""
    axes = [
        (origin + sign * spacing * np.arange(side) - centre) / scale
        for origin, sign, spacing, side, centre, scale in zip(
            scan.grid.origin_xyz_mm,
            np.diag(np.reshape(scan.grid.direction, (3, 3))),
            scan.grid.spacing_zyx_mm[::-1],
            scan.grid.shape_zyx[::-1],
            scan.centre_xyz_mm,
            patient.scale_xyz,
            strict=True,
        )
    ]
    x, y, z = axes
    return Lattice((z, y, x))


def draw_table(
    rng: np.random.Generator, lattice: Lattice, *, patient: Patient
) -> NDArray[np.bool_]:
    """The table as a mask (Y, X): two thin arcs that carry the patient, the same in every slice."""
    _, y, x = lattice.axes_zyx_mm
    x = x - rng.uniform(-8, 8)
    top = patient.back_mm + 3 - x * x / rng.uniform(1400, 2200)
    half = max(1.5, 0.9 * float(np.abs(y[1] - y[0])))
    under = top + 24 * np.clip(1 - (x / 190) ** 2, 0, 1)
    arcs = [np.abs(y[:, None] - arc) < half for arc in (top, under)]
    return (arcs[0] | arcs[1]) & (np.abs(x) < 190)
