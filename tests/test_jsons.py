"""JSON that is damaged, or written to do harm, is refused as what it is."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.jsons import parsed

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_what_is_json_is_read_as_json_reads_it(value):
    assert parsed(json.dumps(value)) == value


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a":' * 100_000, "9" * 5000])
def test_what_cannot_be_read_is_a_value_error_with_a_line(text):
    with pytest.raises(json.JSONDecodeError, match="line 1"):
        parsed(text)
