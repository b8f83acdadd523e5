"""Exceptions across processes: described in the worker, made a `ToolFailed` in the program.

The description is text, so that it always arrives. The exception itself travels beside it, already
pickled: where it cannot be pickled, or not be unpickled, only it is missing.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

from ..errors import ToolFailed, ToolOutOfMemory

__all__ = [
    "Failure",
    "describe_failure",
    "failed_here",
    "to_exception",
    "to_tool_failed",
    "unreadable",
]


class Failure(NamedTuple):
    """What a worker says about an exception."""

    exception_type: str
    message: str
    traceback: str
    pickled: tuple[bytes, list[bytes]] | None
    out_of_memory: bool = False


# By name: a worker has no reason to import torch only to look.
_OUT_OF_MEMORY = frozenset(
    {"MemoryError", "OutOfMemoryError", "OutOfDeviceMemory", "VRAMBudgetExceeded"}
)
# What says the same in a plain RuntimeError: torch's CPU allocator, and CUDA outside of torch's.
_FULL = ("DefaultCPUAllocator: can't allocate memory", "CUDA error: out of memory")


def describe_failure(
    error: BaseException, dumps: Callable[[object], tuple[bytes, list[memoryview]]]
) -> Failure:
    """Return everything about `error` that can leave this process."""
    try:
        body, buffers = dumps(error)
        pickled = (body, [bytes(buffer) for buffer in buffers])
    except Exception:  # noqa: BLE001 - picklers raise anything
        pickled = None
    return Failure(
        _qualified_name(type(error)),
        _message(error),
        _traceback(error),
        pickled,
        _is_out_of_memory(error),
    )


def to_tool_failed(tool: str, failure: Failure) -> ToolFailed:
    """Return the error for the caller, with the remote exception as its cause if it survived."""
    return _caused_by(_unpickled(failure), tool, failure)


def failed_here(tool: str, error: BaseException) -> ToolFailed:
    """Return the error for the caller, where the tool has raised in this very process.

    Its frames are let go: whoever keeps the error would keep what the tool's variables hold.
    """
    failure = Failure(
        _qualified_name(type(error)),
        _message(error),
        _traceback(error),
        None,
        _is_out_of_memory(error),
    )
    _forget_frames(error)
    return _caused_by(error, tool, failure)


def to_exception(tool: str, failure: Failure) -> Exception:
    """Return the exception itself, as it was raised; where it did not survive, a `ToolFailed`."""
    cause = _unpickled(failure)
    return cause if isinstance(cause, Exception) else to_tool_failed(tool, failure)


def unreadable(tool: str, cause: Exception) -> ToolFailed:
    """Return the error for an answer that arrived but cannot be unpickled in this process."""
    message = f"its answer cannot be read here: {_message(cause)}"
    error = ToolFailed(tool, _qualified_name(type(cause)), message, _traceback(cause))
    error.__cause__ = cause
    return error


def _caused_by(cause: BaseException | None, tool: str, failure: Failure) -> ToolFailed:
    kind = ToolOutOfMemory if failure.out_of_memory else ToolFailed
    error = kind(tool, failure.exception_type, failure.message, failure.traceback)
    error.__cause__ = cause
    if isinstance(error, ToolOutOfMemory):
        error.requested = getattr(cause, "requested", 0)
        error.available = getattr(cause, "available", 0)
    return error


def _forget_frames(error: BaseException) -> None:
    """Take the tracebacks off `error` and off everything that it was raised from."""
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        each = left.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            each.__traceback__ = None
            left += (each.__cause__, each.__context__)


def _unpickled(failure: Failure) -> BaseException | None:
    if failure.pickled is None:
        return None
    body, buffers = failure.pickled
    try:
        cause: Any = pickle.loads(body, buffers=[bytearray(buffer) for buffer in buffers])
    except Exception:  # noqa: BLE001 - somebody else's constructor
        return None
    return cause if isinstance(cause, BaseException) else None


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether it is one of the exceptions that mean it, or was raised from one."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if any(kind.__name__ in _OUT_OF_MEMORY for kind in type(error).__mro__):
            return True
        if isinstance(error, RuntimeError) and any(full in _message(error) for full in _FULL):
            return True
        error = error.__cause__
    return False


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as trouble:  # noqa: BLE001 - an exception may have any __str__
        return f"<message not printable: {type(trouble).__name__}>"


def _traceback(error: BaseException) -> str:
    # Imported only here: a worker that never fails starts without it.
    import traceback

    try:
        return "".join(traceback.format_exception(error))
    except Exception as trouble:  # noqa: BLE001
        return f"<traceback not printable: {type(trouble).__name__}>"


def _qualified_name(kind: type) -> str:
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"
