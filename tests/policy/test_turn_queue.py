"""Turns under every order of requests and returns."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asyncgpu.errors import InvalidTransition
from asyncgpu.policy.qos import QoSPolicy, waiting_key
from asyncgpu.policy.turns import TicketState, TurnLimit, TurnQueue, can_have

AGEING = 10.0
LIMITS = st.one_of(st.none(), st.integers(1, 3))
CLASSES = st.sampled_from(list(QoSPolicy))


class Turns(RuleBasedStateMachine):
    """Beside a queue runs the simplest thing that is right: a sorted list of who waits."""

    @initialize(
        device=LIMITS, contexts=st.lists(st.tuples(LIMITS, CLASSES), min_size=1, max_size=3)
    )
    def open(self, device, contexts):
        self.queue = TurnQueue(ageing_seconds=AGEING)
        self.device = TurnLimit(device)
        self.contexts = [(TurnLimit(limit), qos) for limit, qos in contexts]
        self.now = 0.0
        self.waiting, self.held = [], []

    @rule(seconds=st.floats(0, 20))
    def pass_time(self, seconds):
        self.now += seconds

    @rule(data=st.data(), inner=st.booleans())
    def request(self, data, inner):
        limit, qos = data.draw(st.sampled_from(self.contexts))
        needs = (limit,) if inner else (limit, self.device)
        free = can_have(needs)
        ticket = self.queue.request(needs, qos, self.now)
        assert (ticket.state is TicketState.HELD) is free
        if free:
            self.held.append([ticket, list(needs)])
        else:
            self.waiting.append((waiting_key(self.now, qos, AGEING), ticket.order[1], ticket))
            self.waiting.sort(key=lambda entry: entry[:2])

    @precondition(lambda self: getattr(self, "waiting", ()))
    @rule(data=st.data())
    def withdraw(self, data):
        entry = data.draw(st.sampled_from(self.waiting))
        self.queue.withdraw(entry[2])
        self.waiting.remove(entry)
        with pytest.raises(InvalidTransition, match="WITHDRAWN"):
            self.queue.withdraw(entry[2])

    @precondition(lambda self: getattr(self, "held", ()))
    @rule(data=st.data(), first=st.booleans())
    def give_one_back(self, data, first):
        """The turn of the device may be kept longer, or shorter, than that of the context."""
        entry = data.draw(st.sampled_from(self.held))
        need = entry[1].pop(0 if first else -1)
        if not entry[1]:
            self.held.remove(entry)
        ready = [
            each
            for each in self.waiting
            if can_have(other for other in each[2].needs if other is not need)
            and need in each[2].needs
        ]
        granted = self.queue.give_back(need)
        assert granted is (ready[0][2] if ready else None)
        if granted is not None:
            assert granted.state is TicketState.HELD
            self.waiting.remove(ready[0])
            self.held.append([granted, list(granted.needs)])

    @invariant()
    def limits_hold_and_nobody_waits_for_what_is_free(self):
        if not hasattr(self, "queue"):
            return
        assert self.queue.waiting == len(self.waiting)
        limits = [self.device, *(limit for limit, _ in self.contexts)]
        for limit in limits:
            assert limit.held == sum(needs.count(limit) for _, needs in self.held)
            assert limit.limit is None or limit.held <= limit.limit
        assert not any(can_have(ticket.needs) for _, _, ticket in self.waiting)

    def teardown(self):
        """When everybody has left, nothing is left."""
        if not hasattr(self, "queue"):
            return
        for _, _, ticket in self.waiting:
            self.queue.withdraw(ticket)
        for _, needs in self.held:
            for need in needs:
                assert self.queue.give_back(need) is None
        limits = [self.device, *(limit for limit, _ in self.contexts)]
        assert [(limit.held, limit.lines) for limit in limits] == [(0, {})] * len(limits)
        assert self.queue._lines == {}


TestTurns = Turns.TestCase
TestTurns.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_turn_that_nobody_holds_cannot_be_given_back():
    with pytest.raises(InvalidTransition, match="none held"):
        TurnQueue(ageing_seconds=AGEING).give_back(TurnLimit(1))


def line_of(requests):
    """Let `requests`, pairs of class and time, wait for one turn; return the order of service."""
    queue, device = TurnQueue(ageing_seconds=AGEING), TurnLimit(1)
    queue.request((device,), QoSPolicy.GUARANTEED, 0.0)
    tickets = [queue.request((device,), qos, now) for qos, now in requests]
    served = []
    while (ticket := queue.give_back(device)) is not None:
        served.append(tickets.index(ticket))
    return served


@given(st.lists(CLASSES, max_size=20))
def test_within_a_class_nobody_overtakes(classes):
    served = line_of([(qos, float(index)) for index, qos in enumerate(classes)])
    for each in QoSPolicy:
        mine = [index for index in served if classes[index] is each]
        assert mine == sorted(mine)


def test_classes_go_in_their_order_and_ageing_makes_up_for_one():
    best_effort, guaranteed = QoSPolicy.BEST_EFFORT, QoSPolicy.GUARANTEED
    assert line_of([(best_effort, 0.0), (QoSPolicy.BURSTABLE, 0.0), (guaranteed, 0.0)]) == [2, 1, 0]
    assert line_of([(best_effort, 0.0), (guaranteed, 19.0)]) == [1, 0]
    assert line_of([(best_effort, 0.0), (guaranteed, 21.0)]) == [0, 1]


@given(st.lists(CLASSES, min_size=1, max_size=5))
def test_under_endless_load_of_better_classes_everybody_is_served(load):
    """One is served and one of `load` comes in each second; the least class came first."""
    queue, device = TurnQueue(ageing_seconds=AGEING), TurnLimit(1)
    queue.request((device,), QoSPolicy.GUARANTEED, 0.0)
    patient = queue.request((device,), QoSPolicy.BEST_EFFORT, 0.0)
    for second in range(200):
        for qos in load:
            queue.request((device,), qos, float(second))
        queue.give_back(device)
        if patient.state is TicketState.HELD:
            break
    assert patient.state is TicketState.HELD
    arrivals_that_may_overtake = (2 * AGEING + 1) * len(load)
    assert second <= arrivals_that_may_overtake


def test_who_needs_a_turn_that_is_taken_does_not_hold_up_others():
    queue, device, mine = TurnQueue(ageing_seconds=AGEING), TurnLimit(2), TurnLimit(1)
    other = TurnLimit(None)
    for _ in range(2):
        first = queue.request((mine, device), QoSPolicy.GUARANTEED, 0.0)
    assert first.state is TicketState.WAITING, "its context's only turn is taken"
    assert queue.request((other, device), QoSPolicy.BEST_EFFORT, 1.0).state is TicketState.HELD


def test_who_has_the_devices_turn_already_goes_before_one_who_waits_for_it():
    """Otherwise the device's turn would wait for the context's, and that for the device's."""
    queue, device, mine = TurnQueue(ageing_seconds=AGEING), TurnLimit(1), TurnLimit(1)
    queue.request((TurnLimit(None), device), QoSPolicy.GUARANTEED, 0.0)
    assert queue.request((mine, device), QoSPolicy.GUARANTEED, 1.0).state is TicketState.WAITING
    assert queue.request((mine,), QoSPolicy.GUARANTEED, 2.0).state is TicketState.HELD
