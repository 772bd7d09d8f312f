"""The values of a label: found, counted, and turned into a mask."""

import numpy as np
import pytest

from stages.preprocess.values import account, binarize, counts_of, liver_of


class TestBinarizing:
    LABEL_MAP = np.array([0, 1, 2, 5, 255, -1])

    def test_binarizing_without_named_values_takes_all_above_zero(self):
        np.testing.assert_array_equal(binarize(self.LABEL_MAP, None), [0, 1, 1, 1, 1, 0])

    def test_a_list_takes_the_listed_values_alone(self):
        np.testing.assert_array_equal(binarize(self.LABEL_MAP, [2, 255]), [0, 0, 1, 0, 1, 0])

    @pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.float32, np.float64])
    @pytest.mark.parametrize("values", [[2], [2, 7]])
    def test_the_mask_is_uint8_whatever_the_labels_type(self, dtype, values):
        mask = binarize(np.array([0, 1, 2], dtype), values)
        np.testing.assert_array_equal(mask, [0, 0, 1])
        assert mask.dtype == np.uint8


class TestValues:
    @pytest.mark.parametrize(
        ("values", "dtype"),
        [
            ([0], np.uint8),
            ([0, 1], np.uint8),
            ([0, 1, 63, 255], np.uint8),
            ([-7, -1, 0, 2], np.int16),
            ([-128, 127], np.int8),
            ([-32768, 0, 32767], np.int16),
            ([0, 4096], np.uint16),
            ([0, 4097], np.uint16),
            ([5, 2**31, 2**32 - 1], np.uint32),
            ([2**63, 2**63 + 2, 2**63 + 5], np.uint64),
            ([-3, 0, 1, 2], np.float32),
            ([0, 70_000], np.float64),
        ],
    )
    def test_all_values_that_occur_are_counted_ascending(self, values, dtype):
        label_map = np.resize(np.array(values[::-1], dtype), (4, 5, 6))
        expected = {value: int((label_map == value).sum()) for value in values}
        assert counts_of(label_map) == expected
        assert list(counts_of(label_map)) == values

    def test_the_counts_of_a_label_in_many_values_add_up_to_its_voxels(self):
        label_map = np.random.default_rng(0).integers(0, 200, (7, 8, 9)).astype(np.uint8)
        counts = counts_of(label_map)
        assert sum(counts.values()) == label_map.size
        assert counts == {
            value: int((label_map == value).sum()) for value in np.unique(label_map).tolist()
        }

    def test_values_of_layers_are_counted_layer_by_layer(self):
        layers = np.zeros((3, 4, 5, 2), np.uint8)
        layers[1, 2, 3, 1], layers[2, 2, 3, 0] = 9, 4
        counted = account(layers, "any", None, {})
        assert [(one.layer, one.value, one.voxels) for one in counted] == [
            (0, 0, 59),
            (0, 4, 1),
            (1, 0, 59),
            (1, 9, 1),
        ]
        assert liver_of(layers, counted).sum() == 2

    def test_a_value_named_for_one_layer_is_undeclared_in_another(self):
        layers = np.ones((3, 4, 5, 2), np.uint8)
        layers[0, 0, 0, 1] = 0
        counted = account(layers, "any", {"liver": (1,)}, {"liver": (0,)})
        assert [one.use for one in counted] == ["liver", "background", "undeclared"]
        np.testing.assert_array_equal(liver_of(layers, counted), layers[..., 0])
