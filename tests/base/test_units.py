"""Sizes and times as users write them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgpu.errors import InvalidRequest
from asyncgpu.units import GB, KB, MB, format_size, parse_size, parse_timeout


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("512MB", 512 * MB),
        ("512MiB", 512 * MB),
        ("512 mb", 512 * MB),
        (" 4GiB ", 4 * GB),
        ("4G", 4 * GB),
        ("1.5GiB", 3 * GB // 2),
        ("2TB", 2048 * GB),
        ("8KB", 8 * KB),
        ("7B", 7),
    ],
)
def test_sizes_are_bytes_or_strings_with_prefixes_of_1024(text, nbytes):
    assert parse_size(text) == nbytes


@pytest.mark.parametrize(
    "size", ["", "GB", "-1GB", "4 G B", "1e3", "4PiB", "٤GB", -1, 1.5, True, None, b"4GB", [4]]
)
def test_what_is_not_a_size_is_refused_by_name(size):
    with pytest.raises(InvalidRequest, match="max_vram"):
        parse_size(size, what="max_vram")


@given(st.integers(min_value=0, max_value=2**63))
def test_a_number_of_bytes_is_itself_in_both_forms(nbytes):
    assert parse_size(nbytes) == parse_size(str(nbytes)) == nbytes


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (KB, "1 KiB"), (3 * GB // 2, "1.5 GiB"), (2048 * GB, "2 TiB")],
)
def test_people_read_sizes_with_a_unit(nbytes, text):
    assert format_size(nbytes) == text


@pytest.mark.parametrize("seconds", [None, 0, 1, 0.5])
def test_a_timeout_is_a_number_of_seconds_or_none(seconds):
    assert parse_timeout(seconds) == seconds


def test_an_endless_timeout_is_none():
    assert parse_timeout(math.inf) is None, "threads cannot wait for so long"


@pytest.mark.parametrize("seconds", [-1, -0.1, math.nan, "3", True])
def test_what_is_not_a_timeout_is_refused_by_name(seconds):
    with pytest.raises(InvalidRequest, match="max_wait"):
        parse_timeout(seconds, what="max_wait")
