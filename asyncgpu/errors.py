"""Everything asyncgpu raises, and who must act on it.

::

    AsyncGPUError
    ├── RequestError            the caller must change the request
    │   ├── InvalidRequest        a bad value: size, share, cost (also a ValueError)
    │   │   └── InvalidDevice       a device string nobody can read
    │   ├── InfeasibleRequest     could never be met, however long one waits
    │   ├── NoRuntime             no runtime is open here
    │   ├── ContextClosed         the execution context has been closed
    │   ├── DuplicateName         the name is taken
    │   ├── SessionMisuse         entered twice, left out of order, awaited in the sync form
    │   └── VRAMBudgetExceeded    a context's own budget refused
    ├── AdmissionRejected       try again after `retry_after` seconds (HTTP 503)
    ├── DeviceError             the GPU
    │   ├── OutOfDeviceMemory     the device itself is full
    │   └── DeviceLost            a sticky fault: this process can no longer use the device
    ├── WorkerError             a tool's process
    │   ├── WorkerStartTimeout    it did not get ready in time
    │   ├── WorkerDied            it ended in the middle of something
    │   └── ToolFailed            the tool raised; carries the remote traceback
    │       └── ToolOutOfMemory     it had not enough memory (also an OutOfDeviceMemory)
    ├── PartialFailure          some items failed; keeps every finished result
    └── InvalidTransition       our bug: a state machine was asked the impossible

``TimeoutError``, cancellation and anyio's own exceptions pass through untouched, and no
``ExceptionGroup`` of ours ever reaches a caller. This module needs neither torch nor CUDA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = [
    "AdmissionRejected",
    "AsyncGPUError",
    "ContextClosed",
    "DeviceError",
    "DeviceLost",
    "DuplicateName",
    "InfeasibleRequest",
    "InvalidDevice",
    "InvalidRequest",
    "InvalidTransition",
    "ItemError",
    "NoRuntime",
    "OutOfDeviceMemory",
    "PartialFailure",
    "RequestError",
    "SessionMisuse",
    "ToolFailed",
    "ToolOutOfMemory",
    "VRAMBudgetExceeded",
    "WorkerDied",
    "WorkerError",
    "WorkerStartTimeout",
]


class AsyncGPUError(Exception):
    """Base of everything asyncgpu raises by itself."""


class RequestError(AsyncGPUError):
    """The caller must change something; waiting will not help."""


class InvalidRequest(RequestError, ValueError):
    """A value that means nothing: a negative size, a share above one, a cost of NaN."""


class InvalidDevice(InvalidRequest):
    """A device string that cannot be read; the message names the accepted forms."""


class InfeasibleRequest(RequestError):
    """More than exists, or only what the asker itself holds. Nothing was evicted for it."""


class NoRuntime(RequestError):
    """No runtime is open here: open one with ``async with Runtime()`` or ``initialize()``."""


class ContextClosed(RequestError):
    """The execution context was closed."""


class DuplicateName(RequestError):
    """Something of that name is still open."""


class SessionMisuse(RequestError, RuntimeError):
    """A session was entered twice, left out of order, or awaited in its sync form.

    It is raised after everything has been restored: no stream is left on any thread by it.
    """


class VRAMBudgetExceeded(RequestError):
    """A context's own budget refused an allocation; its neighbours notice nothing.

    Attributes:
        context: the name of the context.
        requested: bytes asked for.
        available: bytes the context could still have had.
    """

    def __init__(self, context: str, requested: int, available: int) -> None:
        super().__init__(context, requested, available)
        self.context = context
        self.requested = requested
        self.available = available

    def __str__(self) -> str:
        return (
            f"context {self.context!r}: {self.requested} bytes asked, "
            f"{self.available} bytes left in its VRAM budget"
        )


class AdmissionRejected(AsyncGPUError):
    """Too much is waiting already; come back after `retry_after` seconds (HTTP 503)."""

    def __init__(self, reason: str, retry_after: float) -> None:
        super().__init__(reason, retry_after)
        self.reason = reason
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.reason} (retry after {self.retry_after:.3g} s)"


class DeviceError(AsyncGPUError):
    """The GPU, or what stands for it."""


class OutOfDeviceMemory(DeviceError):
    """The device itself is full.

    Attributes:
        device: the logical name, such as ``"cuda:0"``.
        requested: bytes asked for.
        available: bytes that were free.
    """

    def __init__(self, device: str, requested: int, available: int) -> None:
        super().__init__(device, requested, available)
        self.device = device
        self.requested = requested
        self.available = available

    def __str__(self) -> str:
        return f"{self.device}: {self.requested} bytes asked, {self.available} bytes free"


class DeviceLost(DeviceError):
    """A sticky device fault. CUDA cannot recover in this process; a worker is restarted."""


class WorkerError(AsyncGPUError):
    """A worker process, not the request, is the trouble."""


class WorkerStartTimeout(WorkerError):
    """The worker was not ready within its start limit; it has been killed."""


class WorkerDied(WorkerError):
    """The worker ended while something depended on it.

    Attributes:
        worker: the worker's name.
        exit_code: as `subprocess.Popen.returncode`: negative is a signal; None: not known.
        stderr: the last lines it wrote, oldest first.
    """

    def __init__(
        self, worker: str, exit_code: int | None = None, stderr: Sequence[str] = ()
    ) -> None:
        super().__init__(worker, exit_code, tuple(stderr))
        self.worker = worker
        self.exit_code = exit_code
        self.stderr = tuple(stderr)

    def __str__(self) -> str:
        how = "ended" if self.exit_code is None else f"ended with exit code {self.exit_code}"
        tail = "".join(f"\n  | {line}" for line in self.stderr)
        return f"worker {self.worker!r} {how}{tail}"


class ToolFailed(WorkerError):
    """The tool raised. `__cause__` is its exception where that could be carried over.

    Attributes:
        tool: the tool's name.
        exception_type: qualified name of the remote exception.
        remote_traceback: the traceback as the worker printed it, always there.
    """

    def __init__(
        self, tool: str, exception_type: str, message: str, remote_traceback: str = ""
    ) -> None:
        super().__init__(tool, exception_type, message, remote_traceback)
        self.tool = tool
        self.exception_type = exception_type
        self.message = message
        self.remote_traceback = remote_traceback

    def __str__(self) -> str:
        head = f"tool {self.tool!r} raised {self.exception_type}: {self.message}"
        return f"{head}\n{self.remote_traceback}" if self.remote_traceback else head


class ToolOutOfMemory(ToolFailed, OutOfDeviceMemory):
    """One item alone was more than the memory of the worker's device, and of any larger one.

    Attributes:
        device: the worker's: ``"cuda:0"``, or ``"cpu"`` where host memory ran out.
        requested: bytes asked for, where the tool's exception says so; else 0.
        available: bytes that were free, where it says so; else 0.
    """

    def __init__(
        self, tool: str, exception_type: str, message: str, remote_traceback: str = ""
    ) -> None:
        # By hand: the two parents take different arguments.
        AsyncGPUError.__init__(self, tool, exception_type, message, remote_traceback)
        self.tool = tool
        self.exception_type = exception_type
        self.message = message
        self.remote_traceback = remote_traceback
        self.device = ""
        self.requested = 0
        self.available = 0


class ItemError:
    """Stands in a result list for an item that failed, with ``on_error="collect"``.

    Attributes:
        index: the item's place in the caller's list.
        error: what went wrong with it.
    """

    __slots__ = ("error", "index")

    def __init__(self, index: int, error: Exception) -> None:
        self.index = index
        self.error = error

    def __repr__(self) -> str:
        return f"ItemError(index={self.index}, error={self.error!r})"


class PartialFailure(AsyncGPUError):
    """Some items failed. Nothing that was finished is lost.

    Attributes:
        results: every finished result, by the item's index in the caller's list.
        errors: every error, by the item's index in the caller's list.
    """

    def __init__(self, results: Mapping[int, object], errors: Mapping[int, Exception]) -> None:
        super().__init__(results, errors)
        self.results = dict(results)
        self.errors = dict(errors)

    def __str__(self) -> str:
        total = len(self.results) + len(self.errors)
        first = min(self.errors)
        return f"{len(self.errors)} of {total} items failed; item {first}: {self.errors[first]}"


class InvalidTransition(AsyncGPUError):
    """A state machine was given an input it has no transition for. Please report it.

    Attributes:
        machine: which one.
        state: the state it was in.
        input: what it was given.
        history: the latest transitions before, oldest first.
    """

    def __init__(
        self, machine: str, state: object, input: object, history: Sequence[object] = ()
    ) -> None:
        super().__init__(machine, state, input, tuple(history))
        self.machine = machine
        self.state = state
        self.input = input
        self.history = tuple(history)

    def __str__(self) -> str:
        story = " -> ".join(map(str, self.history))
        return f"{self.machine}: {self.input} is impossible in {self.state} (after {story or '-'})"
