"""Items that are admitted while others run: the rules of every run, and nothing remembered."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgpu.errors import InvalidRequest, InvalidTransition
from asyncgpu.policy.arrivals import ArrivalOrder, ArrivalPlan, rank_of
from asyncgpu.policy.shards import ItemOutcome

costs = st.floats(0, 1e280)


@given(st.lists(costs, min_size=1, max_size=30))
def test_ranks_sort_by_cost_and_then_by_arrival_and_hold_both(given_costs):
    order = ArrivalOrder()
    ranks = [rank_of(cost, number) for number, cost in enumerate(given_costs)]
    assert list(order.items(ranks)) == list(range(len(ranks)))
    assert list(map(order.cost_at, ranks)) == given_costs
    by_rank = order.items(sorted(ranks))
    assert list(by_rank) == sorted(range(len(ranks)), key=lambda n: (-given_costs[n], n))


def test_the_costliest_of_those_that_are_there_goes_next():
    plan = ArrivalPlan(max_batch=1)
    plan.open_slot(0)
    for cost in (3, 9, 5):
        plan.admit(cost)
    first = plan.take(0)
    plan.admit(7)
    plan.succeeded(first, 1.0)
    order = [first.items[0]]
    while batch := plan.take(0):
        plan.succeeded(batch, 1.0)
        order.append(batch.items[0])
        plan.check_invariants()
    assert order == [1, 3, 2, 0]


def test_it_is_done_when_it_is_complete_and_everything_has_settled():
    plan = ArrivalPlan()
    assert not plan.done
    plan.open_slot(0)
    plan.admit()
    plan.complete()
    assert not plan.done
    plan.succeeded(plan.take(0), 1.0)
    assert plan.done


def test_nothing_is_admitted_after_the_end_or_a_cancel():
    for end in (ArrivalPlan.complete, ArrivalPlan.cancel):
        plan = ArrivalPlan()
        end(plan)
        with pytest.raises(InvalidTransition):
            plan.admit()


@pytest.mark.parametrize("cost", [-1, float("nan"), float("inf"), 1e281, "5", True, None])
def test_a_cost_that_means_nothing_names_its_item_and_changes_nothing(cost):
    plan = ArrivalPlan()
    plan.admit()
    with pytest.raises(InvalidRequest, match="item 1"):
        plan.admit(cost)
    assert (plan.admitted, plan.queued) == (1, 1)
    plan.check_invariants()


def test_minus_zero_is_zero():
    plan = ArrivalPlan(max_batch=1)
    plan.open_slot(0)
    plan.admit(-0.0)
    plan.admit(0.0)
    assert plan.take(0).items == (0,)


def test_a_giant_that_came_and_went_leaves_the_loads_of_others_right():
    plan = ArrivalPlan(max_batch=1)
    for cost in (1e200, 3.0, 2.0):
        plan.admit(cost)
    plan.open_slot(0)
    plan.succeeded(plan.take(0), 1.0)
    plan.check_invariants()


def test_an_endless_run_remembers_nothing_of_what_has_settled():
    """After each of ten thousand items, what the plan holds is that one item."""
    plan = ArrivalPlan()
    plan.open_slot(0)
    for number in range(10_000):
        assert plan.admit(1.0 + number % 3) == number
        plan.succeeded(plan.take(0), 1e-4)
    assert plan.queued == 0
    assert plan.stats().outcomes[ItemOutcome.SUCCEEDED] == 10_000
    held = [value for value in vars(plan).values() if hasattr(value, "__len__")]
    assert max(map(len, held)) <= 20
    plan.check_invariants()


class Chance:
    """Random inputs to one plan, beside a ledger of the outcomes."""

    def __init__(self, seed):
        self.dice = random.Random(seed)
        self.plan = ArrivalPlan(max_batch=self.dice.choice([None, 1, 4]), retries=1)
        self.outcomes, self.flying, self.opened = {}, [], set()

    def admit(self):
        self.plan.admit(self.dice.choice([0.0, 1.0, 1.0, 2.5, 100.0]))

    def feed(self):
        for slot in sorted(self.opened):
            if batch := self.plan.take(slot):
                self.flying.append(batch)

    def land(self):
        if not self.flying:
            return
        batch = self.flying.pop(self.dice.randrange(len(self.flying)))
        how = self.dice.choice(["succeeded", "succeeded", "failed", "died", "returned"])
        seconds = (self.dice.choice([0.0, 1e-4, 0.5]),) if how == "succeeded" else ()
        settled = getattr(self.plan, how)(batch, *seconds)
        assert not self.outcomes.keys() & set(settled.items), "settled twice"
        self.outcomes.update(dict.fromkeys(settled.items, settled.outcome))

    def open(self):
        if closed := {0, 1, 2} - self.opened:
            self.opened.add(min(closed))
            self.plan.open_slot(min(closed), speed=self.dice.choice([1.0, 1.0, 4.0]))

    def close(self):
        if self.opened:
            self.plan.close_slot(self.opened.pop())


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_each_item_has_one_outcome(seed):
    run = Chance(seed)
    for _ in range(200):
        getattr(run, run.dice.choice(["admit", "admit", "feed", "land", "open", "close"]))()
        run.plan.check_invariants()
    run.plan.complete()
    run.open()
    while not run.plan.done:
        run.feed()
        assert run.flying, "items are left, a slot is open, and nobody gets anything"
        run.land()
        run.plan.check_invariants()
    assert sorted(run.outcomes) == list(range(run.plan.admitted))
