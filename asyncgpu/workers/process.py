"""`ProcessTransport`: workers as processes of this machine."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from ..errors import WorkerError, WorkerStartTimeout
from ..ports import WorkerSpec
from .channel import ProcessChannel
from .launch import Launch
from .pickling import find_codecs
from .worker_process import WorkerProcess

__all__ = ["ProcessTransport"]

_ARENA = 1 << 30
# SIGKILL needs no more than moments, unless the kernel itself holds the process.
_END_LIMIT = 5.0


class ProcessTransport:
    """Starts worker processes and ends them all; implements `WorkerTransport`.

    Args:
        codecs: import paths of codecs, ``"package.module:Class"``, used on both sides.
        arena_bytes: the most shared memory for each direction of each worker; pages are only
            taken when they are first used. What finds no room goes through the socket.
    """

    def __init__(self, *, codecs: Sequence[str] = (), arena_bytes: int = _ARENA) -> None:
        self._codecs = tuple(codecs)
        self._arena_bytes = arena_bytes
        self._channels: set[ProcessChannel] = set()
        self._starts: set[anyio.Event] = set()
        self._launches: set[Launch] = set()
        self._closed = False

    async def start(self, spec: WorkerSpec) -> ProcessChannel:
        """Start a worker and wait for its handshake.

        Raises:
            WorkerStartTimeout: it was not ready in time; nothing of it is left.
            WorkerDied: it ended before the handshake.
            WorkerError: it cannot be started, is of another version, or the transport is closed.
        """
        if self._closed:
            raise WorkerError(f"worker {spec.name!r}: the transport is closed")
        over = anyio.Event()
        self._starts.add(over)
        try:
            return await self._start(spec)
        finally:
            self._starts.discard(over)
            over.set()

    async def aclose(self) -> None:
        """Kill what is left; afterwards no process, thread or descriptor remains."""
        self._closed = True
        with anyio.CancelScope(shield=True):
            for channel in tuple(self._channels):
                await _end(channel)
            for start in tuple(self._starts):
                await start.wait()
            for launch in self._launches:
                await anyio.to_thread.run_sync(launch.over.wait)

    async def _start(self, spec: WorkerSpec) -> ProcessChannel:
        deadline = anyio.current_time() + spec.start_timeout
        try:
            process = await self._launch(spec)
        except OSError as error:
            raise WorkerError(f"worker {spec.name!r} cannot be started: {error}") from error
        channel = ProcessChannel(spec, process, find_codecs(self._codecs))
        self._channels.add(channel)
        channel.on_exit(lambda _: self._channels.discard(channel))
        try:
            if self._closed:
                raise WorkerError(f"worker {spec.name!r}: the transport is closed")
            with anyio.CancelScope(deadline=deadline):
                await channel.hello()
                return channel
            raise WorkerStartTimeout(
                f"worker {spec.name!r} was not ready within {spec.start_timeout:g} s"
                + "".join(f"\n  | {line}" for line in channel.output_tail)
            )
        except BaseException:
            await _end(channel)
            raise

    async def _launch(self, spec: WorkerSpec) -> WorkerProcess:
        launch = Launch(spec, self._codecs, self._arena_bytes)
        # Kept until its thread is over, which may be after the start was cancelled.
        self._launches = {other for other in self._launches if not other.over.is_set()} | {launch}
        return await launch.start()


async def _end(channel: ProcessChannel) -> None:
    channel.kill()
    with anyio.CancelScope(shield=True), anyio.move_on_after(_END_LIMIT):
        await channel.wait_exited()
