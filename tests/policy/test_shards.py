"""A batch plan, input by input."""

from __future__ import annotations

import math

import pytest

from asyncgpu.errors import InvalidRequest, InvalidTransition
from asyncgpu.policy.shards import BatchPlan, ItemOutcome

SUCCEEDED, FAILED = ItemOutcome.SUCCEEDED, ItemOutcome.FAILED
DIED, CANCELLED = ItemOutcome.DIED, ItemOutcome.CANCELLED


def open_plan(costs, count, *, slots=2, **options):
    plan = BatchPlan(costs, count, **options)
    for slot in range(slots):
        plan.open_slot(slot)
    return plan


def drain(plan, slots, seconds=1.0):
    """Run what is left, one slot after the other; return the items of each batch."""
    batches = []
    while not plan.done:
        taken = [batch for slot in slots if (batch := plan.take(slot))]
        assert taken
        for batch in taken:
            plan.succeeded(batch, seconds)
            batches.append(list(batch.items))
    return batches


class TestOrder:
    def test_the_costliest_item_goes_first_and_equal_ones_keep_their_order(self):
        plan = open_plan([1, 3, 2, 3, 1], 5, slots=1, max_batch=1)
        assert drain(plan, [0]) == [[1], [3], [2], [0], [4]]

    def test_without_costs_items_go_in_order_and_as_ranges(self):
        plan = open_plan(None, 10, slots=1, max_batch=4)
        batches = []
        while batch := plan.take(0):
            batches.append(batch.items)
            plan.succeeded(batch, 1.0)
        assert batches == [range(4), range(4, 8), range(8, 10)]

    def test_costs_that_are_all_zero_are_uniform(self):
        plan = open_plan([0.0] * 4, 4, max_batch=2)
        assert plan.take(0).items == range(2)

    @pytest.mark.parametrize("opening", [[0, 1, 2], [2, 1, 0]])
    def test_the_order_in_which_slots_open_decides_nothing(self, opening):
        plan = BatchPlan([8, 7], 2)
        for slot in opening:
            plan.open_slot(slot, speed=4.0 if slot else 1.0)
        assert plan.take(0) is None
        assert plan.take(1).items == (0,)
        assert plan.take(2).items == (1,)

    def test_a_fast_slot_keeps_what_it_finishes_earlier(self):
        plan = BatchPlan([8, 7, 6], 3)
        plan.open_slot(0, speed=1.0)
        plan.open_slot(1, speed=4.0)
        assert plan.take(0) is None
        assert [list(batch.items) for batch in [plan.take(1)]] == [[0]]

    def test_work_kept_for_a_slot_is_stolen_from_its_tail(self):
        plan = BatchPlan([8, 7, 6], 3, max_batch=1)
        plan.open_slot(0, speed=1.0)
        plan.open_slot(1, speed=4.0)
        assert plan.take(0) is None  # all three are kept for the fast slot
        plan.open_slot(2, speed=4.0)
        assert plan.take(2).items == (2,)
        assert plan.stats().slots[2].steals == plan.stats().steals == 1
        assert plan.take(0) is None  # it would need longer than the owner

    def test_the_queue_of_a_slot_that_leaves_goes_to_the_others(self):
        plan = BatchPlan([8, 7, 6], 3, max_batch=1)
        plan.open_slot(0, speed=1.0)
        plan.open_slot(1, speed=4.0)
        assert plan.take(0) is None
        plan.close_slot(1)
        assert drain(plan, [0]) == [[0], [1], [2]]

    def test_work_waits_for_a_slot(self):
        plan = open_plan(None, 3, slots=1, max_batch=1)
        plan.close_slot(0)
        assert plan.queued == 3
        plan.open_slot(7)
        assert drain(plan, [7]) == [[0], [1], [2]]

    def test_a_batch_in_flight_outlives_its_slot(self):
        plan = open_plan(None, 1, slots=1)
        batch = plan.take(0)
        plan.close_slot(0)
        assert plan.succeeded(batch, 1.0).items == range(1)
        assert plan.done

    def test_a_slot_may_hold_several_batches(self):
        plan = open_plan(None, 4, slots=1, max_batch=1)
        first, second = plan.take(0), plan.take(0)
        plan.succeeded(second, 1.0)
        plan.succeeded(first, 1.0)
        assert plan.queued == 2

    def test_an_empty_plan_is_done(self):
        plan = open_plan(None, 0)
        assert plan.done
        assert plan.take(0) is None


