"""Whatever happens to a batch plan, in whatever order: one outcome for each item, and an end."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from asyncgpu.errors import InvalidTransition
from asyncgpu.policy.shards import BatchPlan, ItemOutcome

SLOTS = range(5)
seconds = st.sampled_from([0.0, 1e-6, 0.001, 0.1, 10.0])


class PlanMachine(RuleBasedStateMachine):
    """Random inputs, beside a ledger of what was handed out and what came back."""

    @initialize(
        count=st.integers(0, 30),
        max_batch=st.none() | st.integers(1, 8),
        retries=st.integers(0, 2),
        rate=st.none() | st.just(0.001),
        data=st.data(),
    )
    def build(self, count, max_batch, retries, rate, data):
        cost = st.sampled_from([0.0, 0.5, 1.0, 1.0, 3.0, 100.0])
        costs = data.draw(st.none() | st.lists(cost, min_size=count, max_size=count))
        self.plan = BatchPlan(
            costs, count, max_batch=max_batch, retries=retries, seconds_per_cost=rate
        )
        self.count, self.retries, self.max_batch = count, retries, max_batch
        self.open = set()
        self.flying = []
        self.landed = None
        self.outcomes = {}
        self.failures = Counter()
        self.deaths_alone = Counter()
        self.cancelled = False

    def record(self, batch, settled):
        self.landed = batch
        assert set(settled.items) <= set(batch.items)
        for item in settled.items:
            assert item not in self.outcomes, "settled twice"
            self.outcomes[item] = settled.outcome
            if settled.outcome is ItemOutcome.FAILED:
                assert batch.alone
            if settled.outcome is ItemOutcome.DIED:
                assert self.cancelled or self.deaths_alone[item] == self.retries + 1

    @rule(slot=st.sampled_from(SLOTS), speed=st.sampled_from([1.0, 1.0, 4.0, 0.25]))
    def open_slot(self, slot, speed):
        if slot in self.open:
            with pytest.raises(InvalidTransition):
                self.plan.open_slot(slot, speed=speed)
        else:
            self.plan.open_slot(slot, speed=speed)
            self.open.add(slot)

    @rule(slot=st.sampled_from(SLOTS))
    def close_slot(self, slot):
        if slot in self.open:
            self.plan.close_slot(slot)
            self.open.discard(slot)
        else:
            with pytest.raises(InvalidTransition):
                self.plan.close_slot(slot)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def take(self, data):
        self.ask(data.draw(st.sampled_from(sorted(self.open))))

    def ask(self, slot):
        batch = self.plan.take(slot)
        if batch is None:
            return False
        assert not self.cancelled
        assert batch.slot == slot
        assert len(batch.items) >= 1
        assert batch.alone == (len(batch.items) == 1)
        assert self.max_batch is None or len(batch.items) <= self.max_batch
        in_flight = {item for other in self.flying for item in other.items}
        assert not in_flight.intersection(batch.items)
        assert not self.outcomes.keys() & set(batch.items)
        self.flying.append(batch)
        return True

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), what=st.sampled_from(["good", "good", "bad", "unfit", "dead", "back"]))
    def report(self, data, what):
        batch = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        if what == "good":
            settled = self.plan.succeeded(batch, data.draw(seconds))
            assert settled == (ItemOutcome.SUCCEEDED, batch.items)
        elif what == "bad":
            settled = self.plan.failed(batch)
        elif what == "unfit":
            settled = self.plan.failed(batch, unfit={batch.slot})
        elif what == "dead":
            self.deaths_alone.update(batch.items if batch.alone else ())
            settled = self.plan.died(batch)
        else:
            settled = self.plan.returned(batch)
            assert bool(settled.items) == self.cancelled
        self.record(batch, settled)

    @precondition(lambda self: self.landed)
    @rule()
    def report_twice(self):
        with pytest.raises(InvalidTransition):
            self.plan.succeeded(self.landed, 1.0)

    @precondition(lambda self: not self.cancelled)
    @rule(really=st.integers(0, 9))
    def cancel(self, really):
        if really:
            return
        settled = self.plan.cancel()
        self.cancelled = True
        for item in settled.items:
            assert item not in self.outcomes
            self.outcomes[item] = settled.outcome

    @invariant()
    def nothing_is_lost(self):
        if not hasattr(self, "plan"):
            return
        self.plan.check_invariants()
        flying = sum(len(batch.items) for batch in self.flying)
        assert self.plan.queued == self.count - flying - len(self.outcomes)
        assert self.plan.done == (len(self.outcomes) == self.count)

    def teardown(self):
        """However things stand, the plan can be brought to its end."""
        if not hasattr(self, "plan"):
            return
        if not self.open:
            self.plan.open_slot(0)
            self.open.add(0)
        while not self.plan.done:
            asked = [self.ask(slot) for slot in sorted(self.open)]
            assert self.flying, f"nobody gets the last items: {asked}"
            for batch in self.flying:
                self.record(batch, self.plan.succeeded(batch, 1.0))
            self.flying.clear()
            self.nothing_is_lost()
        assert sorted(self.outcomes) == list(range(self.count))
        assert self.plan.stats().outcomes == {
            outcome: list(self.outcomes.values()).count(outcome) for outcome in ItemOutcome
        }


TestPlan = PlanMachine.TestCase
TestPlan.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


def random_run(seed):
    """Drive a plan to its end by dice; return everything it decided."""
    dice = random.Random(seed)
    count = dice.randrange(1, 60)
    costs = dice.choice([None, [dice.choice([0.0, 1.0, 5.0]) for _ in range(count)]])
    plan = BatchPlan(costs, count, max_batch=dice.choice([None, 3]), retries=1)
    flying, idle, story = [], set(), []
    while not plan.done:
        move = dice.randrange(6)
        slot = dice.randrange(3)
        if move == 0 and slot not in idle:
            plan.open_slot(slot, speed=dice.choice([1.0, 2.0]))
            idle.add(slot)
        elif move == 1 and slot in idle:
            plan.close_slot(slot)
            idle.discard(slot)
        elif move in (2, 3) and slot in idle:
            batch = plan.take(slot)
            story.append(batch)
            flying += [batch] if batch else []
        elif flying:
            batch = flying.pop(dice.randrange(len(flying)))
            report = dice.choice([plan.failed, plan.died, None, None, None])
            story.append(report(batch) if report else plan.succeeded(batch, dice.random()))
    return story, plan.stats()


def test_the_same_inputs_lead_to_the_same_decisions():
    for seed in range(50):
        assert random_run(seed) == random_run(seed)
