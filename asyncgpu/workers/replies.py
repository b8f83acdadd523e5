"""Frames to replies: how a request ended, read in the program."""

from __future__ import annotations

from ..errors import WorkerError
from ..ports import Reply
from .exchange import Exchange
from .failure import to_tool_failed, unreadable
from .wire import Frame, Kind

__all__ = ["read_reply"]


def read_reply(exchange: Exchange, tool: str, frame: Frame) -> Reply:
    """Return the reply that `frame` holds. Never raises; may run in a thread.

    Args:
        exchange: the program's end of the memory it came through.
        tool: the tool's name, for errors.
        frame: a DONE, a FAILED or a SKIPPED.
    """
    if frame.kind == Kind.SKIPPED:
        return Reply(error=WorkerError(f"{tool}: cancelled before it started"))
    try:
        seconds, value = exchange.unpack(frame)
    except Exception as error:  # noqa: BLE001 - somebody else's __setstate__, a missing module
        return Reply(error=unreadable(tool, error))
    if frame.kind == Kind.FAILED:
        return Reply(error=to_tool_failed(tool, value), seconds=seconds)
    return Reply(value, None, seconds)
