"""One phantom in memory: a pure function of the seed, its number and its typical shape."""

from dataclasses import dataclass

import numpy as np

from cache.grid import Grid, Triple
from stages.phantom.anatomy import draw_layers
from stages.phantom.image import LabelMap, Volume, paint
from stages.phantom.patient import draw_patient
from stages.phantom.scan import draw_scan, draw_table, lattice_of
from stages.phantom.tissues import draw_tissues


@dataclass(frozen=True)
class Phantom:
    """A synthetic abdominal CT with its liver.

    Attributes:
        volume: int16 HU, (Z, Y, X).
        label_map: uint8, (Z, Y, X): 0 background, 1 liver with its vessels, 2 lesion in the liver.
        grid: where the voxels lie in the patient, LPS; some are stored flipped.
    """

    volume: Volume
    label_map: LabelMap
    grid: Grid


def make_phantom(seed: int, index: int, *, shape_zyx: Triple) -> Phantom:
    """Draw patient, tissues and scan of one case, and paint it.

    Args:
        seed: of the data set; not negative.
        index: which of its phantoms; no other phantom has a say in this one.
        shape_zyx: typical voxels along each axis; each side varies by up to 15 %.
    """
    rng = np.random.default_rng((seed, index))
    patient = draw_patient(rng)
    tissues = draw_tissues(rng)
    scan = draw_scan(rng, patient, shape_zyx=shape_zyx)
    lattice = lattice_of(scan, patient)
    table = draw_table(rng, lattice, patient=patient)
    layers = draw_layers(rng, lattice, patient=patient, tissues=tissues)
    volume, label_map = paint(rng, scan, lattice=lattice, layers=layers, table=table)
    return Phantom(volume, label_map, scan.grid)
