"""Quantities of bytes mean what Kubernetes means by them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srt_operator.quantities import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("256Mi", 256 * 2**20), ("2G", 2 * 10**9), ("1k", 1000), ("7", 7), (7, 7), ("1Pi", 2**50)],
)
def test_a_quantity_is_bytes(text: object, num_bytes: int) -> None:
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize("text", ["", "-1", "1.5Gi", "1KB", "1 Mi", True, -1, 1.0, None, [], "0x1"])
def test_anything_else_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="allowed is bytes"):
        parse_bytes(text)


@given(st.integers(0, 10**18 - 1))
def test_what_is_written_is_read_back_equal(num_bytes: int) -> None:
    assert parse_bytes(format_bytes(num_bytes)) == num_bytes
