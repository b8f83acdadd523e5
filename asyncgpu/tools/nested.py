"""Nested calls: what a worker's tool asks of other tools, answered in a task of the runtime."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from .. import ambient
from ..errors import WorkerError
from ..ports import NestedCall, Reply
from .assignment import Assignment
from .items import check_tool
from .tool import Tool

__all__ = ["NestedCalls", "Serve"]

Serve = Callable[[Tool, list[Any], int], Awaitable[list[Any]]]
"""Answers items with a tool, at a priority, for the workers of one pool or block."""


class NestedCalls:
    """The nested calls of the workers of one station."""

    def __init__(self, tool: Tool, start_soon: Callable[..., None], serve: Serve) -> None:
        """Answer none yet.

        Args:
            tool: what the workers run.
            start_soon: runs a coroutine function in a task of the runtime.
            serve: answers what the tool asks of other tools.
        """
        self._tool = tool
        self._start_soon = start_soon
        self._serve = serve

    def take(self, call: NestedCall, assignment: Assignment | None, claim: int | None) -> None:
        """Begin to answer a call.

        Args:
            call: what is asked.
            assignment: the micro-batch that the asking worker runs.
            claim: what it holds.
        """
        if assignment is None or claim is None or not assignment.awaits(call.within):
            call.answer(Reply(error=WorkerError("the call that this one was made from is over")))
        else:
            self._start_soon(self._answer, call, assignment, assignment.work.claims | {claim})

    async def _answer(
        self, call: NestedCall, assignment: Assignment, claims: frozenset[int]
    ) -> None:
        """Answer it, or give it up when the micro-batch that it is part of is over."""
        reply = Reply(error=WorkerError("cancelled, with the call that it is part of"))
        with assignment.nesting():
            # This task is the caller now: it asks in the name of everybody who waits for it.
            ambient.claims.set(claims)
            try:
                asked = self._tool if call.tool is None else check_tool(call.tool)
                reply = Reply(await self._serve(asked, call.items, assignment.work.priority))
            except Exception as error:  # noqa: BLE001 - it belongs to the tool that called
                reply = Reply(error=error)
        call.answer(reply)
