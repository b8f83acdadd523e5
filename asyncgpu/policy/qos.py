"""QoS classes and the order in which waiters are served."""

from __future__ import annotations

from enum import Enum

__all__ = ["QoSPolicy", "waiting_key"]


class QoSPolicy(Enum):
    """How much a request may rely on getting what it asked for."""

    GUARANTEED = "guaranteed"
    """Everything it may use is reserved for it."""
    BURSTABLE = "burstable"
    """A part is reserved; above that it uses what is idle."""
    BEST_EFFORT = "best_effort"
    """Nothing is reserved; it uses what is idle."""

    # By identity: what Enum offers is Python code, and the scheduler hashes members all the time.
    __hash__ = object.__hash__

    @property
    def priority(self) -> int:
        """100, 50 or 0: higher is served earlier."""
        return _PRIORITY[self]

    @property
    def rank(self) -> int:
        """0, 1 or 2: classes below the best one."""
        return _RANK[self]


_PRIORITY = {QoSPolicy.GUARANTEED: 100, QoSPolicy.BURSTABLE: 50, QoSPolicy.BEST_EFFORT: 0}
_RANK = {QoSPolicy.GUARANTEED: 0, QoSPolicy.BURSTABLE: 1, QoSPolicy.BEST_EFFORT: 2}


def waiting_key(arrival: float, qos: QoSPolicy, ageing_seconds: float) -> float:
    """Return the key by which waiters are served, smallest first; ties go by arrival number.

    A waiter rises one class for each `ageing_seconds` it has waited: at time `t` its class is worth
    ``rank - (t - arrival) / ageing_seconds``, and the smaller worth goes first. All waiters age at
    the same speed, so `t` cancels out of every comparison and what is left, ``arrival + rank *
    ageing_seconds``, never changes: a heap of waiters never needs sorting again, and no later
    arrival of any class can overtake a waiter for ever.

    Args:
        arrival: seconds, when the request came.
        qos: its class.
        ageing_seconds: the wait that makes up for one class.
    """
    return arrival + _RANK[qos] * ageing_seconds
