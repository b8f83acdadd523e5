"""How large a micro-batch may be."""

from __future__ import annotations

import pytest

from asyncgpu.policy.shards import BatchPlan


def sizes(plan, slots, seconds_of):
    """Let all slots take and report in turn; return the batch sizes in order."""
    found = []
    while not plan.done:
        batches = [plan.take(slot) for slot in slots]
        for batch in filter(None, batches):
            found.append(len(batch.items))
            plan.succeeded(batch, seconds_of(len(batch.items)))
    return found


def two_slots(count, costs=None, **options):
    plan = BatchPlan(costs, count, **options)
    plan.open_slot(0)
    plan.open_slot(1)
    return plan


def test_max_batch_gives_full_batches_and_levels_the_end():
    plan = two_slots(100, max_batch=32)
    assert sizes(plan, [0, 1], lambda _: 1.0) == [32, 32, 18, 18]


def test_max_batch_leaves_every_slot_its_share():
    plan = two_slots(8, max_batch=32)
    assert sizes(plan, [0, 1], lambda _: 1.0) == [4, 4]


def test_a_share_is_measured_in_cost():
    plan = two_slots(6, [10, 2, 2, 2, 2, 2], max_batch=6)
    assert sizes(plan, [0, 1], lambda _: 1.0) == [1, 5]


def test_without_a_rate_a_run_starts_with_one_item_and_grows_geometrically():
    plan = two_slots(10_000)
    first = sizes(plan, [0, 1], lambda items: 1e-6 * items)
    assert first[:8] == [1, 1, 8, 8, 64, 64, 512, 512]
    assert sum(first) == 10_000


def test_a_known_rate_skips_the_probing():
    plan = two_slots(10_000, seconds_per_cost=1e-6)
    assert plan.take(0).items == range(2500)


def test_a_batch_lasts_the_target():
    plan = two_slots(10_000, target_seconds=0.05)
    batches = sizes(plan, [0, 1], lambda items: 0.01 * items)
    assert max(batches) == 5
    assert batches.count(5) > 1900


def test_at_most_half_of_a_fair_share_goes_out_at_once():
    plan = two_slots(1000, seconds_per_cost=1e-5)
    left = 1000
    while batch := plan.take(0):
        assert len(batch.items) <= max(left / 4, 100)  # 100 items last a grain
        left -= len(batch.items)
        plan.succeeded(batch, 1e-5 * len(batch.items))
    assert left == 0


def test_what_lasts_less_than_a_grain_is_not_cut_up():
    plan = two_slots(1000, seconds_per_cost=1e-6, grain_seconds=0.001)
    assert plan.take(0).items == range(1000)
    plan = two_slots(1000, seconds_per_cost=1e-6, grain_seconds=0.0)
    assert plan.take(0).items == range(250)


def test_a_fast_slot_gets_larger_batches():
    plan = BatchPlan(None, 10_000, seconds_per_cost=0.001)
    plan.open_slot(0, speed=1.0)
    plan.open_slot(1, speed=4.0)
    assert len(plan.take(1).items) == pytest.approx(4 * len(plan.take(0).items), abs=4)


def test_limits_hold_for_work_kept_for_a_slot_too():
    plan = BatchPlan([8, 7, 6], 3, seconds_per_cost=0.01)
    plan.open_slot(0, speed=1.0)
    plan.open_slot(1, speed=4.0)
    assert plan.take(0) is None  # all of it is kept for the fast slot
    assert plan.take(1).items == (0,)


def test_a_first_batch_of_kept_work_is_one_item_too():
    plan = BatchPlan(None, 20)
    plan.open_slot(0, speed=1.0)
    plan.open_slot(1, speed=4.0)
    assert plan.take(0).items == range(3, 4)  # three are kept for the fast slot
    assert plan.take(1).items == range(1)


def test_what_one_slot_measures_counts_for_another_by_their_speeds():
    plan = BatchPlan(None, 1000)
    plan.open_slot(0, speed=1.0)
    plan.open_slot(1, speed=4.0)
    plan.succeeded(plan.take(1), 0.01)
    assert len(plan.take(1).items) == 5
    assert len(plan.take(0).items) == 1


def test_single_runs_of_suspects_say_nothing_of_the_rate():
    plan = two_slots(4, max_batch=2)
    plan.failed(plan.take(0))
    plan.succeeded(plan.take(0), 5.0)
    assert plan.stats().seconds_per_cost is None
    assert plan.stats().slots[0].seconds == 5.0


def test_a_slow_first_batch_is_soon_forgotten():
    """Five seconds of warm-up, then ten microseconds for each item."""
    plan = two_slots(100_000)
    started: set[int] = set()

    def seconds(items):
        warm_up = 5.0 if len(started) < 2 else 0.0
        started.add(len(started))
        return warm_up + 1e-5 * items

    assert len(sizes(plan, [0, 1], seconds)) < 150


def test_ten_thousand_tiny_items_need_few_batches_all_of_them_ranges():
    plan = two_slots(10_000)
    batches = 0
    while not plan.done:
        for slot in (0, 1):
            if batch := plan.take(slot):
                assert isinstance(batch.items, range)
                plan.succeeded(batch, 1e-4 + 3e-7 * len(batch.items))
                batches += 1
    assert batches <= 24


def test_items_said_to_cost_nothing_are_shared_out_by_number():
    plan = two_slots(102, [1.0, 1.0] + [0.0] * 100)
    for slot in (0, 1):
        plan.succeeded(plan.take(slot), 1.0)
    assert 1 <= len(plan.take(0).items) <= 25


@pytest.mark.parametrize("seconds", [0.0, 5e-324, 1e300])
@pytest.mark.parametrize(
    "costs",
    [None, [1e-300] * 3 + [1.0] * 47, [1e305] * 25 + [1.0] * 25, [1.0] + [0.0] * 49],
)
def test_absurd_rates_do_no_harm(seconds, costs):
    plan = BatchPlan(costs, 50)
    plan.open_slot(0, speed=1e-300)
    plan.open_slot(1, speed=1e300)
    assert sum(sizes(plan, [0, 1], lambda _: seconds)) == 50
    plan.check_invariants()