class TestFailure:
    def test_a_failed_batch_is_run_again_item_by_item(self):
        plan = open_plan([4, 3, 2, 1], 4, slots=1, max_batch=3)
        batch = plan.take(0)
        assert (list(batch.items), batch.alone, batch.attempt) == ([0, 1, 2], False, 1)
        assert plan.failed(batch) == (FAILED, ())
        outcomes = {}
        for item in (0, 1, 2):
            again = plan.take(0)
            assert (list(again.items), again.alone, again.attempt) == ([item], True, 2)
            settled = plan.failed(again) if item == 1 else plan.succeeded(again, 1.0)
            outcomes.update(dict.fromkeys(settled.items, settled.outcome))
        assert outcomes == {0: SUCCEEDED, 1: FAILED, 2: SUCCEEDED}
        assert drain(plan, [0]) == [[3]]
        assert plan.stats().retries == 3

    def test_a_single_item_that_fails_has_failed(self):
        plan = open_plan(None, 1, slots=1)
        assert plan.failed(plan.take(0)) == (FAILED, range(1))
        assert plan.done

    @pytest.mark.parametrize("retries", [0, 1, 3])
    def test_an_item_is_quarantined_after_one_death_more_than_retries(self, retries):
        plan = open_plan(None, 1, slots=2, retries=retries)
        for attempt in range(1, retries + 1):
            batch = plan.take(0) or plan.take(1)
            assert (batch.attempt, batch.alone) == (attempt, True)
            assert plan.died(batch) == (DIED, ())
        assert plan.died(plan.take(0) or plan.take(1)) == (DIED, range(1))
        assert plan.done

    def test_dying_beside_others_does_not_count(self):
        plan = open_plan(None, 2, slots=1, max_batch=2, retries=1)
        plan.died(plan.take(0))
        first = plan.take(0)
        assert plan.died(first) == (DIED, ())  # the first death alone
        second = plan.take(0)
        assert second.items != first.items
        plan.succeeded(second, 1.0)
        third = plan.take(0)
        assert (third.items, third.attempt) == (first.items, 3)
        assert plan.died(third) == (DIED, first.items)

    def test_suspects_go_first_to_a_slot_that_did_not_die_under_them(self):
        plan = open_plan(None, 6, max_batch=2)
        batch = plan.take(0)
        plan.died(batch)
        assert plan.take(0).items == range(2, 4)  # other work first
        assert [plan.take(1).items for _ in batch.items] == [range(1), range(1, 2)]

    def test_a_slot_without_other_work_helps_with_its_own_suspects(self):
        plan = open_plan(None, 4, max_batch=2)
        plan.died(plan.take(0))
        assert plan.take(1).items == range(1)
        other = plan.take(0)
        assert other.items == range(2, 4)
        plan.succeeded(other, 1.0)
        assert plan.take(0).items == range(1, 2)

    def test_an_item_that_killed_a_worker_alone_waits_for_another_slot(self):
        plan = open_plan(None, 1)
        plan.died(plan.take(0))
        assert plan.take(0) is None
        assert plan.take(1).items == range(1)

    def test_it_goes_back_if_there_is_no_other_slot(self):
        plan = open_plan(None, 1)
        plan.died(plan.take(0))
        plan.close_slot(1)
        assert plan.take(0).attempt == 2

    def test_it_comes_after_all_other_work(self):
        plan = open_plan(None, 3, slots=1, max_batch=1)
        plan.died(plan.take(0))
        assert drain(plan, [0]) == [[1], [2], [0]]

    def test_out_of_memory_alone_is_tried_on_another_slot(self):
        plan = open_plan(None, 1, slots=3)
        batch = plan.take(0)
        assert plan.failed(batch, unfit={0, 1}) == (FAILED, ())
        assert plan.take(1) is None
        again = plan.take(2)
        assert plan.failed(again, unfit={2}) == (FAILED, range(1))
        assert plan.done

    def test_out_of_memory_together_makes_later_batches_smaller(self):
        plan = open_plan(None, 40, slots=1, max_batch=8)
        plan.failed(plan.take(0), unfit={0})
        sizes = [len(items) for items in drain(plan, [0])]
        assert sizes == [4] * 10  # the two halves first

    def test_a_returned_batch_goes_out_again_and_counts_for_nothing(self):
        plan = open_plan(None, 4, slots=1, max_batch=2, retries=0)
        assert plan.returned(plan.take(0)).items == ()
        batch = plan.take(0)
        assert (list(batch.items), batch.attempt) == ([0, 1], 1)
        plan.failed(batch)
        plan.returned(plan.take(0))
        assert sorted(map(tuple, drain(plan, [0]))) == [(0,), (1,), (2, 3)]


