"""Blocks never overlap, the lowest hole is used first, and nothing is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgpu.workers.allocator import Allocator

PAGE = 4096
CAPACITY = 64 * PAGE

steps = st.lists(
    st.tuples(st.just("allocate"), st.integers(1, 20 * PAGE))
    | st.tuples(st.just("release"), st.integers(0, 1000)),
    max_size=80,
)


def pages(nbytes: int) -> int:
    return -(-nbytes // PAGE)


@given(steps)
def test_blocks_never_overlap_and_everything_comes_back(steps):
    allocator = Allocator(CAPACITY)
    live: dict[int, int] = {}
    for action, number in steps:
        if action == "allocate":
            taken = {page for o, n in live.items() for page in range(o // PAGE, o // PAGE + n)}
            offset = allocator.allocate(number)
            free = [page for page in range(CAPACITY // PAGE) if page not in taken]
            fitting = [p for p in free if {*range(p, p + pages(number))} <= {*free}]
            # The lowest place that fits; None only when there is none: holes have merged.
            assert offset == (fitting[0] * PAGE if fitting else None)
            if offset is not None:
                live[offset] = pages(number)
        elif live:
            offset = sorted(live)[number % len(live)]
            del live[offset]
            allocator.release(offset)
        assert allocator.used == sum(live.values()) * PAGE
    for offset in live:
        allocator.release(offset)
    assert allocator.allocate(CAPACITY) == 0


def test_releasing_what_is_not_allocated_is_an_error():
    allocator = Allocator(CAPACITY)
    offset = allocator.allocate(1)
    allocator.release(offset)
    with pytest.raises(KeyError):
        allocator.release(offset)


def test_more_than_the_capacity_is_refused():
    assert Allocator(CAPACITY).allocate(CAPACITY + 1) is None
