"""`Stream`: a context's queue of device work, as its users see it."""

from __future__ import annotations

from ..ports import DriverStream
from .core import ContextCore

__all__ = ["Stream"]


class Stream:
    """One context's stream. Work gets onto it inside the context's sessions."""

    __slots__ = ("_core",)

    def __init__(self, core: ContextCore) -> None:
        self._core = core

    @property
    def driver_stream(self) -> DriverStream:
        """The driver's own stream."""
        return self._core.stream

    @property
    def id(self) -> int:
        """Unique among the live streams of the device; the default stream is 0."""
        return self._core.stream.id

    @property
    def priority(self) -> int:
        """In CUDA's sense: lower is more urgent. Set by the context's QoS class."""
        return self._core.stream.priority

    def synchronize(self) -> None:
        """Block the calling thread, without the GIL, until all its work so far is done.

        In an event loop use `wait`.

        Raises:
            ContextClosed: the context is closed.
            DeviceLost: the device has had a fault.
        """
        self._core.record().event.synchronize()

    async def wait(self) -> None:
        """Wait until all its work so far is done.

        Raises:
            ContextClosed: the context is closed.
            DeviceLost: the device has had a fault.
        """
        await self._core.waiter.wait(self._core.record())

    def __repr__(self) -> str:
        return f"<Stream {self.id} of {self._core}>"
