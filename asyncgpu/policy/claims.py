"""Claims: a request for devices from its arrival to its end, and the table of its life."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from ..errors import InvalidTransition
from .device_inputs import ClaimKind, Requested, Shape
from .qos import QoSPolicy
from .waiting import WaitQueue

__all__ = ["NOBODY", "TRANSITIONS", "Claim", "ClaimState", "Journal", "JournalEntry", "Step"]


class ClaimState(Enum):
    """Where a claim stands in its life."""

    WAITING = "waiting"
    """In the queue."""
    PROMISED = "promised"
    """Its devices are chosen and kept for it; the evictions it needs are under way."""
    HELD = "held"
    """A lease or a context has its devices."""
    STARTING = "starting"
    """A resident has its devices and has not been idle yet: it loads."""
    IDLE = "idle"
    """A resident without a call: a possible victim, unless pinned."""
    BUSY = "busy"
    """A resident in a call."""
    EVICTING = "evicting"
    """A resident that is made to leave; it occupies its devices until that is reported."""
    GONE = "gone"

    # By identity: what Enum offers is Python code, and the scheduler hashes members all the time.
    __hash__ = object.__hash__

    @property
    def granted(self) -> bool:
        """Whether the claim occupies devices."""
        return self not in (ClaimState.WAITING, ClaimState.PROMISED, ClaimState.GONE)


class Step(Enum):
    """What can happen to a claim."""

    PROMISE = "promise"
    RECALL = "recall"
    GRANT = "grant"
    REJECT = "reject"
    CANCEL = "cancel"
    IDLE = "idle"
    BUSY = "busy"
    EVICT = "evict"
    PREEMPT = "preempt"
    EVICTED = "evicted"
    RELEASE = "release"
    PIN = "pin"
    UNPIN = "unpin"

    __hash__ = object.__hash__


_Life = Mapping[ClaimState, Mapping[Step, ClaimState]]

_QUEUE: _Life = {
    ClaimState.WAITING: {
        Step.PROMISE: ClaimState.PROMISED,
        Step.REJECT: ClaimState.GONE,
        Step.CANCEL: ClaimState.GONE,
    },
    ClaimState.PROMISED: {
        Step.RECALL: ClaimState.WAITING,
        Step.CANCEL: ClaimState.GONE,
    },
}

_SCOPED: _Life = {
    ClaimState.WAITING: {**_QUEUE[ClaimState.WAITING], Step.GRANT: ClaimState.HELD},
    ClaimState.PROMISED: {**_QUEUE[ClaimState.PROMISED], Step.GRANT: ClaimState.HELD},
    ClaimState.HELD: {Step.RELEASE: ClaimState.GONE},
    ClaimState.GONE: {},
}

_RESIDENT: _Life = {
    ClaimState.WAITING: {**_QUEUE[ClaimState.WAITING], Step.GRANT: ClaimState.STARTING},
    ClaimState.PROMISED: {**_QUEUE[ClaimState.PROMISED], Step.GRANT: ClaimState.STARTING},
    ClaimState.STARTING: {
        Step.IDLE: ClaimState.IDLE,
        # Straight into its first call: what just loaded is no victim before it was of any use.
        Step.BUSY: ClaimState.BUSY,
        Step.PREEMPT: ClaimState.EVICTING,
        Step.RELEASE: ClaimState.GONE,
        Step.PIN: ClaimState.STARTING,
        Step.UNPIN: ClaimState.STARTING,
    },
    ClaimState.IDLE: {
        Step.BUSY: ClaimState.BUSY,
        Step.EVICT: ClaimState.EVICTING,
        Step.RELEASE: ClaimState.GONE,
        Step.PIN: ClaimState.IDLE,
        Step.UNPIN: ClaimState.IDLE,
    },
    ClaimState.BUSY: {
        Step.IDLE: ClaimState.IDLE,
        Step.PREEMPT: ClaimState.EVICTING,
        Step.RELEASE: ClaimState.GONE,
        Step.PIN: ClaimState.BUSY,
        Step.UNPIN: ClaimState.BUSY,
    },
    ClaimState.EVICTING: {
        Step.EVICTED: ClaimState.GONE,
        Step.RELEASE: ClaimState.GONE,
    },
    ClaimState.GONE: {},
}

TRANSITIONS: Mapping[ClaimKind, _Life] = {
    ClaimKind.LEASE: _SCOPED,
    ClaimKind.CONTEXT: _SCOPED,
    ClaimKind.RESIDENT: _RESIDENT,
}
"""The whole life of a claim: by kind, state and step; what is missing is impossible."""

NOBODY: Mapping[int, Claim] = MappingProxyType({})
"""No claims."""

_NO_FAMILY: frozenset[int] = frozenset()


class Claim:
    """One request and what became of it. Only the device table changes it."""

    __slots__ = (
        "awaiting",
        "covers",
        "devices",
        "granted_after",
        "hands",
        "id",
        "last_used",
        "nested_in",
        "on_agenda",
        "order",
        "pinned",
        "queue",
        "request",
        "shape",
        "since",
        "state",
        "turn",
    )

    last_used: float
    """Seconds: when its latest call ended, or when it was granted. Not set before that."""
    turn: int
    """Counts the moments at which `last_used` was set: clocks may stand still in between."""
    granted_after: int
    """The number of the latest arrival when it was granted."""

    def __init__(self, request: Requested, number: int, key: float, now: float) -> None:
        """Begin to wait; `number` counts arrivals, `key` is its waiting key."""
        self.id = request.claim
        self.request = request
        self.shape: Shape = request.shape
        if request.shape.preempts is not None:
            self.shape = request.shape._replace(preempts_until=number)
        self.order = (key, number)
        self.state = ClaimState.WAITING
        self.since = now
        """Seconds: when it arrived, later when it was granted."""
        self.pinned = False
        self.devices: tuple[int, ...] = ()
        """Logical indices it holds or is promised."""
        self.hands: tuple[int, ...] = ()
        """While it waits: the devices it keeps later waiters from."""
        self.awaiting = NOBODY
        """While it is promised: the victims that must leave first, by id."""
        self.covers = NOBODY
        """By device: the lease of the same asker out of whose reservation it lives there."""
        self.nested_in = _NO_FAMILY
        """The leases of the same asker in which it was granted, and those they were nested in."""
        self.queue: WaitQueue[Claim] | None = None
        self.on_agenda = False

    @property
    def number(self) -> int:
        """The number of its arrival."""
        return self.order[1]

    @property
    def owner(self) -> str:
        """Whose it is, for people."""
        return self.request.owner

    @property
    def qos(self) -> QoSPolicy:
        """Its class."""
        return self.request.qos

    def charge(self, index: int) -> int:
        """Return the bytes reserved for it on device `index`."""
        return 0 if index in self.covers else self.shape.vram or 0

    def is_kin(self, other: Claim) -> bool:
        """Return whether one lives in a lease of the other, or both in one: they share devices."""
        return (
            self.id in other.nested_in
            or other.id in self.nested_in
            or not self.nested_in.isdisjoint(other.nested_in)
        )

    @property
    def evictable(self) -> bool:
        """Whether it may be a victim without being preempted."""
        return self.state is ClaimState.IDLE and not self.pinned

    @property
    def recency(self) -> tuple[float, int]:
        """Orders residents from the least to the most recently used."""
        return self.last_used, self.turn

    def __repr__(self) -> str:
        name = f" {self.owner!r}" if self.owner else ""
        return f"{self.shape.kind.value} {self.id}{name} ({self.state.value})"


class JournalEntry(NamedTuple):
    """One step of one claim."""

    time: float
    claim: int
    step: Step
    why: str

    def __str__(self) -> str:
        why = f" ({self.why})" if self.why else ""
        return f"{self.time:.3f} claim {self.claim} {self.step.value}{why}"


class Journal:
    """Carries out the steps of claims and remembers the latest of them."""

    def __init__(self, length: int = 512) -> None:
        self.steps = 0
        """How many have been taken in all."""
        # Plain tuples: entries are written all the time and hardly ever read.
        self._entries: deque[tuple[float, int, Step, str]] = deque(maxlen=length)

    def advance(self, claim: Claim, step: Step, now: float, why: str = "") -> None:
        """Move `claim` along its table.

        Raises:
            InvalidTransition: its table has no such step from where it stands; nothing changed.
        """
        after = TRANSITIONS[claim.shape.kind][claim.state].get(step)
        if after is None:
            raise self.impossible(claim.id, claim.state.value, step.value)
        claim.state = after
        self.steps += 1
        self._entries.append((now, claim.id, step, why))

    def impossible(self, claim: int, state: str, step: object) -> InvalidTransition:
        """Return the error for a step that cannot be, with what is known of the claim."""
        story = [str(entry) for entry in self.entries(claim)]
        return InvalidTransition("device table", f"claim {claim} {state}", step, story)

    def entries(self, claim: int | None = None) -> list[JournalEntry]:
        """Return the remembered steps, oldest first; of one claim, or of all."""
        return [JournalEntry(*e) for e in self._entries if claim is None or e[1] == claim]
