"""The frame of the standard patient: trunk, lungs, spine, ribs, and the fat between organs.

Each function gives a level (negative inside, roughly mm) at anatomical points. The origin lies on
the midline, halfway from front to back, at the height of the liver's middle. Places and sizes are
in standard millimetres, chosen by eye to look like an adult's CT; no atlas stands behind them.
"""

import numpy as np

from stages.phantom.patient import Patient
from stages.phantom.shapes import (
    Level,
    Points,
    barrel,
    column,
    common,
    ellipsoid,
    tube,
    union,
    without,
)

TRUNK_XY_MM = (138.0, 98.0)
CAVITY_XY_MM = (122.0, 84.0)
SPINE_XY_MM = (0.0, 44.0)
RIB_PITCH_MM = 27.0
VERTEBRA_PITCH_MM = 34.0


def skin(at: Points, patient: Patient) -> Level:
    """The outside of the body; more fat at the flanks than in front."""
    return barrel(at, (TRUNK_XY_MM[0] + patient.fat_mm, TRUNK_XY_MM[1] + 0.8 * patient.fat_mm))


def trunk(at: Points) -> Level:
    """What the fat under the skin encloses: the muscle wall and all within."""
    return barrel(at, TRUNK_XY_MM)


def cavity(at: Points) -> Level:
    """The inside of the muscle wall, without the muscles beside the spine."""
    side = Points(np.abs(at.x), at.y, at.z)
    return without(barrel(at, CAVITY_XY_MM), column(side, (34, 78), radii_xy=(34, 24)), gap=0)


def psoas(at: Points) -> Level:
    """The muscle on either side of the lumbar spine, thicker towards the feet."""
    side = Points(np.abs(at.x), at.y, at.z)
    return tube(side, ((24, 42, -40), (44, 36, -180)), radii=(10, 24))


def diaphragm(at: Points) -> Level:
    """Below the diaphragm: under the right dome or the lower left one, or the tendon between."""
    right = at.z - 84 + 0.011 * ((at.x + 58) ** 2 + (at.y + 5) ** 2)
    left = at.z - 70 + 0.012 * ((at.x - 58) ** 2 + (at.y + 5) ** 2)
    return 0.75 * union(right, left, blend=24.0)


def heart(at: Points, patient: Patient) -> Level:
    """The heart's lower half, resting on the diaphragm."""
    own = patient.organs["heart"]
    whole = ellipsoid(at, own.place((18, -30, 112)), radii=own.grow((58, 42, 42)))
    return common(whole, 62 - at.z, blend=8.0)


def mediastinum(at: Points, patient: Patient) -> Level:
    """The soft tissue between the lungs: heart, vessels, oesophagus and the spine's flank."""
    flank = column(at, (0, 32), radii_xy=(24, 36))
    return union(flank, heart(at, patient) - 3, blend=10.0)


def lungs(at: Points, patient: Patient) -> Level:
    """Both lungs, above the domes."""
    wall = cavity(at) + 2
    return without(common(-diaphragm(at), wall, blend=6.0), mediastinum(at, patient), gap=1.0)


def lung_vessels(at: Points) -> Level:
    """A net of strands in the lung; no tree, but as dense as one."""
    x, y, z = 0.21 * at.x, 0.23 * at.y, 0.19 * at.z
    net = np.sin(x) * np.cos(y) + np.sin(y) * np.cos(z) * np.sin(z + x)
    strands: Level = 9 * (0.42 - 0.5 * np.abs(net))
    return strands


def vertebrae(at: Points) -> Level:
    """The vertebral bodies, waisted between the discs."""
    waist: Level = 1.5 * np.cos(2 * np.pi / VERTEBRA_PITCH_MM * at.z)
    return column(at, SPINE_XY_MM, radii_xy=(23, 17)) - waist


def discs(at: Points) -> Level:
    """The discs between the vertebral bodies."""
    slab = 9 * (0.82 - np.cos(2 * np.pi / VERTEBRA_PITCH_MM * at.z))
    return common(slab, column(at, SPINE_XY_MM, radii_xy=(22, 16)), blend=2.0)


def vertebral_arches(at: Points) -> Level:
    """Arches and spinous processes behind the canal, one for each vertebra."""
    x, y = SPINE_XY_MM
    arch = column(at, (x, y + 26), radii_xy=(16, 13))
    spinous = column(at, (x, y + 43), radii_xy=(4.5, 13))
    side = Points(np.abs(at.x), at.y, at.z)
    transverse = ellipsoid(side, (22, y + 24, 0), radii=(18, 6, 1000))
    gaps = 7 * (np.cos(2 * np.pi / VERTEBRA_PITCH_MM * (at.z - 10)) - 0.25)
    return union(arch, np.maximum(union(spinous, transverse, blend=3.0), gaps), blend=3.0)


def canal(at: Points) -> Level:
    """The spinal canal."""
    return column(at, (SPINE_XY_MM[0], SPINE_XY_MM[1] + 25), radii_xy=(9, 8))


def ribs(at: Points) -> Level:
    """Ribs in the wall, falling from back to front; none below the cage or near the midline."""
    depth = barrel(at, (128.5, 89.5)) / 4.5
    phase = 2 * np.pi / RIB_PITCH_MM * (at.z - 0.55 * at.y)
    height = (1 - np.cos(phase)) / 0.9
    rib = 4 * (depth * depth + height - 1)
    # the cage ends higher in front: an arch over the upper abdomen
    end = -45 - 0.75 * np.minimum(at.y, 0) - 0.2 * np.abs(at.x)
    cage = np.maximum(0.5 * (end - at.z), 32 - np.abs(at.x))
    both: Level = np.maximum(rib, cage)
    return both


def aorta(at: Points) -> Level:
    """The aorta, left in front of the spine."""
    return column(at, (11, 14), radii_xy=(11, 11))


def vena_cava(at: Points) -> Level:
    """The inferior vena cava, right in front of the spine, drawn forward where the liver is."""
    lean = 0.1 * np.clip(at.z, np.float32(-40), np.float32(60))
    return column(Points(at.x, at.y + lean, at.z), (-21, 19), radii_xy=(13, 10))
