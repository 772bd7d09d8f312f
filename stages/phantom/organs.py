"""The organs beside the liver; each gives a level (negative inside, roughly mm).

Places and sizes are in standard millimetres (see body.py), chosen by eye.
"""

import numpy as np

from stages.phantom.body import aorta, cavity, diaphragm, psoas
from stages.phantom.patient import Patient
from stages.phantom.shapes import Level, Points, common, ellipsoid, tube, union, without

# fat between an organ and its wall, mm; a low-resolution CT still shows it in places
PLANE_MM = 3.0


def right_kidney(at: Points, patient: Patient) -> Level:
    """The right kidney, below the liver."""
    own = patient.organs["right kidney"]
    return _kidney(at, own.place((-58, 32, -72)), radii=own.grow((25, 22, 52)), hilum=12)


def left_kidney(at: Points, patient: Patient) -> Level:
    """The left kidney, higher than the right."""
    own = patient.organs["left kidney"]
    return _kidney(at, own.place((60, 34, -52)), radii=own.grow((25, 22, 54)), hilum=-12)


def _kidney(
    at: Points,
    centre: tuple[float, float, float],
    *,
    radii: tuple[float, float, float],
    hilum: float,
) -> Level:
    # the upper pole lies nearer to the spine
    lean = 0.12 * (at.z - centre[2]) * (1 if hilum > 0 else -1)
    leaning = Points(at.x - lean, at.y, at.z)
    whole = ellipsoid(leaning, centre, radii=radii)
    notch = ellipsoid(
        leaning, (centre[0] + 1.8 * hilum, centre[1] - 4, centre[2]), radii=(11, 9, 16)
    )
    return without(without(whole, notch, gap=1), psoas(at), gap=2)


def gallbladder(at: Points, patient: Patient) -> Level:
    """The gallbladder, hanging under the right lobe."""
    own = patient.organs["gallbladder"]
    neck, fundus = own.place((-36, -14, -14)), own.place((-52, -46, -48))
    return tube(at, (neck, fundus), radii=(8 * own.size, 15 * own.size))


def spleen(at: Points, patient: Patient) -> Level:
    """The spleen, behind on the left, hollowed towards the stomach."""
    own = patient.organs["spleen"]
    whole = ellipsoid(at, own.place((90, 30, 22)), radii=own.grow((30, 44, 52)))
    hollow = ellipsoid(at, own.place((56, 12, 20)), radii=(30, 34, 60))
    inside = common(
        whole, common(cavity(at) + PLANE_MM, diaphragm(at) + PLANE_MM, blend=6.0), blend=6.0
    )
    return without(without(inside, hollow, gap=1), left_kidney(at, patient), gap=PLANE_MM)


def stomach(at: Points, patient: Patient) -> Level:
    """The stomach, from under the left dome to the pylorus; the liver is yet to be left out."""
    own = patient.organs["stomach"]
    top, bend, outlet = (
        own.place(point) for point in ((58.0, 8.0, 38.0), (48.0, -34.0, -22.0), (0.0, -46.0, -44.0))
    )
    size = own.size
    fundus = tube(at, (top, bend), radii=(33 * size, 24 * size))
    antrum = tube(at, (bend, outlet), radii=(24 * size, 13 * size))
    whole = union(fundus, antrum, blend=12.0)
    inside = common(
        whole, common(cavity(at) + 2 * PLANE_MM, diaphragm(at) + PLANE_MM, blend=6.0), blend=6.0
    )
    return without(inside, spleen(at, patient), gap=PLANE_MM)


def pancreas(at: Points, patient: Patient) -> Level:
    """The pancreas, across the spine behind the stomach."""
    own = patient.organs["pancreas"]
    ends = own.place((-34, -8, -36)), own.place((12, -12, -16)), own.place((64, 14, 4))
    head = tube(at, (ends[0], ends[1]), radii=(14 * own.size, 10 * own.size))
    whole = union(
        head, tube(at, (ends[1], ends[2]), radii=(10 * own.size, 8 * own.size)), blend=8.0
    )
    return without(
        without(whole, stomach(at, patient), gap=PLANE_MM), left_kidney(at, patient), gap=2.0
    )


def bowel(at: Points, patient: Patient) -> Level:
    """Coils of bowel in the lower abdomen: a bent gyroid, which branches as bowel seems to."""
    k = 2 * np.pi / 64.0
    x = k * (at.x + 9 * np.sin(0.043 * at.y + 0.031 * at.z))
    y = k * (at.y + 9 * np.sin(0.047 * at.z + 0.023 * at.x))
    z = k * (at.z + 9 * np.sin(0.041 * at.x - 0.029 * at.y)) + patient.roll * 40
    coils = np.sin(x) * np.cos(y) + np.sin(y) * np.cos(z) + np.sin(z) * np.cos(x)
    below = common(cavity(at) + 5, at.z + 38 + 0.15 * at.x, blend=8.0)
    front = common(below, at.y - 26, blend=8.0)
    inside = common(front, 8 * (-0.15 - coils), blend=4.0)
    return without(without(inside, stomach(at, patient), gap=4.0), aorta(at), gap=5.0)
