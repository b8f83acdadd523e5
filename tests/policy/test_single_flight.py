"""Single flight: one leads, the others follow, and nobody is left behind."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from asyncgpu.errors import InvalidTransition
from asyncgpu.policy.single_flight import SingleFlight


def test_the_first_leads_and_lands_for_all_who_came_after_in_their_order():
    flights = SingleFlight()
    assert [flights.join("k", who) for who in "abc"] == [True, False, False]
    assert flights.land("k", "a") == ["b", "c"]
    assert len(flights) == 0
    assert flights.join("k", "d")


def test_keys_do_not_concern_each_other():
    flights = SingleFlight()
    assert flights.join("k", "a")
    assert flights.join("other", "a")


def test_a_leader_that_leaves_hands_over_to_the_one_that_waited_longest():
    flights = SingleFlight()
    for who in "abc":
        flights.join("k", who)
    assert flights.leave("k", "a") == "b"
    assert flights.leave("k", "c") is None
    assert flights.leave("k", "b") is None
    assert len(flights) == 0


def test_leaving_twice_or_after_the_landing_does_nothing():
    flights = SingleFlight()
    flights.join("k", "a")
    assert flights.leave("k", "b") is None
    flights.land("k", "a")
    assert flights.leave("k", "a") is None


def test_only_the_leader_lands_and_nobody_joins_twice():
    flights = SingleFlight()
    flights.join("k", "a")
    flights.join("k", "b")
    with pytest.raises(InvalidTransition):
        flights.land("k", "b")
    with pytest.raises(InvalidTransition):
        flights.join("k", "b")


people = st.integers(0, 5)
keys = st.sampled_from("xy")


class FlightMachine(RuleBasedStateMachine):
    """Random joins, landings and leavings, beside a list for each key."""

    def __init__(self):
        super().__init__()
        self.flights = SingleFlight()
        self.lines = {"x": [], "y": []}

    @rule(key=keys, who=people)
    def join(self, key, who):
        if who not in self.lines[key]:
            assert self.flights.join(key, who) == (not self.lines[key])
            self.lines[key].append(who)

    @rule(key=keys, who=people)
    def leave(self, key, who):
        line = self.lines[key]
        heir = line[1] if len(line) > 1 and line[0] == who else None
        assert self.flights.leave(key, who) == heir
        if who in line:
            line.remove(who)

    @rule(key=keys)
    def land(self, key):
        if line := self.lines[key]:
            assert self.flights.land(key, line[0]) == line[1:]
            line.clear()

    @invariant()
    def whoever_is_in_flight_has_exactly_one_leader(self):
        assert len(self.flights) == sum(map(bool, self.lines.values()))
        for key, line in self.lines.items():
            assert [who for who in range(6) if self.flights.leads(key, who)] == line[:1]


TestFlightMachine = FlightMachine.TestCase
