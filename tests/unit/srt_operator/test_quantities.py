"""Quantities of bytes mean what Kubernetes means by them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srt_operator.quantities import format_bytes, parse, parse_bytes


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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", Fraction(1, 2)),
        ("1.5", Fraction(3, 2)),
        ("0.5Ki", Fraction(512)),
        ("1k", Fraction(1000)),
        ("2E", Fraction(2 * 10**18)),
        ("2E1", Fraction(20)),
        ("2e99", Fraction(2 * 10**99)),
    ],
)
def test_a_quantity_is_exact(text: str, value: Fraction) -> None:
    assert parse(text) == value


@pytest.mark.parametrize("text", ["", "-1", "1e999", "1K", "m", "1 ", "1\n", "inf", "9" * 33])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="allowed is a Kubernetes quantity"):
        parse(text)


@given(st.integers(0, 10**18), st.sampled_from(["", "m", "k", "Ki", "E", "Ei", "e0", "E99"]))
def test_every_suffix_is_a_finite_number(number: int, suffix: str) -> None:
    assert Fraction(number, 1000) <= parse(f"{number}{suffix}") <= number * 10**99
