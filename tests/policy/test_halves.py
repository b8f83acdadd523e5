"""Batches that were out of memory."""

from __future__ import annotations

import pytest

from asyncgpu.policy.shards import BatchPlan, ItemOutcome


def run(plan, fits, slots=(0,)):
    """Run everything on `slots`; return the sizes in order, and what failed for good."""
    sizes, failed = [], []
    for slot in slots:
        plan.open_slot(slot)
    while not plan.done:
        batch = next(batch for slot in slots if (batch := plan.take(slot)))
        sizes.append(len(batch.items))
        if fits(batch):
            plan.succeeded(batch, 0.1)
        else:
            failed += plan.failed(batch, unfit={batch.slot}).items
        plan.check_invariants()
    return sizes, failed


def test_halves_of_halves_until_they_fit():
    plan = BatchPlan(None, 8, max_batch=8)
    sizes, failed = run(plan, lambda batch: len(batch.items) <= 2)
    assert sizes == [8, 4, 4, 2, 2, 2, 2]
    assert not failed


def test_what_was_learnt_holds_for_later_batches():
    plan = BatchPlan(None, 32, max_batch=8)
    sizes, _ = run(plan, lambda batch: len(batch.items) <= 4)
    assert sizes == [8] + [4] * 8


def test_a_giant_is_found_in_a_few_steps_and_fails_alone():
    plan = BatchPlan(None, 16, max_batch=16)
    sizes, failed = run(plan, lambda batch: 5 not in batch.items)
    assert failed == [5]
    assert sizes == [16, 8, 8, 4, 4, 2, 2, 1, 1]
    assert plan.stats().outcomes[ItemOutcome.SUCCEEDED] == 15


def test_a_giant_goes_to_the_slot_that_has_room():
    plan = BatchPlan(None, 4, max_batch=4)
    sizes, failed = run(plan, lambda b: b.slot == 1 or 2 not in b.items, slots=(0, 1))
    assert not failed
    assert sum(sizes) >= 4


@pytest.mark.parametrize("count", [2, 3, 5])
def test_halves_are_handed_out_once_each_and_count_as_further_runs(count):
    plan = BatchPlan(None, count, max_batch=count)
    plan.open_slot(0)
    plan.failed(plan.take(0), unfit={0})
    assert plan.queued == count
    first, second = plan.take(0), plan.take(0)
    assert [*first.items, *second.items] == list(range(count))
    assert (first.attempt, second.attempt) == (2, 2)
    assert plan.stats().retries == 2


def test_a_half_that_was_never_run_is_the_next():
    plan = BatchPlan(None, 4, max_batch=4)
    plan.open_slot(0)
    plan.failed(plan.take(0), unfit={0})
    first = plan.take(0)
    plan.returned(first)
    assert plan.take(0).items == first.items
    plan.check_invariants()


def test_once_cancelled_nothing_is_run_again():
    plan = BatchPlan(None, 8, max_batch=4)
    plan.open_slot(0)
    plan.failed(plan.take(0), unfit={0})
    batch = plan.take(0)
    assert plan.cancel().outcome is ItemOutcome.CANCELLED
    assert plan.failed(batch, unfit={0}) == (ItemOutcome.CANCELLED, batch.items)
    assert plan.done
