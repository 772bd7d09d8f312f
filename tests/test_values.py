"""The values of a label: found, counted, and turned into a mask."""

from pathlib import Path

import numpy as np
import pytest

from stages.preprocess.values import account, binarize, counts_of, liver_of, value_findings


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


class TestNames:
    """What ``any`` takes for liver, by what the values are called."""

    def uses(self, names):
        values = [value for group in names.values() for value in group]
        label_map = np.resize(np.array([0, *sorted(set(values))], np.uint8), (3, 4, 5))
        counted = account(label_map, "any", names, {})
        return {one.value: one.use for one in counted if one.value > 0}

    @pytest.mark.parametrize(
        "names",
        [
            {"pancreas": (1,), "cancer": (2,)},  # the Decathlon's task 7
            {"Vessel": (1,), "Tumour": (2,)},  # its task 8
            {"cancer": (1,)},  # its task 6, of lungs
            {"kidney": (1,), "tumor": (2,), "cyst": (3,)},
        ],
    )
    def test_a_tumour_or_a_vessel_is_no_liver_where_no_liver_is_named(self, names):
        assert set(self.uses(names).values()) == {"other"}

    def test_a_tumour_beside_a_liver_is_liver(self):
        assert self.uses({"liver": (1,), "Tumor": (2,)}) == {1: "liver", 2: "liver"}

    @pytest.mark.parametrize("other", ["abdomen", "Segment_2", "background", "arota", "7"])
    def test_what_is_not_called_liver_beside_a_liver_is_not_liver(self, other):
        assert self.uses({"liver": (2,), other: (1,)}) == {1: "other", 2: "liver"}

    def test_a_region_of_all_organs_does_not_take_its_name_from_the_liver(self):
        uses = self.uses({"body": (1, 2, 3), "liver": (2,), "spleen": (3,)})
        assert uses == {1: "other", 2: "liver", 3: "other"}

    def test_a_region_called_liver_holds_values_with_names_of_their_own(self):
        assert self.uses({"liver": (1, 2), "tumor": (2,)}) == {1: "liver", 2: "liver"}

    @pytest.mark.parametrize("names", [("Segment_1", "Segment_2"), ("right lobe", "left lobe")])
    def test_names_that_say_nothing_and_pieces_of_a_liver_are_liver(self, names):
        uses = self.uses({name: (value,) for value, name in enumerate(names, 1)})
        assert set(uses.values()) == {"liver"}

    def test_two_names_of_which_none_is_known_are_a_doubt(self):
        names = {"jetra": (1,), "sleva": (2,)}
        counted = account(np.resize(np.arange(3), (3, 4, 5)), "any", names, {})
        found = value_findings(Path("label.nii"), counted, is_any=True)
        assert [one.rule for one in found] == ["many_values"]
        assert "(jetra, sleva), all taken for liver, though no name is known" in found[0].fact
