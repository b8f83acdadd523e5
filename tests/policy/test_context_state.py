"""A context's states are a table; whatever it does not list is impossible."""

from __future__ import annotations

from itertools import product

import pytest

from asyncgpu.errors import InvalidTransition
from asyncgpu.policy.context_state import (
    TRANSITIONS,
    ContextInput,
    ContextMachine,
    ContextState,
)

PATHS = {
    ContextState.IDLE: [],
    ContextState.RUNNING: [ContextInput.FIRST_WORK],
    ContextState.CLOSED: [ContextInput.CLOSE],
}


def machine_in(state):
    machine = ContextMachine("m")
    for step in PATHS[state]:
        machine.handle(step)
    assert machine.state is state
    return machine


@pytest.mark.parametrize(("state", "step"), list(TRANSITIONS))
def test_what_the_table_lists_happens(state, step):
    machine = machine_in(state)
    assert machine.handle(step) is TRANSITIONS[state, step]
    assert machine.state is TRANSITIONS[state, step]


@pytest.mark.parametrize(
    ("state", "step"),
    [pair for pair in product(ContextState, ContextInput) if pair not in TRANSITIONS],
)
def test_what_it_does_not_list_raises_and_changes_nothing(state, step):
    machine = machine_in(state)
    with pytest.raises(InvalidTransition, match="context 'm'") as caught:
        machine.handle(step)
    assert machine.state is state
    assert caught.value.history == tuple(f"IDLE+{given.name}" for given in PATHS[state])


def test_closed_is_final():
    assert not [state for state, _ in TRANSITIONS if state is ContextState.CLOSED]
