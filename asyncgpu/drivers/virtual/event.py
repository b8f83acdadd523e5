"""A virtual event: settled once, by the stream it was recorded on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from ...errors import DeviceLost, InvalidRequest
from ...ports import DriverEvent

__all__ = ["EventOwner", "VirtualEvent"]


class EventOwner(Protocol):
    """The device, as an event sees it."""

    @property
    def lost(self) -> str | None: ...


class VirtualEvent:
    """A `DriverEvent`: reached when the work before it is done, or failed with its device.

    After a device fault even events that were reached long ago raise, as CUDA's do.
    """

    __slots__ = ("_callbacks", "_device", "_failure", "_lock", "_reached_at", "_settled")

    def __init__(self, device: EventOwner) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] = []
        self._settled = False
        self._failure: str | None = None
        self._reached_at = 0.0

    def done(self) -> bool:
        self._raise_fault()
        return self._settled

    def synchronize(self) -> None:
        if not self._settled:
            latch = threading.Event()
            self.on_settled(latch.set)
            latch.wait()
        self._raise_fault()

    def elapsed_since(self, earlier: DriverEvent) -> float:
        if not isinstance(earlier, VirtualEvent):
            raise InvalidRequest(f"{earlier!r} is not an event of the virtual driver")
        if not (earlier.done() and self.done()):
            raise InvalidRequest("elapsed time needs two events that have been reached")
        return self._reached_at - earlier._reached_at

    def settle(self, failure: str | None = None) -> None:
        """Mark as reached, or as never to be reached; the first call counts.

        Args:
            failure: why the work before the event will not happen; None: it is done.
        """
        with self._lock:
            if self._settled:
                return
            self._reached_at = time.perf_counter()
            self._failure = failure
            self._settled = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def on_settled(self, callback: Callable[[], object]) -> None:
        """Call `callback` once it is settled: at once, or later in the settling thread.

        The callback must be quick and must not raise.
        """
        with self._lock:
            if not self._settled:
                self._callbacks.append(callback)
                return
        callback()

    def _raise_fault(self) -> None:
        # A new exception for each caller: one object raised in many threads would collect the
        # frames, and so the tensors, of all of them.
        fault = self._device.lost or self._failure
        if fault is not None:
            raise DeviceLost(fault)

    def __repr__(self) -> str:
        state = "pending" if not self._settled else "failed" if self._failure else "reached"
        return f"<VirtualEvent {state}>"
