"""One person: size, girth, posture and how each organ differs from the standard patient's."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.phantom.shapes import Points, Triple

# every organ that moves and grows on its own
ORGANS = (
    "liver",
    "gallbladder",
    "spleen",
    "stomach",
    "pancreas",
    "right kidney",
    "left kidney",
    "heart",
)
# the deformation's waves: (shortest, longest wavelength, greatest amplitude) in mm; the first ones
# give posture and build, the last ones an uneven surface
WAVES_MM = ((220.0, 400.0, 4.0), (150.0, 300.0, 4.0), (120.0, 200.0, 3.0), (45.0, 80.0, 1.0))


@dataclass(frozen=True)
class Variation:
    """How far an organ lies from its standard place, mm, and how large it is beside it."""

    shift_xyz_mm: Triple
    size: float

    def place(self, centre: Triple) -> Triple:
        """A standard point of the organ, moved with it."""
        x, y, z = (c + s for c, s in zip(centre, self.shift_xyz_mm, strict=True))
        return x, y, z

    def grow(self, radii: Triple) -> Triple:
        """Standard radii, grown with the organ."""
        x, y, z = (radius * self.size for radius in radii)
        return x, y, z


@dataclass(frozen=True)
class Patient:
    """What distinguishes one patient from the standard one.

    Attributes:
        scale_xyz: real mm for each standard mm.
        fat_mm: thickness of the fat under the skin at the flanks.
        roll: turn about the long axis, radians.
        waves: (n, 7) float: wave vector (3) in radians per mm, phase, amplitude (3) in mm.
        organs: each organ's own place and size.
    """

    scale_xyz: Triple
    fat_mm: float
    roll: float
    waves: NDArray[np.float64]
    organs: Mapping[str, Variation]

    @property
    def back_mm(self) -> float:
        """Where the skin of the back is, in standard mm behind the middle."""
        return 98.0 + 0.8 * self.fat_mm

    def deform(self, at: Points) -> Points:
        """The standard anatomy's coordinates of points in this patient's frame."""
        cos, sin = float(np.cos(self.roll)), float(np.sin(self.roll))
        x, y, z = cos * at.x - sin * at.y, sin * at.x + cos * at.y, at.z
        for kx, ky, kz, phase, *amplitude in self.waves.tolist():
            wave = np.sin(kx * at.x + ky * at.y + kz * at.z + phase)
            x, y, z = (axis + a * wave for axis, a in zip((x, y, z), amplitude, strict=True))
        return Points(x, y, z)


def draw_patient(rng: np.random.Generator) -> Patient:
    """A patient: girth and size within what is common in adults."""
    size = float(rng.uniform(0.92, 1.08))
    x, y, z = (size * rng.uniform(0.95, 1.05, 3)).tolist()
    return Patient(
        scale_xyz=(x, y, z),
        fat_mm=float(rng.uniform(9, 34)),
        roll=float(rng.uniform(-0.07, 0.07)),
        waves=np.array([_draw_wave(rng, limits) for limits in WAVES_MM]),
        organs={name: _draw_variation(rng) for name in ORGANS},
    )


def _draw_wave(
    rng: np.random.Generator, limits_mm: tuple[float, float, float]
) -> NDArray[np.float64]:
    shortest, longest, amplitude = limits_mm
    heading = rng.standard_normal(3)
    heading *= 2 * np.pi / rng.uniform(shortest, longest) / np.linalg.norm(heading)
    phase = rng.uniform(0, 2 * np.pi)
    return np.array([*heading, phase, *rng.uniform(-amplitude, amplitude, 3)])


def _draw_variation(rng: np.random.Generator) -> Variation:
    x, y, z = rng.uniform(-6, 6, 3).tolist()
    return Variation((x, y, z), float(rng.uniform(0.9, 1.1)))
