"""The states of an execution context, as a table.

::

    IDLE --FIRST_WORK--> RUNNING --LAST_DONE--> IDLE --CLOSE--> CLOSED
                         RUNNING --ABANDON--> CLOSED

A context that is asked to close while it runs refuses new work and stays RUNNING until the last
work is done; there is no state for "closing", because nothing that a reader of `state` may do
depends on it. Only a runtime that has waited long enough abandons it. CLOSED is final.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from ..errors import InvalidTransition

__all__ = ["TRANSITIONS", "ContextInput", "ContextMachine", "ContextState"]

# What an InvalidTransition tells of the time before it; enough to see a pattern.
_HISTORY = 8


class ContextState(Enum):
    """What an execution context is doing."""

    IDLE = "idle"
    """Open, with nothing under way."""
    RUNNING = "running"
    """At least one session, call or drain is under way."""
    CLOSED = "closed"
    """Given back; its name is free again."""

    __hash__ = object.__hash__


class ContextInput(Enum):
    """What happens to a context."""

    FIRST_WORK = "first work"
    LAST_DONE = "last done"
    CLOSE = "close"
    ABANDON = "abandon"

    # As for the states: every session hashes both, and Enum's own hash is Python code.
    __hash__ = object.__hash__


TRANSITIONS: Mapping[tuple[ContextState, ContextInput], ContextState] = MappingProxyType(
    {
        (ContextState.IDLE, ContextInput.FIRST_WORK): ContextState.RUNNING,
        (ContextState.RUNNING, ContextInput.LAST_DONE): ContextState.IDLE,
        (ContextState.IDLE, ContextInput.CLOSE): ContextState.CLOSED,
        (ContextState.RUNNING, ContextInput.ABANDON): ContextState.CLOSED,
    }
)


class ContextMachine:
    """One context's state; `handle` is the only way to change it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._state = ContextState.IDLE
        self._history: deque[tuple[ContextState, ContextInput]] = deque(maxlen=_HISTORY)

    @property
    def state(self) -> ContextState:
        return self._state

    def handle(self, input: ContextInput) -> ContextState:
        """Move to the state that `input` leads to, and return it.

        Raises:
            InvalidTransition: the table has no such entry; nothing has changed.
        """
        step = (self._state, input)
        after = TRANSITIONS.get(step)
        if after is None:
            machine = f"context {self._name!r}"
            history = [f"{state.name}+{given.name}" for state, given in self._history]
            raise InvalidTransition(machine, self._state.name, input.name, history)
        self._history.append(step)
        self._state = after
        return after
