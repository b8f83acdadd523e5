"""The process edge: workers, and the ways to have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from ..promise import Promise

__all__ = [
    "NestedCall",
    "Preparation",
    "Reply",
    "WorkerChannel",
    "WorkerRoom",
    "WorkerRooms",
    "WorkerSpec",
    "WorkerStatistics",
    "WorkerTransport",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """Everything needed to start a worker."""

    name: str
    """For logs, errors and the process title: ``"Embed[0]@cuda:0"``."""
    python: str | None = None
    """Interpreter; None: the one running now."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Overlaid on this process's environment before the interpreter starts."""
    start_timeout: float = 60.0
    stop_grace: float = 2.0


class Preparation(NamedTuple):
    """A function that a worker calls before its tool loads."""

    path: str
    """``"package.module:function"``: imported in the worker, by name."""
    arguments: tuple[Any, ...] = ()


class Reply(NamedTuple):
    """How one request to a worker ended: never an exception, so that none goes unretrieved.

    A tuple, because it is made for each call, and a frozen dataclass takes four times as long.
    """

    value: Any = None
    error: Exception | None = None
    """`ToolFailed`, `WorkerDied`, another `WorkerError`, or `InvalidRequest`: cannot be sent."""
    seconds: float = 0.0
    """Time spent in the tool itself, measured in the worker."""


@dataclass(frozen=True, slots=True)
class NestedCall:
    """A worker's tool asks for another tool's answers, in the middle of its own `run`."""

    within: Promise[Reply]
    """The request that waits for it."""
    tool: Any
    """What shall answer; None: the very tool that the worker runs."""
    items: list[Any]
    answer: Callable[[Reply], None]
    """To be called once, with the value or the error; harmless when the worker has ended."""


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """How a worker is, in its own words."""

    served: int
    """Requests it has ended, well or not."""
    busy_seconds: float | None
    """How long the current one has been running; None: idle."""
    resident_memory: int
    """Bytes of host memory; 0 where the system does not tell."""


class WorkerChannel(Protocol):
    """One running worker. Methods are called in the event loop's thread."""

    @property
    def name(self) -> str: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def alive(self) -> bool: ...

    def on_exit(self, callback: Callable[[Exception], None]) -> None:
        """Call `callback(WorkerDied)` in the loop's thread when it ends, expected or not."""
        ...

    def on_progress(self, callback: Callable[[Promise[Reply], float, float], None]) -> None:
        """Call `callback(promise, done, total)` when the tool reports progress of a request."""
        ...

    def on_call(self, callback: Callable[[NestedCall], None]) -> None:
        """Call `callback` when the tool calls another one; without it, such calls are refused."""
        ...

    async def load(
        self, tool: object, devices: Sequence[str], preparation: Preparation | None = None
    ) -> Reply:
        """Send the tool over and run its `load`; the reply's value is None.

        Args:
            tool: the tool.
            devices: what torch calls them there.
            preparation: is called before the tool's `load`.
        """
        ...

    async def move(self, devices: Sequence[str], indices: Sequence[int] = ()) -> Reply:
        """Run the tool's `to`.

        Args:
            devices: what torch calls them there.
            indices: their logical indices; none: it is offloaded to the CPU.
        """
        ...

    def submit(self, items: list[Any], *, seeds: list[int] | None = None) -> Promise[Reply]:
        """Queue one ``run(items)``; returns at once. Several may be in flight, served in order."""
        ...

    def cancel(self, promise: Promise[Reply]) -> None:
        """Tell the worker that nobody wants this answer; the reply still comes.

        A request not yet started will not start; one that runs sees
        ``asyncgpu.worker.cancelled()``.
        """
        ...

    async def statistics(self) -> WorkerStatistics:
        """Ask the worker how it is; it answers while its tool is busy.

        Raises:
            WorkerDied: it has ended, or ends before it answers.
        """
        ...

    async def stop(self, *, grace: float | None = None) -> None:
        """Close the tool, then end the whole process group within `grace` seconds plus one."""
        ...

    def kill(self) -> None:
        """End the process group now. Pending replies become `WorkerDied`."""
        ...


class WorkerRoom(Protocol):
    """Where a worker runs that is a thread of this process: one thread, on its device."""

    @property
    def open(self) -> bool:
        """Whether it still takes calls."""
        ...

    async def call(self, fn: Callable[[], Any]) -> Any:
        """Call `fn` there, in a copy of the caller's ContextVars; return once its work is done.

        Cancelling returns at once, and means that the room is to be used no more: what has begun
        cannot be stopped.

        Raises:
            ContextClosed: somebody else has closed it.
            Exception: whatever `fn` raises; out of memory, in our words.
        """
        ...

    async def aclose(self) -> None:
        """Wait for what runs, then give the device and the thread back."""
        ...


class WorkerRooms(Protocol):
    """Opens rooms."""

    async def open(
        self, name: str, indices: Sequence[int], *, vram: int | None, timeout: float | None
    ) -> WorkerRoom:
        """Open one.

        Args:
            name: of the worker.
            indices: the one device that the worker has been given; none: the CPU.
            vram: bytes reserved there for the worker, and the most it may use; None: no limit.
            timeout: seconds to wait for these bytes; None: no limit.

        Raises:
            DeviceError: the device cannot be used.
            TimeoutError: the bytes were not free in time.
        """
        ...


class WorkerTransport(Protocol):
    """One way to have workers."""

    async def start(self, spec: WorkerSpec) -> WorkerChannel:
        """Start a worker and wait for its handshake.

        Raises:
            WorkerStartTimeout: it was not ready in time; nothing of it is left.
            WorkerDied: it ended before the handshake.
        """
        ...

    async def aclose(self) -> None:
        """Kill what is left; afterwards no process, thread or descriptor remains."""
        ...
