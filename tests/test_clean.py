"""What may be mended in a mask: its largest piece alone, and its holes filled."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stages.predict.clean import fill_holes, keep_largest

SHAPE_ZYX = (7, 8, 9)
random_masks = st.integers(0, 99).map(
    lambda seed: (np.random.default_rng(seed).random(SHAPE_ZYX) < 0.3).astype(np.uint8)
)


def blocks(*boxes, shape_zyx=SHAPE_ZYX):
    """A mask of boxes, each ``(z, y, x)`` of pairs of first and end."""
    mask = np.zeros(shape_zyx, np.uint8)
    for box in boxes:
        mask[tuple(slice(*pair) for pair in box)] = 1
    return mask


BIG = ((1, 4), (1, 4), (1, 4))


class TestKeepLargest:
    def test_the_smaller_pieces_of_a_mask_are_removed(self):
        mask = blocks(BIG, ((6, 7), (6, 8), (6, 9)), ((0, 1), (7, 8), (0, 1)))
        keep_largest(mask)
        np.testing.assert_array_equal(mask, blocks(BIG))

    def test_what_touches_by_a_corner_is_one_piece(self):
        mask = blocks(BIG, ((4, 5), (4, 5), (4, 5)))
        keep_largest(mask)
        assert mask.sum() == 28

    def test_one_of_two_pieces_of_equal_size_is_kept(self):
        mask = blocks(((0, 2), (0, 2), (0, 2)), ((5, 7), (5, 7), (5, 7)))
        keep_largest(mask)
        np.testing.assert_array_equal(mask, blocks(((0, 2), (0, 2), (0, 2))))

    def test_an_empty_mask_stays_empty(self):
        mask = blocks()
        keep_largest(mask)
        assert not mask.any()

    @given(random_masks)
    def test_nothing_is_added_and_a_second_time_changes_nothing(self, mask):
        before = mask.copy()
        keep_largest(mask)
        assert (mask <= before).all()
        assert mask.any()
        once = mask.copy()
        keep_largest(mask)
        np.testing.assert_array_equal(mask, once)


class TestFillHoles:
    def test_what_is_enclosed_is_filled(self):
        mask = blocks(BIG)
        mask[2, 2, 2] = 0
        fill_holes(mask)
        np.testing.assert_array_equal(mask, blocks(BIG))

    def test_a_hole_that_opens_through_a_face_is_none(self):
        mask = blocks(BIG)
        mask[2, 2, 2:4] = 0
        expected = mask.copy()
        fill_holes(mask)
        np.testing.assert_array_equal(mask, expected)

    def test_a_hole_that_opens_through_an_edge_alone_is_filled(self):
        mask = blocks(BIG)
        mask[2, 2, 2] = 0
        mask[1, 1, 2] = 0  # touches it by an edge
        fill_holes(mask)
        assert mask[2, 2, 2] == 1
        assert mask[1, 1, 2] == 0

    def test_what_the_edge_of_the_ct_closes_is_no_hole(self):
        mask = blocks(((0, 3), (0, 3), (0, 3)))
        mask[0, 1, 1] = 0
        fill_holes(mask)
        assert mask[0, 1, 1] == 0

    def test_an_empty_mask_stays_empty(self):
        mask = blocks()
        fill_holes(mask)
        assert not mask.any()

    @given(random_masks)
    def test_nothing_is_taken_away_and_a_second_time_changes_nothing(self, mask):
        before = mask.copy()
        fill_holes(mask)
        assert (mask >= before).all()
        once = mask.copy()
        fill_holes(mask)
        np.testing.assert_array_equal(mask, once)
