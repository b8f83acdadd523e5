"""Turns under every order of requests and returns."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asyncgpu.errors import InvalidTransition
from asyncgpu.policy.turns import TurnQueue


class Turns(RuleBasedStateMachine):
    """Beside a queue runs the simplest thing that is right: a list of tickets in arrival order."""

    @initialize(limit=st.one_of(st.none(), st.integers(1, 4)))
    def open(self, limit):
        self.limit = limit
        self.queue = TurnQueue(limit)
        self.tickets = []

    @property
    def places(self):
        return len(self.tickets) if self.limit is None else self.limit

    @rule()
    def request(self):
        free = self.queue.free
        self.tickets.append(self.queue.request())
        assert self.queue.holds(self.tickets[-1]) is free

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def drop(self, data):
        ticket = data.draw(st.sampled_from(self.tickets))
        waiting = self.tickets[self.places :]
        held = self.queue.holds(ticket)
        granted = self.queue.drop(ticket)
        self.tickets.remove(ticket)
        assert granted == (waiting[0] if held and waiting else None)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def drop_twice(self, data):
        ticket = data.draw(st.sampled_from(self.tickets))
        self.drop_known(ticket)
        with pytest.raises(InvalidTransition, match="gone"):
            self.queue.drop(ticket)

    def drop_known(self, ticket):
        self.queue.drop(ticket)
        self.tickets.remove(ticket)

    @invariant()
    def the_earliest_hold_the_turns(self):
        if not hasattr(self, "queue"):
            return
        held = {ticket for ticket in self.tickets if self.queue.holds(ticket)}
        assert held == set(self.tickets[: self.places])
        assert self.queue.held == len(held)
        assert self.queue.waiting == len(self.tickets) - len(held)


TestTurns = Turns.TestCase
TestTurns.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
