"""`QosPolicyEvaluator`: may this task run? Admission by QoS class, memory and bandwidth.

It decides and keeps the books; it runs nothing and holds no memory. Use it where a service admits
requests of its own; the contexts of a runtime have a budget that holds by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fractions import Fraction

from ..errors import InvalidRequest, RequestError
from ..units import Size, format_size, parse_size
from .qos import QoSPolicy
from .shares import parse_amount
from .task_meta import QosTaskMeta

__all__ = ["Decision", "QosEvaluation", "QosPolicyEvaluator", "QosStats"]


class Decision(Enum):
    """What may become of a task."""

    ADMIT = "admit"
    """It runs, with all it may use."""
    THROTTLE = "throttle"
    """It runs, with less than it may use."""
    QUEUE = "queue"
    """It waits until something is released."""
    REJECT = "reject"
    """What it relies on is not there."""

    @property
    def admitted(self) -> bool:
        """Whether the task runs."""
        return self in (Decision.ADMIT, Decision.THROTTLE)


@dataclass(frozen=True, slots=True)
class QosEvaluation:
    """What an evaluator thinks of one task, as things stood when it was asked."""

    task: QosTaskMeta
    decision: Decision
    reason: str
    """Why, with the numbers."""
    reserved_memory: int = 0
    """Bytes that `QosPolicyEvaluator.reserve` sets aside for it."""
    allowed_memory: int = 0
    """Bytes it may use as things stand: what is reserved, and its part of what is idle."""
    reserved_bandwidth: Fraction = Fraction(0)
    """What is set aside of the bandwidth."""
    queue_position: int | None = None
    """Tasks in the queue before it; None: it is not queued."""

    @property
    def admitted(self) -> bool:
        """Whether the task runs: it is admitted or throttled."""
        return self.decision.admitted

    @property
    def priority(self) -> int:
        """100, 50 or 0, by its class."""
        return self.task.priority


@dataclass(frozen=True, slots=True)
class QosStats:
    """The books of an evaluator; memory in bytes."""

    total_memory: int
    guaranteed_memory: int
    burstable_memory: int
    """The bases of the burstable tasks."""
    available_memory: int
    total_bandwidth: float
    reserved_bandwidth: float
    available_bandwidth: float
    running: int
    """Tasks that are admitted or throttled."""
    queued: int

    @property
    def reserved_memory(self) -> int:
        """Bytes set aside altogether."""
        return self.guaranteed_memory + self.burstable_memory


class QosPolicyEvaluator:
    """Decides which tasks run within a total of memory and bandwidth. Not thread-safe.

    `evaluate` changes nothing. Hand its result to `reserve` when the task starts or takes its place
    in the queue, and to `release` when it has ended or leaves the queue.

    Args:
        total_memory: bytes to share out, above 0.
        total_bandwidth: any unit, above 0; a task that names no bandwidth takes none.

    Raises:
        InvalidRequest: a parameter means nothing.
    """

    def __init__(self, total_memory: Size, total_bandwidth: float = 1.0) -> None:
        self._memory = parse_size(total_memory, what="total_memory")
        if self._memory == 0:
            raise InvalidRequest("total_memory: 0 bytes; there is nothing to share out")
        self._bandwidth = parse_amount(total_bandwidth, what="total_bandwidth")
        if self._bandwidth == 0:
            raise InvalidRequest(f"total_bandwidth: {total_bandwidth!r} is not above 0")
        # By identity: equal results of two evaluations are two reservations.
        self._held: dict[int, QosEvaluation] = {}
        self._reserved_memory = dict.fromkeys(QoSPolicy, 0)
        self._reserved_bandwidth = Fraction(0)
        self._queued = 0

    def evaluate(self, task: QosTaskMeta) -> QosEvaluation:
        """Decide about a task as things stand; nothing changes.

        A GUARANTEED task is admitted or rejected. A BURSTABLE one is rejected if its base is not
        free, and throttled if only a part of what it may use above that is. A BEST_EFFORT one is
        admitted while anything is free, and queued while nothing is.
        """
        if task.qos is QoSPolicy.GUARANTEED:
            return self._guaranteed(task)
        if task.qos is QoSPolicy.BURSTABLE:
            return self._burstable(task)
        return self._best_effort(task)

    def reserve(self, result: QosEvaluation) -> None:
        """Set aside what an evaluation promises, or take its place in the queue.

        Raises:
            InvalidRequest: it was rejected, or is reserved already.
            RequestError: what it promises was taken meanwhile: evaluate the task again.
        """
        if id(result) in self._held:
            raise InvalidRequest(f"{_named(result.task)} is reserved already: evaluate it again")
        if result.decision is Decision.REJECT:
            raise InvalidRequest(f"{_named(result.task)} was rejected: {result.reason}")
        if result.reserved_memory > self._free_memory:
            raise RequestError(
                f"{_named(result.task)}: {result.reserved_memory} bytes were free when it was "
                f"evaluated, {self._free_memory} are now: evaluate it again"
            )
        if result.reserved_bandwidth > self._free_bandwidth:
            raise RequestError(
                f"{_named(result.task)}: {float(result.reserved_bandwidth)} of the bandwidth was "
                f"free when it was evaluated, {float(self._free_bandwidth)} is now: evaluate it "
                "again"
            )
        self._held[id(result)] = result
        self._enter(result, 1)

    def release(self, result: QosEvaluation) -> None:
        """Give back what was reserved for a result, or leave the queue.

        Raises:
            InvalidRequest: it is not reserved here, or no longer.
        """
        if id(result) not in self._held:
            raise InvalidRequest(f"{_named(result.task)} is not reserved: never, or no longer")
        del self._held[id(result)]
        self._enter(result, -1)

    def stats(self) -> QosStats:
        """Return the books as a value."""
        return QosStats(
            total_memory=self._memory,
            guaranteed_memory=self._reserved_memory[QoSPolicy.GUARANTEED],
            burstable_memory=self._reserved_memory[QoSPolicy.BURSTABLE],
            available_memory=self._free_memory,
            total_bandwidth=float(self._bandwidth),
            reserved_bandwidth=float(self._reserved_bandwidth),
            available_bandwidth=float(self._free_bandwidth),
            running=len(self._held) - self._queued,
            queued=self._queued,
        )

    # ---------------------------------------------------------------------------- decisions

    def _guaranteed(self, task: QosTaskMeta) -> QosEvaluation:
        shortage = self._memory_shortage(task)
        if shortage is None and task.bandwidth > self._free_bandwidth:
            shortage = self._bandwidth_shortage(task)
        if shortage is not None:
            return QosEvaluation(task, Decision.REJECT, shortage)
        return QosEvaluation(
            task,
            Decision.ADMIT,
            f"{format_size(task.memory_request)} are reserved for {_named(task)}",
            reserved_memory=task.memory_request,
            allowed_memory=task.memory_request,
            reserved_bandwidth=task.bandwidth,
        )

    def _burstable(self, task: QosTaskMeta) -> QosEvaluation:
        shortage = self._memory_shortage(task)
        if shortage is not None:
            return QosEvaluation(task, Decision.REJECT, shortage)
        most = task.memory_request if task.memory_limit is None else task.memory_limit
        allowed = min(most, self._free_memory)
        decision = Decision.ADMIT
        reason = (
            f"{format_size(task.memory_request)} are reserved for {_named(task)}, "
            f"{allowed} of at most {most} bytes are free for it"
        )
        if allowed < most:
            decision = Decision.THROTTLE
        if task.bandwidth > self._free_bandwidth:
            decision = Decision.THROTTLE
            reason += f"; {self._bandwidth_shortage(task)}"
        return QosEvaluation(
            task,
            decision,
            reason,
            reserved_memory=task.memory_request,
            allowed_memory=allowed,
            reserved_bandwidth=min(task.bandwidth, self._free_bandwidth),
        )

    def _best_effort(self, task: QosTaskMeta) -> QosEvaluation:
        free = self._free_memory
        if free > 0 and self._free_bandwidth > 0:
            reason = f"{_named(task)} may use what is idle: {free} bytes"
            return QosEvaluation(task, Decision.ADMIT, reason, allowed_memory=free)
        what = "bandwidth" if free else f"{self._memory} bytes"
        return QosEvaluation(
            task,
            Decision.QUEUE,
            f"{_named(task)}: all of the {what} is reserved, {self._queued} tasks wait before it",
            queue_position=self._queued,
        )

    def _memory_shortage(self, task: QosTaskMeta) -> str | None:
        if task.memory_request <= self._free_memory:
            return None
        return (
            f"{_named(task)}: {task.memory_request} bytes asked, "
            f"{self._free_memory} of {self._memory} bytes free"
        )

    def _bandwidth_shortage(self, task: QosTaskMeta) -> str:
        return (
            f"{_named(task)}: bandwidth {float(task.bandwidth)} asked, "
            f"{float(self._free_bandwidth)} of {float(self._bandwidth)} free"
        )

    # -------------------------------------------------------------------------------- books

    @property
    def _free_memory(self) -> int:
        return self._memory - sum(self._reserved_memory.values())

    @property
    def _free_bandwidth(self) -> Fraction:
        return self._bandwidth - self._reserved_bandwidth

    def _enter(self, result: QosEvaluation, sign: int) -> None:
        self._reserved_memory[result.task.qos] += sign * result.reserved_memory
        self._reserved_bandwidth += sign * result.reserved_bandwidth
        if result.decision is Decision.QUEUE:
            self._queued += sign


def _named(task: QosTaskMeta) -> str:
    return f"task {task.id!r} ({task.name})"
