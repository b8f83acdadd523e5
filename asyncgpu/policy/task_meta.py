"""`QosTaskMeta`: what a task asks of a `QosPolicyEvaluator`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from ..errors import InvalidRequest
from ..units import Size, parse_size
from .qos import QoSPolicy
from .shares import parse_amount

__all__ = ["QosTaskMeta"]


@dataclass(frozen=True, slots=True)
class QosTaskMeta:
    """A task and its QoS class; made by `guaranteed`, `burstable` or `best_effort`."""

    id: str
    """The caller's own; several tasks may have the same."""
    name: str
    """For people: it stands in `QosEvaluation.reason`."""
    qos: QoSPolicy
    memory_request: int
    """Bytes it can rely on: all it needs, its base, or 0."""
    memory_limit: int | None
    """The most it may use, in bytes; None: whatever is free."""
    bandwidth: Fraction
    """What it asks of the evaluator's `total_bandwidth`."""

    @classmethod
    def guaranteed(cls, id: str, name: str, nbytes: Size, *, bandwidth: float = 0.0) -> QosTaskMeta:
        """Describe a task that gets all it asks for, or is rejected.

        Args:
            id: the caller's own.
            name: for people.
            nbytes: bytes it needs, above 0.
            bandwidth: what it needs of the evaluator's `total_bandwidth`.

        Raises:
            InvalidRequest: a parameter means nothing.
        """
        needed = _memory(nbytes)
        return cls(id, name, QoSPolicy.GUARANTEED, needed, needed, _bandwidth(bandwidth))

    @classmethod
    def burstable(
        cls, id: str, name: str, nbytes: Size, burst_ratio: float, *, bandwidth: float = 0.0
    ) -> QosTaskMeta:
        """Describe a task that relies on a base and uses more while that is idle.

        Args:
            id: the caller's own.
            name: for people.
            nbytes: its base in bytes, above 0.
            burst_ratio: the most it may use, in bases: 1 or more.
            bandwidth: what it would like of the evaluator's `total_bandwidth`; with less of that
                it is throttled.

        Raises:
            InvalidRequest: a parameter means nothing.
        """
        base = _memory(nbytes)
        limit = int(base * _burst_ratio(burst_ratio))
        return cls(id, name, QoSPolicy.BURSTABLE, base, limit, _bandwidth(bandwidth))

    @classmethod
    def best_effort(cls, id: str, name: str) -> QosTaskMeta:
        """Describe a task that uses what is idle, and waits while nothing is."""
        return cls(id, name, QoSPolicy.BEST_EFFORT, 0, None, Fraction(0))

    @property
    def priority(self) -> int:
        """100, 50 or 0, by its class."""
        return self.qos.priority


def _memory(nbytes: Size) -> int:
    size = parse_size(nbytes, what="nbytes")
    if size == 0:
        raise InvalidRequest("nbytes: 0 bytes; a task that relies on nothing is a best_effort one")
    return size


def _bandwidth(bandwidth: float) -> Fraction:
    return parse_amount(bandwidth, what="bandwidth")


def _burst_ratio(ratio: float) -> float:
    number = isinstance(ratio, int | float) and not isinstance(ratio, bool)
    if not number or not math.isfinite(ratio) or ratio < 1:
        raise InvalidRequest(f"burst_ratio: {ratio!r} is not 1 or more")
    return ratio
