"""The text of ``ASYNCGPU_VIRTUAL_DEVICES``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgpu.drivers.virtual.driver import VirtualDriver
from asyncgpu.drivers.virtual.spec import format_spec, parse_spec
from asyncgpu.errors import InvalidRequest
from asyncgpu.units import GB, MB


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("2x8GiB", (8 * GB, 8 * GB)),
        ("8GiB", (8 * GB,)),
        ("8GiB,4GiB", (8 * GB, 4 * GB)),
        (" 1x512MB , 2x1.5GB ", (512 * MB, 3 * GB // 2, 3 * GB // 2)),
        ("4096", (4096,)),
    ],
)
def test_counts_and_sizes(text, sizes):
    assert parse_spec(text) == sizes
    devices = VirtualDriver.from_spec(text).inventory()
    assert tuple(device.total_memory for device in devices) == sizes


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", ",", "0x8GiB", "2x", "x8GiB", "8GiBx2", "2x8GiB,", "-1x8GiB", "2x0", "2x-8GiB"),
        *("two", "2 8GiB", "2x8GiB 2x8GiB", "99999999x1GiB", "4096x1GiB,1GiB", "²x8GiB", "2x8PiB"),
    ],
)
def test_anything_else_is_refused_by_the_name_of_the_variable(text):
    with pytest.raises(InvalidRequest, match="ASYNCGPU_VIRTUAL_DEVICES="):
        parse_spec(text)


@given(st.lists(st.integers(1, 2**50), min_size=1, max_size=20).map(tuple))
def test_what_is_written_is_read_back(sizes):
    assert parse_spec(format_spec(sizes)) == sizes
