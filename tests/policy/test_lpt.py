"""Longest processing time first, as a free function."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgpu.errors import InvalidRequest
from asyncgpu.policy.lpt import lower_bound, lpt_schedule, makespan

whole_costs = st.lists(st.integers(0, 50).map(float), max_size=40)
speed_lists = st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=1, max_size=5)


def by_the_book(costs, speeds):
    """The rule, word for word, for items that weigh something."""
    shards = [[] for _ in speeds]
    loads = [0.0] * len(speeds)
    for item in sorted(range(len(costs)), key=lambda item: (-costs[item], item)):
        slot = min(
            range(len(speeds)),
            key=lambda slot: (loads[slot] + costs[item] / speeds[slot], loads[slot], slot),
        )
        shards[slot].append(item)
        loads[slot] += costs[item] / speeds[slot]
    return shards


def optimum(costs, slots):
    return min(
        max(
            sum(c for c, at in zip(costs, places, strict=True) if at == slot)
            for slot in range(slots)
        )
        for places in product(range(slots), repeat=len(costs))
    )


def test_three_equal_slots():
    """The worst case of Graham's bound: 11, where 9 would be possible."""
    costs = [5, 5, 4, 4, 3, 3, 3]
    schedule = lpt_schedule(costs, [1, 1, 1])
    assert schedule == [[0, 4, 6], [1, 5], [2, 3]]
    assert makespan(schedule, costs, [1, 1, 1]) == 11
    assert optimum(costs, 3) == 9
    assert pytest.approx((4 / 3 - 1 / 9) * 9) == 11


def test_the_slot_that_finishes_first_is_not_always_the_idle_one():
    """Giving each item to the least loaded slot would end at 8.0."""
    schedule = lpt_schedule([8, 7, 6], [1, 4])
    assert schedule == [[], [0, 1, 2]]
    assert makespan(schedule, [8, 7, 6], [1, 4]) == 5.25


@given(whole_costs, speed_lists)
def test_every_item_is_in_one_shard_and_shards_run_from_the_costliest_down(costs, speeds):
    shards = lpt_schedule(costs, speeds)
    assert len(shards) == len(speeds)
    assert sorted(item for shard in shards for item in shard) == list(range(len(costs)))
    for shard in shards:
        assert shard == sorted(shard, key=lambda item: (-costs[item], item))


@given(st.lists(st.integers(1, 50).map(float), max_size=40), speed_lists)
def test_it_is_the_rule_word_for_word(costs, speeds):
    assert lpt_schedule(costs, speeds) == by_the_book(costs, speeds)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=7), st.integers(1, 3))
def test_grahams_bound_holds_on_identical_slots(costs, slots):
    length = makespan(lpt_schedule(costs, [1] * slots), costs, [1] * slots)
    best = optimum(costs, slots)
    assert lower_bound(costs, slots) <= best <= length
    assert length <= (4 / 3 - 1 / (3 * slots)) * best + 1e-9


@given(st.integers(0, 100), st.integers(1, 7), st.sampled_from([0.0, 1.0, 2.5]))
def test_uniform_items_are_dealt_in_turn(count, slots, cost):
    expected = [list(range(slot, count, slots)) for slot in range(slots)]
    assert lpt_schedule([cost] * count, [1.0] * slots) == expected


def test_items_without_cost_are_spread():
    assert lpt_schedule([0, 9, 0, 0, 5, 0], [1, 1]) == [[1, 0, 3], [4, 2, 5]]


def test_nothing_to_do():
    assert lpt_schedule([], [1, 2]) == [[], []]
    assert makespan([[], []], [], [1, 2]) == 0
    assert lower_bound([], 2) == 0


def test_the_lower_bound_is_the_mean_load_or_the_longest_item():
    assert lower_bound([4, 4, 4], 2) == 6
    assert lower_bound([10, 1, 1], 2) == 10


@pytest.mark.parametrize("speed", [0, -1, math.nan, math.inf, True, "1"])
def test_a_bad_speed_is_named(speed):
    with pytest.raises(InvalidRequest, match="speed of slot 1"):
        lpt_schedule([1], [1, speed])


@pytest.mark.parametrize("speeds", [[], [1.0]])
def test_a_schedule_for_other_slots_is_refused(speeds):
    with pytest.raises(InvalidRequest):
        makespan([[0], [1]], [1, 2], speeds)


def test_there_must_be_a_slot():
    with pytest.raises(InvalidRequest):
        lpt_schedule([1], [])
    with pytest.raises(InvalidRequest):
        lower_bound([1], 0)


@pytest.mark.parametrize("function", [lpt_schedule, lambda costs, _: lower_bound(costs, 1)])
def test_a_bad_cost_is_refused(function):
    with pytest.raises(InvalidRequest, match="item 1"):
        function([1.0, math.nan], [1.0])
