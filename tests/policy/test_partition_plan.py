"""Limits of partitions, and the plan that shares a device out. K-rows: the scenario tables."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncgpu.errors import DuplicateName, InfeasibleRequest, InvalidRequest
from asyncgpu.policy.partitions import PartitionConfig, PartitionLimits, PartitionPlan
from asyncgpu.policy.shares import parse_share
from asyncgpu.units import GB


def plan(total=10_000, **options):
    return PartitionPlan(PartitionConfig(total, **options))


def limits(memory=None, compute=None):
    return PartitionLimits(memory, compute)


def test_the_builders_return_copies():
    none = PartitionLimits()
    memory = none.memory("4GiB")
    both = memory.compute(0.5)
    assert none == PartitionLimits(None, None)
    assert memory == PartitionLimits(4 * GB, None)
    assert both == PartitionLimits(4 * GB, 0.5) == none.compute(0.5).memory(4 * GB)


@pytest.mark.parametrize("share", [0, -0.1, 1.01, math.nan, math.inf, True, "0.5", 1e-9])
def test_a_share_is_above_zero_and_at_most_one(share):
    for make in (PartitionLimits().compute, lambda value: PartitionLimits(None, value)):
        with pytest.raises(InvalidRequest, match="compute"):
            make(share)


@pytest.mark.parametrize("size", [0, -1, "much", True, 1.5])
def test_a_limit_of_memory_is_above_zero(size):
    for make in (PartitionLimits().memory, lambda value: PartitionLimits(value)):
        with pytest.raises(InvalidRequest, match="memory"):
            make(size)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"total_memory": 0}, "total_memory"),
        ({"total_memory": -1}, "total_memory"),
        ({"total_memory": 1, "overcommit_ratio": 0.9}, "overcommit_ratio"),
        ({"total_memory": 1, "overcommit_ratio": math.inf}, "overcommit_ratio"),
    ],
)
def test_a_device_that_means_nothing_is_refused(options, named):
    with pytest.raises(InvalidRequest, match=named):
        PartitionConfig(**options)


def test_k4_shares_that_add_up_to_one_fit():
    shared = plan()
    for number, share in enumerate((0.2, 0.2, 0.2, 0.4)):
        shared.add(f"p{number}", limits(compute=share))
    assert shared.compute_available == 0
    with pytest.raises(InfeasibleRequest, match=r"compute 0\.001 asked, 0\.0 of 1\.0 is left"):
        shared.add("more", limits(compute=0.001))


@pytest.mark.parametrize("count", [1, 3, 7, 49, 132, 300])
def test_equal_shares_fill_the_device(count):
    shared = plan()
    for number in range(count):
        shared.add(str(number), limits(compute=1 / count))
    assert shared.compute_available == 0


def test_k5_limits_may_add_up_to_the_overcommitted_memory_and_no_further():
    shared = plan(8 * GB, overcommit_ratio=1.5)
    shared.add("a", limits(6 * GB))
    shared.add("b", limits(6 * GB))
    with pytest.raises(InfeasibleRequest, match="1 GiB asked, 0 B of 12 GiB are left"):
        shared.add("c", limits(1 * GB))


def test_k11_sums():
    shared = plan(10 * 10**9)
    shared.add("a", limits(10**9, 0.3))
    shared.add("b", limits(2 * 10**9, 0.4))
    assert (shared.memory_allocated, shared.memory_available) == (3 * 10**9, 7 * 10**9)
    assert (shared.compute_allocated, shared.compute_available) == (0.7, 0.3)
    assert len(shared) == 2


def test_a_partition_without_limits_takes_nothing_from_the_others():
    shared = plan(100)
    shared.add("open", PartitionLimits())
    shared.add("whole", limits(100, 1.0))
    assert (shared.memory_available, shared.compute_available) == (0, 0)


def test_an_id_is_taken_until_it_is_removed():
    shared = plan(100)
    shared.add("a", limits(60))
    with pytest.raises(DuplicateName, match="'a'"):
        shared.add("a", limits(10))
    shared.remove("a")
    with pytest.raises(InvalidRequest, match="no partition 'a'"):
        shared.remove("a")
    shared.add("a", limits(100))


LIMITS = st.builds(
    PartitionLimits,
    st.none() | st.integers(1, 8_000),
    st.none() | st.integers(1, 99).map(lambda percent: percent / 100),
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.none() | LIMITS), max_size=40))
def test_promises_never_pass_what_there_is_and_all_come_back(steps):
    shared = plan(10_000)
    promised = {}
    for name, wanted in steps:
        if wanted is None:
            if name in promised:
                shared.remove(name)
                del promised[name]
            continue
        memory = shared.memory_available
        share = 1 - sum((p.share for p in promised.values()), Fraction(0))
        fits = (wanted.memory_limit or 0) <= memory and wanted.share <= share
        try:
            shared.add(name, wanted)
        except DuplicateName:
            assert name in promised
        except InfeasibleRequest:
            assert not fits
        else:
            assert fits
            promised[name] = wanted
        assert 0 <= shared.memory_available <= 10_000
        assert 0 <= shared.compute_available <= 1
        assert shared.memory_allocated == sum(p.memory_limit or 0 for p in promised.values())
    for name in promised:
        shared.remove(name)
    assert (shared.memory_allocated, shared.compute_allocated, len(shared)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (0.2, Fraction(1, 5)),
        (0.1 + 0.2, Fraction(3, 10)),
        (1 / 3, Fraction(1, 3)),
        (2 / 7, Fraction(2, 7)),
        (1, Fraction(1)),
    ],
)
def test_a_float_means_the_simple_fraction_next_to_it(written, meant):
    assert parse_share(written, what="share") == meant
