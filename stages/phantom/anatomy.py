"""The standard patient put together: which tissue is painted where, and in which order."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from stages.phantom import body, organs
from stages.phantom.lattice import BoxMm, Lattice, Slices
from stages.phantom.liver import draw_lesions, hepatic_vessels, lesion_level, liver
from stages.phantom.patient import Patient
from stages.phantom.shapes import Level, Points, common, without
from stages.phantom.tissues import BONE_HU, CANAL_HU, DISC_HU, GAS_HU, LUNG_VESSEL_HU, Tissues

LIVER, LESION = 1, 2

Shape = Callable[[Points], Level]
Bands = tuple[tuple[float, float], ...]

EVERYWHERE: BoxMm = ((-1000, 1000), (-1000, 1000), (-1000, 1000))
LIVER_BOX: BoxMm = ((-140, 105), (-96, 92), (-100, 96))
# how far the deformation may carry a point, mm
MARGIN_MM = 14.0


@dataclass(frozen=True)
class Layer:
    """One tissue to paint over those before it.

    Attributes:
        level: float32 on the lattice points of ``box``, negative inside.
        box: which lattice points those are.
        bands: (level, HU) from the surface inwards: the HU of all that lies below the level.
        label: label of the tissue.
        in_liver: paint only on voxels already labelled, and keep clear of all others.
    """

    level: Level
    box: Slices
    bands: Bands
    label: int = 0
    in_liver: bool = False


@dataclass(frozen=True)
class Part:
    """One part of the body before it is brought to a lattice.

    Attributes:
        shape: its level at anatomical points.
        box_mm: where it may lie in the standard patient; generous, since organs vary.
        bands: as in Layer.
        gas_y_mm: gas fills its innermost band in front of this plane; None for no gas.
    """

    shape: Shape
    box_mm: BoxMm
    bands: Bands
    gas_y_mm: float | None = None


def draw_layers(
    rng: np.random.Generator, lattice: Lattice, *, patient: Patient, tissues: Tissues
) -> list[Layer]:
    """All tissues of one patient in painting order; the generator draws the lesions alone."""
    at = patient.deform(lattice.points())
    layers = []
    for part in [*_frame(patient, tissues), *_organs(patient, tissues)]:
        box = lattice.box(part.box_mm, MARGIN_MM)
        level = part.shape(at[box])
        layers.append(Layer(level, box, part.bands))
        if part.gas_y_mm is not None:
            layers.append(_gas(layers[-1], at.y[box] - part.gas_y_mm))
    box = lattice.box(LIVER_BOX, MARGIN_MM)
    return layers + _liver_layers(rng, at[box], box=box, patient=patient, tissues=tissues)


def _gas(layer: Layer, behind_mm: Level) -> Layer:
    """The gas in a hollow organ; the patient lies on the back, so it gathers in front."""
    inside = layer.level - layer.bands[-1][0]
    return Layer(common(inside, behind_mm, blend=2), layer.box, ((0, GAS_HU),))


def _frame(patient: Patient, hu: Tissues) -> Iterator[Part]:
    """Trunk, lungs and bones, and the heart and great vessels among them."""
    spine: BoxMm = ((-46, 46), (14, 106), (-1000, 1000))
    great: BoxMm = ((-40, 30), (-8, 42), (-1000, 1000))
    chest: BoxMm = ((-135, 135), (-96, 96), (-20, 1000))

    def strands(at: Points) -> Level:
        return common(body.lung_vessels(at), body.lungs(at, patient) + 3, blend=2)

    yield Part(partial(body.skin, patient=patient), EVERYWHERE, ((0, 15), (-2.5, hu.fat)))
    yield Part(body.trunk, EVERYWHERE, ((0, hu.muscle),))
    yield Part(body.cavity, EVERYWHERE, ((0, hu.fat),))
    yield Part(body.psoas, ((-80, 80), (0, 80), (-1000, -20)), ((0, hu.muscle),))
    yield Part(partial(body.lungs, patient=patient), chest, ((0, hu.lung),))
    yield Part(strands, chest, ((0, LUNG_VESSEL_HU),))
    yield Part(partial(body.heart, patient=patient), chest, ((0, hu.heart),))
    yield Part(body.ribs, EVERYWHERE, ((0, BONE_HU), (-2, hu.marrow)))
    yield Part(body.vertebral_arches, spine, ((0, 0.8 * BONE_HU),))
    yield Part(body.vertebrae, spine, ((0, 0.8 * BONE_HU), (-3, hu.marrow)))
    yield Part(body.discs, spine, ((0, DISC_HU),))
    yield Part(body.canal, spine, ((0, CANAL_HU),))
    yield Part(body.aorta, great, ((0, hu.blood),))
    yield Part(body.vena_cava, great, ((0, hu.vein),))


def _organs(patient: Patient, hu: Tissues) -> Iterator[Part]:
    """The organs of the abdomen, all but the liver, which the last of them make room for."""
    right: BoxMm = ((-100, -20), (-20, 72), (-150, 5))
    left: BoxMm = ((20, 100), (-20, 72), (-130, 25))
    kidney = ((0.0, hu.kidney), (-12.0, 0.5 * (hu.kidney + hu.muscle)))

    def beside_liver(organ: Callable[[Points, Patient], Level], gap: float) -> Shape:
        return lambda at: without(organ(at, patient), liver(at, patient), gap=gap)

    yield Part(
        beside_liver(organs.bowel, gap=organs.PLANE_MM),
        ((-130, 130), (-96, 66), (-1000, -10)),
        ((0, hu.bowel_wall), (-3.5, hu.bowel_content)),
        gas_y_mm=-56,
    )
    yield Part(partial(organs.right_kidney, patient=patient), right, kidney)
    yield Part(partial(organs.left_kidney, patient=patient), left, kidney)
    yield Part(
        beside_liver(organs.pancreas, gap=1),
        ((-70, 90), (-50, 50), (-70, 30)),
        ((0, hu.pancreas),),
    )
    yield Part(
        partial(organs.spleen, patient=patient),
        ((40, 130), (-40, 92), (-60, 85)),
        ((0, hu.spleen),),
    )
    yield Part(
        beside_liver(organs.stomach, gap=organs.PLANE_MM),
        ((-30, 125), (-96, 60), (-90, 90)),
        ((0, hu.stomach_wall), (-4, hu.stomach_content)),
        gas_y_mm=-30,
    )
    yield Part(hepatic_vessels, ((-40, 15), (-30, 20), (-40, 20)), ((0, hu.vein),))
    yield Part(
        partial(organs.gallbladder, patient=patient),
        ((-90, -5), (-86, 20), (-90, 20)),
        ((0, hu.muscle), (-2, hu.bile)),
    )


def _liver_layers(
    rng: np.random.Generator, at: Points, *, box: Slices, patient: Patient, tissues: Tissues
) -> list[Layer]:
    """The liver with its vessels and lesions."""
    level = liver(at, patient)
    vessels = np.maximum(hepatic_vessels(at), level + 3)
    layers = [
        Layer(level, box, ((0, tissues.liver),), label=LIVER),
        Layer(vessels, box, ((0, tissues.liver_vessel),), label=LIVER, in_liver=True),
    ]
    for lesion in draw_lesions(rng, at, level=level):
        bands = ((0.0, tissues.liver + lesion.contrast_hu),)
        layers.append(Layer(lesion_level(at, lesion), box, bands, LESION, in_liver=True))
    return layers
