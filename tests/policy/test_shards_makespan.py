"""How long whole runs take, in virtual time with true durations."""

from __future__ import annotations

import heapq
import random
from statistics import median

import pytest

from asyncgpu.policy.lpt import lower_bound, lpt_schedule, makespan
from asyncgpu.policy.shards import BatchPlan, ItemOutcome

from .batch_simulator import Simulator

SEEDS = range(20)


def simulate(costs, durations, speeds, *, plan=None, **world):
    simulator = Simulator(
        BatchPlan(costs, len(durations), **plan or {}), durations, speeds, **world
    )
    return simulator.run(), simulator


def lognormal(seed, count=200, scale=1.0):
    rng = random.Random(seed)
    return [scale * rng.lognormvariate(0, 1.2) for _ in range(count)]


def one_by_one(durations, slots):
    """A queue of single items in the given order: the best that can be done without costs."""
    ends = [0.0] * slots
    for seconds in durations:
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)


@pytest.mark.parametrize("slots", [2, 4])
@pytest.mark.parametrize("scale", [1.0, 0.04, 0.004])
def test_with_right_costs_all_slots_end_together(slots, scale):
    for seed in SEEDS:
        durations = lognormal(seed, scale=scale)
        length, _ = simulate(durations, durations, [1.0] * slots)
        assert length <= 1.01 * lower_bound(durations, slots)


@pytest.mark.parametrize("slots", [2, 4])
@pytest.mark.parametrize("scale", [1.0, 0.04])
def test_without_costs_a_run_is_as_short_as_items_taken_one_by_one(slots, scale):
    """Where a giant comes last nobody can help it; mostly a run stays within 5 % of the bound."""
    ratios = []
    for seed in SEEDS:
        durations = lognormal(seed, scale=scale)
        length, _ = simulate(None, durations, [1.0] * slots)
        assert length <= 1.01 * one_by_one(durations, slots)
        ratios.append(length / lower_bound(durations, slots))
    assert median(ratios) <= 1.05
    assert ratios[0] <= 1.05  # the row of benchmarks/


@pytest.mark.parametrize("scale", [1.0, 0.04, 0.004])
def test_costs_that_hide_an_alternation_do_no_harm(scale):
    """10, 1, 10, 1, ... with uniform estimates: dealing in turn would take nearly twice as long."""
    durations = [10 * scale, 1 * scale] * 20
    length, _ = simulate(None, durations, [1.0, 1.0])
    assert length <= 1.1 * lower_bound(durations, 2)


def test_misleading_costs_do_little_harm():
    """The estimates say the opposite of the truth."""
    for seed in SEEDS:
        durations = lognormal(seed)
        length, _ = simulate([1 / seconds for seconds in durations], durations, [1.0, 1.0])
        assert length <= lower_bound(durations, 2) + max(durations)


def test_three_equal_slots():
    costs = [5, 5, 4, 4, 3, 3, 3]
    assert simulate(costs, costs, [1.0] * 3)[0] == 11


def test_the_slot_that_finishes_first_is_not_always_the_idle_one():
    length, simulator = simulate([8, 7, 6], [8, 7, 6], [1.0, 4.0], declared=[1.0, 4.0])
    assert length == 5.25
    assert {batch.slot for batch in simulator.batches} == {1}


@pytest.mark.parametrize("speeds", [[1.0, 4.0], [1.0, 1.0, 2.0, 4.0]])
def test_slots_of_known_speeds_do_as_well_as_the_schedule_made_beforehand(speeds):
    for seed in SEEDS:
        durations = lognormal(seed)
        length, _ = simulate(durations, durations, speeds, declared=speeds)
        assert length <= 1.01 * makespan(lpt_schedule(durations, speeds), durations, speeds)


def test_speeds_nobody_declared_are_found_out():
    for seed in SEEDS:
        durations = lognormal(seed, count=400)
        length, simulator = simulate(None, durations, [1.0, 4.0])
        assert length <= 1.05 * (sum(durations) + 4 * max(durations)) / 5
        slots = simulator.plan.stats().slots
        assert slots[1].items > 2 * slots[0].items
        assert 1.5 < slots[1].speed / slots[0].speed < 4.5


