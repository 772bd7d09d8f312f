"""How bright each tissue of one case is, in HU."""

from dataclasses import dataclass

import numpy as np

AIR_HU = -1000.0
GAS_HU = -950.0
LUNG_VESSEL_HU = -620.0
BONE_HU = 520.0
DISC_HU = 95.0
CANAL_HU = 25.0


@dataclass(frozen=True)
class Tissues:
    """HU of each tissue. Liver, muscle, spleen, kidney and gut overlap, so no threshold works."""

    fat: float
    muscle: float
    liver: float
    liver_vessel: float
    blood: float
    vein: float
    spleen: float
    kidney: float
    heart: float
    stomach_wall: float
    stomach_content: float
    bowel_wall: float
    bowel_content: float
    pancreas: float
    bile: float
    lung: float
    marrow: float


def draw_tissues(rng: np.random.Generator) -> Tissues:
    """One case's contrast phase, plain or portal venous, and the HU that follow from it."""
    portal = bool(rng.random() < 0.65)

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    liver = between(92, 118) if portal else between(46, 64)
    blood = between(130, 165) if portal else between(36, 46)
    return Tissues(
        fat=between(-112, -92),
        muscle=liver + between(-22, 4),
        liver=liver,
        liver_vessel=liver + (between(18, 40) if portal else between(-14, -5)),
        blood=blood,
        vein=0.5 * (blood + liver),
        spleen=liver + between(-12, 16),
        kidney=liver + (between(-5, 55) if portal else between(-22, -6)),
        heart=liver + (between(0, 30) if portal else between(-18, -4)),
        stomach_wall=liver + between(-15, 10),
        stomach_content=liver + between(-45, 5),
        bowel_wall=liver + between(-15, 12),
        bowel_content=liver + between(-40, 5),
        pancreas=liver + between(-25, 5),
        bile=between(2, 16),
        lung=between(-880, -820),
        marrow=between(150, 220),
    )
