"""`DeviceEvent`: a point in a context's work, to wait for on the host or on another stream."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from ..errors import InvalidRequest, RequestError
from ..ports import DriverEvent
from .core import ContextCore
from .waiter import Marker

__all__ = ["DeviceEvent", "check_event", "wait_on_device"]


class DeviceEvent:
    """Done when all the work that its context had when it was recorded is done.

    Made by `ExecutionContext.record_event`. An event of a closed context is done, since closing
    drains. Awaiting it is waiting for it.
    """

    __slots__ = ("_core", "_marker")

    def __init__(self, core: ContextCore, marker: Marker) -> None:
        self._core = core
        self._marker = marker

    @property
    def driver_event(self) -> DriverEvent:
        """The driver's own event, for a stream to wait on."""
        return self._marker.event

    def done(self) -> bool:
        """Whether it has been reached.

        Raises:
            DeviceLost: the device has had a fault.
        """
        return self._core.activity.closed or self._marker.event.done()

    async def wait(self) -> None:
        """Wait until it has been reached; at once if it has. Cancelling leaves it as it is.

        Raises:
            DeviceLost: the device has had a fault.
        """
        if not self._core.activity.closed:
            await self._core.waiter.wait(self._marker)

    def __await__(self) -> Generator[Any, None, None]:
        return self.wait().__await__()

    def elapsed_since(self, other: DeviceEvent) -> float:
        """Return the seconds of device time from `other`, an event of the same device, to this.

        Raises:
            DeviceLost: the device has had a fault.
            InvalidRequest: `other` is no event, or one of another device.
            RequestError: one of the two has not been reached yet.
        """
        check_event(self._core, other)
        if self._core.stream.device != other._core.stream.device:
            raise InvalidRequest(f"elapsed_since: {self} and {other} are of different devices")
        if not (self.done() and other.done()):
            raise RequestError("elapsed_since needs two events that are done; await them first")
        return self._marker.event.elapsed_since(other._marker.event)

    def __repr__(self) -> str:
        return f"<DeviceEvent of {self._core}>"


def check_event(core: ContextCore, event: object) -> None:
    """Refuse what `core` cannot wait for.

    Raises:
        InvalidRequest: `event` is no event, or one of another runtime.
    """
    if not isinstance(event, DeviceEvent):
        raise InvalidRequest(f"{core}: {event!r} is not an event; `record_event` makes one")
    if event._core.driver is not core.driver:
        raise InvalidRequest(f"{core}: {event} belongs to another runtime; await it instead")


def wait_on_device(core: ContextCore, event: DeviceEvent) -> None:
    """Let later work of `core` wait for `event`; see `ExecutionContext.wait_event`."""
    core.check_open()
    check_event(core, event)
    if not event.done():
        core.stream.wait_event(event.driver_event)