class TestCancel:
    def test_queued_items_settle_at_once_and_nothing_starts(self):
        plan = open_plan(None, 6, max_batch=2)
        batch = plan.take(0)
        assert plan.cancel() == (CANCELLED, tuple(range(2, 6)))
        assert plan.take(1) is None
        assert not plan.done
        assert plan.succeeded(batch, 1.0) == (SUCCEEDED, range(2))
        assert plan.done

    def test_a_second_cancel_settles_nothing(self):
        plan = open_plan(None, 2)
        plan.cancel()
        assert plan.cancel() == (CANCELLED, ())

    @pytest.mark.parametrize("report", ["failed", "died", "returned"])
    def test_a_broken_batch_is_not_run_again(self, report):
        plan = open_plan(None, 2, slots=1, max_batch=2)
        batch = plan.take(0)
        plan.cancel()
        assert getattr(plan, report)(batch) == (CANCELLED, range(2))
        assert plan.done

    @pytest.mark.parametrize(("report", "outcome"), [("failed", FAILED), ("died", DIED)])
    def test_a_single_item_keeps_its_own_outcome(self, report, outcome):
        plan = open_plan(None, 1, slots=1)
        batch = plan.take(0)
        plan.cancel()
        assert getattr(plan, report)(batch) == (outcome, range(1))

    def test_suspects_are_cancelled_too(self):
        plan = open_plan(None, 2, slots=1, max_batch=2)
        plan.failed(plan.take(0))
        assert plan.cancel().items == (0, 1)
        assert plan.done


class TestImpossible:
    def refuses(self, plan, call, *args):
        before = plan.stats()
        with pytest.raises(InvalidTransition) as caught:
            call(*args)
        assert plan.stats() == before
        plan.check_invariants()
        return caught.value

    def test_a_batch_is_reported_once(self):
        plan = open_plan(None, 2, max_batch=1)
        batch = plan.take(0)
        plan.succeeded(batch, 1.0)
        error = self.refuses(plan, plan.succeeded, batch, 1.0)
        for report in (plan.failed, plan.died, plan.returned):
            self.refuses(plan, report, batch)
        assert error.history == ("open_slot 0", "open_slot 1", "take 0", "succeeded 0")
        assert "succeeded batch 0 is impossible in 1 items left" in str(error)

    def test_the_batch_of_another_plan_is_not_known(self):
        ours, theirs = open_plan(None, 2), open_plan(None, 2)
        ours.take(0)
        self.refuses(ours, ours.died, theirs.take(0))

    def test_a_slot_opens_once_and_closes_once(self):
        plan = open_plan(None, 2)
        self.refuses(plan, plan.open_slot, 0)
        plan.close_slot(0)
        self.refuses(plan, plan.close_slot, 0)
        self.refuses(plan, plan.take, 0)
        plan.open_slot(0)

    @pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
    def test_bad_seconds_leave_the_batch_in_flight(self, seconds):
        plan = open_plan(None, 1)
        batch = plan.take(0)
        with pytest.raises(InvalidRequest, match="batch 0"):
            plan.succeeded(batch, seconds)
        plan.succeeded(batch, 0.0)

    @pytest.mark.parametrize("speed", [0.0, -1.0, math.nan, math.inf, True])
    def test_a_bad_speed_is_refused(self, speed):
        plan = BatchPlan(None, 1)
        with pytest.raises(InvalidRequest, match="slot 3"):
            plan.open_slot(3, speed=speed)
        plan.open_slot(3)

    @pytest.mark.parametrize(
        ("costs", "count", "options", "named"),
        [
            ([1.0], 2, {}, "1 costs for 2 items"),
            ([1.0, -1.0], 2, {}, "item 1"),
            (None, -1, {}, "count"),
            (None, True, {}, "count"),
            (None, 1, {"max_batch": 0}, "max_batch"),
            (None, 1, {"max_batch": True}, "max_batch"),
            (None, 1, {"retries": -1}, "retries"),
            (None, 1, {"retries": True}, "retries"),
            (None, 1, {"target_seconds": 0.0}, "target_seconds"),
            (None, 1, {"grain_seconds": -1.0}, "grain_seconds"),
            (None, 1, {"seconds_per_cost": math.nan}, "seconds_per_cost"),
        ],
    )
    def test_a_bad_parameter_is_named(self, costs, count, options, named):
        with pytest.raises(InvalidRequest, match=named):
            BatchPlan(costs, count, **options)


def test_the_statistics_add_up():
    plan = open_plan([4, 3, 2, 1], 4, max_batch=2)
    first, second = plan.take(0), plan.take(1)
    assert (first.items, second.items) == ((0,), (1, 2))
    plan.succeeded(first, 8.0)
    plan.failed(second)
    plan.take(1)
    stats = plan.stats()
    assert (stats.queued, stats.in_flight) == (2, 1)
    assert (stats.batches, stats.retries, stats.steals) == (3, 1, 0)
    assert stats.outcomes == {SUCCEEDED: 1, FAILED: 0, DIED: 0, CANCELLED: 0}
    assert stats.seconds_per_cost == 2.0
    assert (stats.slots[0].seconds, stats.slots[0].items) == (8.0, 1)
    assert (stats.slots[1].seconds, stats.slots[1].items) == (0.0, 0)
