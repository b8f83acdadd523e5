"""Keeping tools warm without a pool: `persist`, `persist_tool`, `get_tool`, `shutdown_tool`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from .. import ambient
from ..errors import DuplicateName, InvalidRequest
from .crew import Crew
from .host import ToolHost, host_of_task, one_seat
from .items import check_tool
from .nested import Serve
from .options import RunOptions
from .pool import ToolPool
from .progress import ProgressCallback
from .tool import Items, Tool
from .workforce import Workforce

__all__ = ["Worker", "get_tool", "persist", "persist_tool", "shutdown_tool"]


class Worker:
    """A handle on one warm worker of a tool; it starts again by itself after an eviction."""

    def __init__(self, tool: Tool, staff: Workforce, crew: Crew, instance: str | None) -> None:
        self._tool = tool
        self._staff = staff
        self._crew = crew
        self._instance = instance

    @property
    def name(self) -> str:
        """The instance name, else the tool's."""
        return self._instance or self._tool.name

    @property
    def device(self) -> str:
        """``"cuda:0"``, ``"cpu"``, or ``"-"`` while it holds none."""
        return self._crew.stations[0].place

    @property
    def pid(self) -> int | None:
        """The worker's process; None while there is none."""
        return self._crew.stations[0].pid

    async def run(
        self,
        items: Items,
        *,
        timeout: float | None = None,
        on_error: str = "raise",
        progress: bool | ProgressCallback | None = None,
        seed: int | None = None,
    ) -> list[Any]:
        """Answer `items`, in order; arguments and errors are those of `ToolPool.run`."""
        options = RunOptions(timeout=timeout, on_error=on_error, progress=progress, seed=seed)
        return await self._staff.run(self._tool, items, options, instance=self._instance)


@asynccontextmanager
async def persist() -> AsyncIterator[None]:
    """Keep every tool that is called inside the block warm, one worker each, until it ends.

    Blocks nest; each has its own workers.

    Raises:
        NoRuntime: no runtime is open here.
    """
    host = host_of_task()
    staff = host.open(seats=one_seat)
    block = ambient.persistence.set(staff)
    pool = ambient.pool.set(None)  # the innermost wins, and that is this block now
    try:
        yield
    finally:
        ambient.pool.reset(pool)
        ambient.persistence.reset(block)
        await host.close(staff)


@asynccontextmanager
async def persist_tool(
    tool: Tool, *, instance_name: str | None = None, device: str | None = None
) -> AsyncIterator[Worker]:
    """Give one warm worker of `tool`, loaded on entry and ended with the block.

    Args:
        tool: what it loads.
        instance_name: how logs call it; None: as the tool.
        device: where, instead of the tool's own device.

    Raises:
        InvalidDevice: `device` cannot be read.
        WorkerError: it could not be started or loaded.
    """
    placed = check_tool(tool) if device is None else check_tool(tool).on(device)
    host = host_of_task()
    staff = host.open(seats=one_seat, serve=_serve_around(host))
    try:
        crew = await staff.warm(placed, instance=instance_name)
        yield Worker(placed, staff, crew, instance_name)
    finally:
        await host.close(staff)


async def get_tool(tool: Tool, *, instance_name: str | None = None) -> Worker:
    """Return a warm worker of `tool`, the same for equal tools and names.

    It lives as long as the ``persist()`` block around the caller, else as the runtime, or until
    `shutdown_tool`.

    Raises:
        DuplicateName: `instance_name` is another tool's.
        WorkerError: it could not be started or loaded.
    """
    tool = check_tool(tool)
    staff = _staff_here(host_of_task())
    if instance_name is not None:
        _check_name(staff, instance_name, tool)
    crew = await staff.warm(tool, instance=instance_name)
    return Worker(tool, staff, crew, instance_name)


async def shutdown_tool(tool_or_name: Tool | str) -> bool:
    """Stop the warm worker that `get_tool` would return; False: there is none.

    A call it still runs fails with `RequestError`.
    """
    staff = _staff_here(host_of_task())
    if isinstance(tool_or_name, str):
        crew = staff.crews.find_named(tool_or_name)
    elif isinstance(tool_or_name, Tool):
        crew = staff.crews.find(tool_or_name)
    else:
        raise InvalidRequest(f"{tool_or_name!r} is neither a tool nor the name of one")
    if crew is None:
        return False
    await staff.dismiss(crew)
    return True


def _serve_around(host: ToolHost) -> Serve:
    """Return who answers the nested calls of a tool: as if it was called here."""
    pool: ToolPool | None = ambient.pool.get()
    if pool is not None:
        return lambda tool, items, priority: pool.run(tool, items, priority=priority)
    block: Workforce | None = ambient.persistence.get()
    return host.answer if block is None else block.answer


def _staff_here(host: ToolHost) -> Workforce:
    block: Workforce | None = ambient.persistence.get()
    return host.house if block is None else block


def _check_name(staff: Workforce, name: str, tool: Tool) -> None:
    taken = staff.crews.find_named(name)
    if taken is not None and taken.tool.identity != tool.identity:
        raise DuplicateName(f"instance {name!r} is a {taken.tool.name}, not this {tool.name}")
