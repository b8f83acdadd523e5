"""The rounding of CUDA's allocator, without its fragmentation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgpu.drivers.virtual.segments import Segments, rounded
from asyncgpu.units import KB, MB

SIZES = st.one_of(
    st.integers(1, 4 * KB),
    st.integers(1, 64 * MB),
    st.sampled_from([512, MB - 1, MB, MB + 1, 10 * MB - 512, 10 * MB - 511, 10 * MB, 2**40]),
)


@pytest.mark.parametrize(
    ("sizes", "total"),
    [
        ([], 0),
        ([1], 2 * MB),
        ([MB, MB], 2 * MB),
        ([MB, MB, 1], 4 * MB),
        ([MB + 1], 20 * MB),
        ([4 * MB] * 5, 20 * MB),
        ([4 * MB] * 6, 40 * MB),
        ([10 * MB - 512], 20 * MB),
        # Rounded to blocks first: this is a request of 10 MiB.
        ([10 * MB - 511], 10 * MB),
        ([10 * MB], 10 * MB),
        ([11 * MB], 12 * MB),
        ([1, 5 * MB, 30 * MB], 52 * MB),
    ],
)
def test_segments(sizes, total):
    segments = Segments()
    assert sum(segments.add(size) for size in sizes) == total
    assert segments.total == total


@pytest.mark.parametrize(("nbytes", "taken"), [(0, 0), (1, 512), (512, 512), (513, 1024)])
def test_an_allocation_takes_whole_blocks(nbytes, taken):
    assert rounded(nbytes) == taken


@given(st.lists(SIZES, max_size=30), st.randoms())
def test_the_sums_are_back_at_their_start_when_everything_is_gone(sizes, random):
    segments = Segments()
    charged = 0
    for size in sizes:
        growth = segments.add(size)
        charged += growth
        assert growth >= 0
        assert segments.total == charged
    assert segments.live == sum(map(rounded, sizes)) <= segments.total
    random.shuffle(sizes)
    while sizes:
        shrunk = segments.remove(sizes.pop())
        charged -= shrunk
        assert shrunk >= 0
        assert segments.live == sum(map(rounded, sizes)) <= segments.total == charged
    assert segments.total == 0


@given(st.lists(SIZES, max_size=30), st.randoms())
def test_what_is_charged_depends_on_what_is_alive_and_not_on_the_order(sizes, random):
    one, other = Segments(), Segments()
    for size in sizes:
        one.add(size)
    for size in random.sample(sizes, len(sizes)):
        other.add(size)
        other.add(5 * MB)
        other.remove(5 * MB)
    assert (one.total, one.live) == (other.total, other.live)
