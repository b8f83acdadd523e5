"""The GPU edge: devices, and the streams and events on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

__all__ = ["ComputeShare", "DeviceInfo", "DriverEvent", "DriverStream", "Leaf"]


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """One GPU as this program sees it, after ``CUDA_VISIBLE_DEVICES``."""

    index: int
    """Logical index: ``cuda:<index>``."""
    name: str
    uuid: str
    total_memory: int
    """Bytes."""
    exclusive_process: bool = False
    """The driver lets only one process use it (NVML's EXCLUSIVE_PROCESS compute mode)."""
    physical: bool = True
    """Other programs can see it too, under the same `uuid`."""


class DriverEvent(Protocol):
    """A marker on a stream: done when all the work before it is done. Thread-safe."""

    def done(self) -> bool:
        """Whether it has been reached; raises `DeviceLost` after a device fault."""
        ...

    def synchronize(self) -> None:
        """Block the calling thread, without the GIL, until done; raises like `done`."""
        ...

    def elapsed_since(self, earlier: DriverEvent) -> float:
        """Seconds of device time between two finished events."""
        ...


class DriverStream(Protocol):
    """An in-order queue of device work. Thread-safe.

    After a device fault every method but `close` raises `DeviceLost`.
    """

    @property
    def id(self) -> int:
        """Unique among the live streams of the device; the default stream is 0."""
        ...

    @property
    def device(self) -> int: ...

    @property
    def priority(self) -> int:
        """In CUDA's sense: lower is more urgent."""
        ...

    def record(self) -> DriverEvent: ...
    def wait_event(self, event: DriverEvent) -> None:
        """Later work of this stream waits, on the device, for `event`; returns at once."""
        ...

    def close(self) -> None:
        """Give the stream back once its work is done; idempotent, never blocks."""
        ...


class Leaf(NamedTuple):
    """One object of a tree, and where it stands there."""

    place: str
    """As Python would write it: ``"tensors['mask'][0]"``."""
    value: object


class ComputeShare(Protocol):
    """A part of one device's multiprocessors (SMs), for the streams created with it."""

    @property
    def granted(self) -> float:
        """The part it really is; hardware gives SMs in groups."""
        ...

    @property
    def sm_count(self) -> int | None:
        """The SMs it has; None: it is a label, its streams use the whole device."""
        ...

    @property
    def enforced(self) -> bool:
        """Whether its streams run on its SMs and those of no other share."""
        ...

    def close(self) -> None:
        """Give the SMs back for other shares; idempotent. Its streams stay usable."""
        ...
