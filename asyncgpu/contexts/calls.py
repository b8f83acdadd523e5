"""The context's methods as functions, for the module-level API."""

from __future__ import annotations

from .context import ExecutionContext
from .events import DeviceEvent
from .stream import Stream
from .usage import ContextUsage

__all__ = ["get_context_usage", "get_stream", "record_event", "wait_event"]


def get_stream(ctx: ExecutionContext) -> Stream:
    """Return the stream of `ctx`."""
    return ctx.stream


def get_context_usage(ctx: ExecutionContext) -> ContextUsage:
    """Return a snapshot of the memory of `ctx`."""
    return ctx.usage()


def record_event(ctx: ExecutionContext) -> DeviceEvent:
    """Return an event behind all the work that `ctx` has now; see its method."""
    return ctx.record_event()


def wait_event(ctx: ExecutionContext, event: DeviceEvent) -> None:
    """Let later work of `ctx` wait, on the device, for `event`; see its method."""
    ctx.wait_event(event)
