"""The areas of a surface's elements: those of surface-distance, without its table or MONAI."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics.utils import _get_neighbour_code_to_normals_table, get_code_to_measure_table

from stages.evaluate.areas import TRIANGLES, areas_mm2
from tiny import python

SPACINGS = st.tuples(*[st.floats(0.1, 12.0)] * 3)
SINGLE = float(np.finfo(np.float32).eps)  # what MONAI's figures are exact to


def test_every_neighbourhood_has_the_triangles_of_surface_distance_to_the_last_bit():
    theirs = np.abs(_get_neighbour_code_to_normals_table().numpy()).astype(np.float64)
    for code in range(256):
        ours, monais = (
            sorted(tuple(vector) for vector in table[code] if vector.any())
            for table in (TRIANGLES / 8, theirs)
        )
        assert ours == monais, f"{code:08b}"


@given(SPACINGS)
def test_areas_are_those_of_monai_to_single_precision(spacing):
    theirs = get_code_to_measure_table(spacing)[0].numpy()
    np.testing.assert_allclose(areas_mm2(spacing), theirs, rtol=4 * SINGLE)


@pytest.mark.parametrize(
    ("code", "area"),
    [
        # spacing 2, 3, 5 mm in z, y, x; a corner's triangle is half of the parallelogram of its
        # sides from the middles of three edges: (0, 1.5, 0) - (1, 0, 0) and (0, 0, 2.5) - (1, 0, 0)
        (0b10000000, np.linalg.norm(np.cross([-1, 1.5, 0], [-1, 0, 2.5])) / 2),
        (0b11110000, 15.0),  # the lower slice: a face in z of 3 by 5 mm
        (0b10101010, 6.0),  # a face in x of 2 by 3 mm
        (0b11000000, 5 * np.hypot(1, 1.5)),  # an edge along x: a rectangle
        (0b00000000, 0.0),
        (0b11111111, 0.0),
    ],
)
def test_areas_worked_by_hand(code, area):
    assert areas_mm2((2.0, 3.0, 5.0))[code] == pytest.approx(area, rel=1e-14)


@given(SPACINGS)
def test_inside_and_outside_have_one_surface(spacing):
    areas = areas_mm2(spacing)
    np.testing.assert_allclose(areas, areas[::-1], rtol=1e-14)  # added up in another order


def test_scores_are_computed_without_torch_or_monai(tmp_path):
    script = "import sys, stages.evaluate.scores; print({'torch', 'monai'} & set(sys.modules))"
    assert python("-c", script, cwd=tmp_path).stdout == "set()\n"