def test_equal_items_show_the_speeds_exactly():
    _, simulator = simulate(None, [0.001] * 20_000, [1.0, 4.0])
    slots = simulator.plan.stats().slots
    assert slots[1].speed / slots[0].speed == pytest.approx(4, rel=0.05)


def test_slots_of_one_speed_stay_equal_whatever_the_items():
    _, simulator = simulate(None, lognormal(0), [1.0] * 4)
    assert {slot.speed for slot in simulator.plan.stats().slots.values()} == {1.0}


def test_a_late_slot_takes_its_part():
    for seed in SEEDS:
        durations = lognormal(seed)
        late = sum(durations) / 4
        length, _ = simulate(durations, durations, [1.0, 1.0], joins={1: late})
        assert length <= 1.01 * (sum(durations) + late) / 2


def test_full_batches_end_nearly_together():
    for seed in SEEDS:
        durations = lognormal(seed, count=1000)
        length, simulator = simulate(durations, durations, [1.0] * 4, plan={"max_batch": 16})
        assert length <= 1.05 * lower_bound(durations, 4)
        assert len(simulator.batches) <= 1.6 * 1000 / 16


def test_the_overhead_of_messages_is_paid_seldom():
    """Ten thousand items of 0.3 us, 100 us for a message."""
    length, simulator = simulate(None, [3e-7] * 10_000, [1.0, 1.0], overhead=1e-4)
    assert length <= 0.003
    assert len(simulator.batches) <= 20


def test_a_warm_up_does_not_spoil_the_sizes():
    _, simulator = simulate(None, [1e-4] * 10_000, [1.0, 1.0], overhead=1e-4, warm_up=5.0)
    assert len(simulator.batches) < 100


class TestBadItems:
    def outcomes(self, simulator):
        return {outcome: n for outcome, n in simulator.plan.stats().outcomes.items() if n}

    def test_one_poison_item_fails_alone(self):
        _, simulator = simulate(None, [0.01] * 100, [1.0, 1.0], poison=frozenset({37}))
        assert simulator.outcomes[37] is ItemOutcome.FAILED
        assert self.outcomes(simulator) == {ItemOutcome.SUCCEEDED: 99, ItemOutcome.FAILED: 1}

    @pytest.mark.parametrize("retries", [0, 1, 2])
    def test_a_deadly_item_is_quarantined_and_the_rest_succeeds(self, retries):
        _, simulator = simulate(
            None,
            [0.01] * 100,
            [1.0, 1.0, 1.0],
            plan={"retries": retries, "max_batch": 4},
            deadly=frozenset({37}),
            restart=0.02,
        )
        assert simulator.outcomes[37] is ItemOutcome.DIED
        assert self.outcomes(simulator) == {ItemOutcome.SUCCEEDED: 99, ItemOutcome.DIED: 1}
        _, *alone = simulator.deaths[37]
        assert len(alone) == retries + 1
        assert len(set(alone)) == len(alone), "tried elsewhere each time"

    def test_a_slot_that_dies_again_and_again_loses_nothing(self):
        """Half of the items are deadly; the only slot is back each time."""
        deadly = frozenset(range(0, 40, 2))
        _, simulator = simulate(None, [1.0] * 40, [1.0], deadly=deadly, restart=3.0)
        assert {item for item, what in simulator.outcomes.items() if what.name == "DIED"} == deadly
        assert all(len(deaths) == 2 for deaths in simulator.deaths.values())

    def test_poison_among_tiny_items_costs_one_batch_of_single_runs(self):
        _, simulator = simulate(None, [3e-7] * 10_000, [1.0, 1.0], poison=frozenset({5000}))
        assert self.outcomes(simulator)[ItemOutcome.SUCCEEDED] == 9999
        broken = next(batch for batch in simulator.batches if 5000 in batch.items)
        assert simulator.plan.stats().retries == len(broken.items)
