"""`ThreadTransport`: workers as threads of this process."""

from __future__ import annotations

import anyio

from ..errors import WorkerError
from ..ports import WorkerRooms, WorkerSpec
from .thread_channel import StartSoon, ThreadChannel

__all__ = ["ThreadTransport"]

# An idle worker closes its tool and gives its context back in moments.
_END_LIMIT = 1.0


class ThreadTransport:
    """Starts workers in threads; implements `WorkerTransport`, as far as threads can.

    Args:
        rooms: where they run.
        start_soon: starts a task that the runtime owns.
    """

    def __init__(self, rooms: WorkerRooms, start_soon: StartSoon) -> None:
        self._rooms = rooms
        self._start_soon = start_soon
        self._channels: set[ThreadChannel] = set()
        self._closed = False

    async def start(self, spec: WorkerSpec) -> ThreadChannel:
        """Start a worker; its thread and its context come with its tool.

        Raises:
            WorkerError: the transport is closed.
        """
        if self._closed:
            raise WorkerError(f"worker {spec.name!r}: the transport is closed")
        channel = ThreadChannel(spec, self._rooms, self._start_soon)
        self._channels.add(channel)
        channel.on_exit(lambda _: self._channels.discard(channel))
        self._start_soon(channel.serve)
        return channel

    async def aclose(self) -> None:
        """Abandon what is left. A thread that does not return outlives this, with its context."""
        self._closed = True
        for channel in tuple(self._channels):
            channel.kill()
        with anyio.CancelScope(shield=True), anyio.move_on_after(_END_LIMIT):
            for channel in tuple(self._channels):
                await channel.wait_exited()
