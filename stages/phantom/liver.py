"""The liver of the standard patient, its vessels and its lesions."""

from dataclasses import dataclass
from functools import reduce

import numpy as np
from scipy.ndimage import distance_transform_edt

from stages.phantom.body import aorta, cavity, diaphragm, heart, vena_cava, vertebrae
from stages.phantom.lattice import STEP_MM
from stages.phantom.organs import PLANE_MM, gallbladder, right_kidney
from stages.phantom.patient import Patient
from stages.phantom.shapes import Level, Points, Triple, common, ellipsoid, tube, union, without

# (from, to, radius there, radius here), mm: first the portal tree, then the hepatic veins
VESSELS: tuple[tuple[Triple, Triple, float, float], ...] = (
    ((2, 0, -22), (-26, -6, 6), 7.5, 7.0),
    ((-26, -6, 6), (-68, 6, 12), 6.5, 5.0),
    ((-68, 6, 12), (-96, -26, 34), 4.8, 2.5),
    ((-68, 6, 12), (-96, 30, -10), 4.8, 2.5),
    ((-68, 6, 12), (-88, -8, -36), 4.0, 2.5),
    ((-26, -6, 6), (-2, -38, 30), 5.5, 4.0),
    ((-2, -38, 30), (42, -48, 44), 4.0, 2.2),
    ((-20, 8, 62), (-92, 24, 36), 6.0, 2.8),
    ((-20, 8, 62), (-66, -34, 40), 6.0, 2.8),
    ((-20, 8, 62), (14, -40, 48), 5.0, 2.5),
)


@dataclass(frozen=True)
class Lesion:
    """A round lesion: its centre and radii in anatomical mm, and its HU beside the liver's."""

    centre: Triple
    radii: Triple
    contrast_hu: float


def liver(at: Points, patient: Patient) -> Level:
    """The liver: under the right dome, against the wall, tapering across the midline."""
    own = patient.organs["liver"]
    own_at = at.scaled((-60, 0, 10), own.size)
    right = ellipsoid(own_at, (-62, 0, 6), radii=(75, 88, 96))
    middle = ellipsoid(own_at, (-8, -34, 28), radii=(48, 42, 40))
    left = ellipsoid(own_at, (44, -46, 36), radii=(50, 28, 27))
    lobes = union(union(right, middle, blend=18.0), left, blend=22.0)
    # the underside rises from the right lobe's tip to the left
    under = 0.88 * (-76 + 0.5 * (own_at.x + 105) - 0.15 * own_at.y - own_at.z)
    return _in_its_place(common(lobes, under, blend=16.0), at, patient=patient)


def _in_its_place(shape: Level, at: Points, *, patient: Patient) -> Level:
    """What is left of the liver's shape by its neighbours and the fat planes to them."""
    ceiling = diaphragm(at) + PLANE_MM
    shape = common(shape, common(cavity(at) + PLANE_MM, ceiling, blend=8.0), blend=8.0)
    shape = without(shape, right_kidney(at, patient), gap=PLANE_MM + 1)
    shape = without(shape, gallbladder(at, patient), gap=2.0)
    shape = without(shape, heart(at, patient), gap=PLANE_MM)
    middle = np.minimum(vertebrae(at) - 9, aorta(at) - 4)
    return without(without(shape, middle, gap=2.0), vena_cava(at), gap=0.5)


def hepatic_vessels(at: Points) -> Level:
    """Portal branches and hepatic veins; also the portal trunk before it enters the liver."""
    return reduce(
        np.minimum,
        [tube(at, (start, stop), radii=(first, last)) for start, stop, first, last in VESSELS],
    )


def draw_lesions(rng: np.random.Generator, at: Points, *, level: Level) -> list[Lesion]:
    """Up to four lesions, each wholly inside the liver; fewer where there is no room.

    Args:
        rng: draws number, size, contrast and place.
        at: lattice points around the liver.
        level: the liver's level at those points.
    """
    # beyond the view is outside too: no lesion is cut
    depth_mm = STEP_MM * distance_transform_edt(np.pad(level < 0, 1))[1:-1, 1:-1, 1:-1]
    lesions = []
    for _ in range(rng.integers(0, 5)):
        radius = float(rng.uniform(6, 24))
        contrast = float(rng.uniform(20, 60) * rng.choice([-1, -1, 1]))
        radii = (radius * rng.uniform(0.75, 1, 3)).tolist()
        deep = np.flatnonzero(depth_mm > radius + STEP_MM)
        if len(deep):
            place = np.unravel_index(rng.choice(deep), level.shape)
            centre = (float(at.x[place]), float(at.y[place]), float(at.z[place]))
            lesions.append(Lesion(centre, (radii[0], radii[1], radii[2]), contrast))
    return lesions


def lesion_level(at: Points, lesion: Lesion) -> Level:
    """One lesion."""
    return ellipsoid(at, lesion.centre, radii=lesion.radii)
