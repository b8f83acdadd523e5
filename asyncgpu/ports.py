"""The ports: what the layers above ask of the two edges, the GPU and the worker processes.

Each edge is a few small protocols. `runtime` picks an implementation by name and imports it late;
nobody else names one. Both drivers pass one contract suite (``tests/drivers/contract.py``), and so
do the worker transports (``tests/workers/``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from .promise import Promise

__all__ = [
    "AccountReading",
    "Codec",
    "DeviceInfo",
    "Driver",
    "DriverEvent",
    "DriverMemory",
    "DriverStream",
    "MemoryLedger",
    "Refusal",
    "Reply",
    "WorkerChannel",
    "WorkerSpec",
    "WorkerStatistics",
    "WorkerTransport",
]


# ------------------------------------------------------------------------------ the GPU edge


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


class AccountReading(NamedTuple):
    """One account of a `MemoryLedger`, in bytes."""

    cap: int | None
    """The most it may use; None: no cap of its own."""
    reserved: int
    """What is set aside for it, used or not."""
    used: int
    """What it is charged for now."""
    peak: int
    """The most it was ever charged for at once."""


class Refusal(NamedTuple):
    """Why a `MemoryLedger` last refused to charge an account."""

    requested: int
    """Bytes asked for."""
    available: int
    """Bytes it could have had."""
    by_device: bool
    """The device was full, or promised to others; else it was the account's own cap or group."""


class MemoryLedger(Protocol):
    """One device's memory, shared out among accounts; in bytes.

    An account commits what it uses or what is reserved for it, whichever is more; commitments
    together never exceed the capacity, so no account can take what another one has reserved.
    Thread-safe, quick, never blocks: it is asked in the middle of allocations. The decisions are
    those of `asyncgpu.policy.budget`, whoever carries them out.
    """

    @property
    def available(self) -> int:
        """What a new account could reserve now; never negative."""
        ...

    def set_capacity(self, nbytes: int) -> None:
        """Change what there is; commitments that no longer fit stay."""
        ...

    def open_group(self, limit: int) -> int:
        """Return a new group: its accounts together use at most `limit`."""
        ...

    def close_group(self, group: int) -> None:
        """Forget a group that no open account is in."""
        ...

    def open(
        self, *, cap: int | None = None, reserved: int = 0, group: int | None = None
    ) -> int | None:
        """Return a new account; None: there is no room for `reserved`."""
        ...

    def close(self, account: int) -> None:
        """End its reservation and refuse its charges; what it uses stays charged until credited."""
        ...

    def charge(self, account: int, nbytes: int) -> bool:
        """Let it use `nbytes` more; False: refused, nothing has changed but `refusal`."""
        ...

    def credit(self, account: int, nbytes: int) -> None:
        """Take back what was charged; from any thread, a finaliser included."""
        ...

    def set_cap(self, account: int, cap: int | None) -> None:
        """Change its cap; what it uses above that stays."""
        ...

    def reserve(self, account: int, nbytes: int) -> bool:
        """Change what is reserved for it to `nbytes`; False: there is no room for more."""
        ...

    def headroom(self, account: int) -> int:
        """What it could be charged now; never negative."""
        ...

    def read(self, account: int) -> AccountReading | None:
        """Return how it stands; None: it is gone, closed and using nothing.

        Numbers of accounts are never used again.
        """
        ...

    def refusal(self, account: int) -> Refusal | None:
        """Return its latest refusal; None: it has not been refused, or is gone."""
        ...


class DriverMemory(Protocol):
    """Where the allocations of one context come from while it is applied. Thread-safe."""

    @property
    def enforced(self) -> bool:
        """Whether an allocation that the ledger refuses fails where it is made."""
        ...

    def live(self) -> int:
        """Bytes of live allocations; what the account is charged beyond them is cached."""
        ...

    def settle(self) -> None:
        """Bring the account up to date, where allocations are not charged as they are made."""
        ...

    def trim(self) -> None:
        """Give cached memory back. May block for milliseconds; nothing of it is applied here."""
        ...

    def translated(self, error: Exception, context: str) -> Exception:
        """Return our error for torch's out-of-memory one, or the same if it is none.

        It is a `VRAMBudgetExceeded` of `context`, or an `OutOfDeviceMemory`, and in both cases a
        ``torch.OutOfMemoryError`` too. It refers to nothing of the original.
        """
        ...

    def close(self) -> None:
        """Give back what can be given back; live tensors stay valid, and charged. Idempotent."""
        ...


class Driver(Protocol):
    """One way to have GPUs. Everything here is quick, except where it says that it blocks."""

    @property
    def name(self) -> str: ...

    def inventory(self) -> Sequence[DeviceInfo]:
        """Return the visible devices in logical order. May block for tens of milliseconds."""
        ...

    def free_memory(self, device: int) -> int:
        """Bytes free on the device, whoever uses the rest. May block for milliseconds."""
        ...

    def torch_device(self, device: int) -> str:
        """What to hand to torch for this device: ``"cuda:0"``, or ``"cpu"`` for a virtual one."""
        ...

    def create_stream(self, device: int, *, level: int) -> DriverStream:
        """Open a stream of its own; `level` is 0 (most urgent), 1 or 2 (least).

        The first one may block for seconds: CUDA is initialised then.
        """
        ...

    def current_stream(self, device: int) -> DriverStream | None:
        """The stream that this thread's work goes to now; None: the default stream."""
        ...

    def native_ledger(self, device: int, capacity: int) -> MemoryLedger | None:
        """Return a ledger that the driver's own allocator asks; None: it asks the caller's."""
        ...

    def open_memory(self, device: int, ledger: MemoryLedger, account: int) -> DriverMemory:
        """Return memory that is charged to `account`. The first one may block for seconds."""
        ...

    def apply(
        self,
        stream: DriverStream,
        *,
        inference: bool = False,
        memory: DriverMemory | None = None,
    ) -> object:
        """Make `stream` current for this thread; return the token that `undo` takes.

        With `inference`, torch's inference mode is on from here to `undo`; without it, the mode
        stays as it is. With `memory`, what this thread allocates until `undo` comes from there;
        one that is applied already is applied again. May raise, having changed nothing: the step
        hook records the fault on the session and the step still runs.
        """
        ...

    def undo(self, token: object) -> None:
        """Restore what was current before `apply`. Strictly last in, first out."""
        ...

    def worker_environment(self, devices: Sequence[int]) -> Mapping[str, str]:
        """Environment a worker process needs before it imports anything.

        The worker sees exactly `devices`, and ``cuda:0`` there is the first of them: give all, in
        order, and indices mean the same in both processes.
        """
        ...

    def close(self) -> None:
        """Give everything back; idempotent. Blocks until driver threads have ended."""
        ...


class Codec(Protocol):
    """Teaches pickle to carry one library's objects with their memory out of band.

    The runtime names it by import path, and both processes make one; the wire knows no library.
    """

    @property
    def module(self) -> str:
        """The library's top module. Until that is imported, the codec is not asked for anything."""
        ...

    def reducers(self) -> Mapping[type, Callable[[Any], Any]]:
        """Return reduce functions, as for `copyreg.pickle`, by the exact types they are for."""
        ...


# -------------------------------------------------------------------------- the process edge


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

    async def load(self, tool: object, devices: Sequence[str]) -> Reply:
        """Send the tool over and run its `load`; the reply's value is None."""
        ...

    async def move(self, devices: Sequence[str]) -> Reply:
        """Run the tool's `to`: ``["cpu"]`` offloads it."""
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
