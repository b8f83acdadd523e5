"""What the device table is told: requests, and outcomes that the shell reports back.

They are values and nobody changes them. They are not frozen, because making a frozen dataclass
takes four times as long, which is a good part of a decision.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from .device_spec import DeviceSpec
from .offload import OffloadStrategy
from .qos import QoSPolicy

__all__ = [
    "BecameBusy",
    "BecameIdle",
    "Cancelled",
    "ClaimKind",
    "Configured",
    "DeviceInput",
    "Evicted",
    "LocksTried",
    "Lost",
    "Measured",
    "Pinned",
    "Released",
    "Requested",
    "Shape",
]


class ClaimKind(Enum):
    """How a device is held."""

    LEASE = "lease"
    """Scoped; never a victim."""
    RESIDENT = "resident"
    """A warm worker; may be evicted while idle and not pinned."""
    CONTEXT = "context"
    """An execution context of this process; contexts share a device with each other."""

    # By identity: what Enum offers is Python code, and the scheduler hashes members all the time.
    __hash__ = object.__hash__


class Shape(NamedTuple):
    """What a request needs of the devices. Requests of one shape are interchangeable."""

    kind: ClaimKind
    spec: DeviceSpec
    vram: int | None = None
    """Bytes reserved on each device; None: undeclared, nothing is reserved."""
    among: frozenset[int] | None = None
    """Logical indices it may use; None: every managed device."""
    group: Hashable = None
    """At most one claim of a group stands on a device; None: no group."""
    preempts: QoSPolicy | None = None
    """Running residents of this class and below may be its victims; None: only idle ones."""
    preempts_until: int = 0
    """Only those that were running when so many requests had come; the table fills it in."""
    in_process: bool = False
    """A resident that uses its memory through a context of this process."""

    @property
    def counted_by_contexts(self) -> bool:
        """Whether what it uses is counted, and limited, where contexts allocate."""
        return self.in_process or self.kind is ClaimKind.CONTEXT


@dataclass(slots=True)
class Requested:
    """Somebody asks for devices."""

    claim: int
    """A number never used before; names the claim from now on."""
    shape: Shape
    qos: QoSPolicy = QoSPolicy.BURSTABLE
    held: frozenset[int] = frozenset()
    """Claims the asker holds already: it must not wait for them."""
    owner: str = ""
    """Who asks, for people."""


@dataclass(slots=True)
class Cancelled:
    """The asker of a claim that is not granted yet has gone away."""

    claim: int


@dataclass(slots=True)
class Released:
    """The holder gave a granted claim back."""

    claim: int


@dataclass(slots=True)
class BecameIdle:
    """A resident ended a call, or its start, and may be evicted."""

    claim: int


@dataclass(slots=True)
class BecameBusy:
    """A resident began a call."""

    claim: int


@dataclass(slots=True)
class Pinned:
    """A resident is not to be evicted, or may be again."""

    claim: int
    pinned: bool


@dataclass(slots=True)
class Evicted:
    """An eviction is over; its devices are free of the victim."""

    claim: int


@dataclass(slots=True)
class Configured:
    """The devices to manage and how."""

    managed: tuple[int, ...]
    packing: bool
    """Several leases and residents may share a device."""
    strategy: OffloadStrategy


@dataclass(slots=True)
class LocksTried:
    """What came of trying to lock devices against other programs."""

    ours: tuple[int, ...]
    """Devices that no other program can take now."""
    taken: Mapping[int, str]
    """Devices that other programs have, and who that is, for people."""


@dataclass(slots=True)
class Measured:
    """The driver was asked what other programs use of a device."""

    device: int
    others: int
    """Bytes that this program planned with and cannot have."""


@dataclass(slots=True)
class Lost:
    """A device is gone for good."""

    device: int
    reason: str


DeviceInput = (
    Requested
    | Cancelled
    | Released
    | BecameIdle
    | BecameBusy
    | Pinned
    | Evicted
    | Configured
    | LocksTried
    | Measured
    | Lost
)
