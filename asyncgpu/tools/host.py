"""`ToolHost`: what one runtime keeps for the tools layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio

from .. import ambient
from ..policy.device_spec import parse_device
from ..ports import WorkerTransport
from .launcher import Launcher
from .stats import PoolStats
from .tool import Tool
from .workforce import Workforce

__all__ = ["ToolHost", "host_of_task"]


class ToolHost:
    """Opens workforces, and closes those that are still open with the runtime."""

    def __init__(self, launcher: Launcher, threads: WorkerTransport) -> None:
        """Begin with no pool or block open.

        Args:
            launcher: what the runtime provides; its workers are processes.
            threads: has workers that are threads of this process.
        """
        self.launcher = launcher
        self._thread_launcher = replace(launcher, transport=threads, threads=True)
        self.default_pool: Any = None
        """The `ToolPool` that tools called outside any pool use."""
        self._open: list[Workforce] = []
        self.house = self.open(seats=one_seat, serve=self.answer)
        """Workers got by `get_tool` outside any ``persist()`` block; they stay to the end."""
        self.one_shot = self.open(seats=one_seat, keeps=False, serve=self.answer)
        """Workers of calls outside any pool or block; each ends with its call."""

    def open(self, *, threads: bool = False, **options: Any) -> Workforce:
        """Return a new `Workforce`.

        Args:
            threads: its workers are threads of this process.
            options: the parameters of `Workforce`.
        """
        staff = Workforce(self._thread_launcher if threads else self.launcher, **options)
        self._open.append(staff)
        return staff

    async def answer(self, tool: Tool, items: list[Any], priority: int) -> list[Any]:
        """Answer the nested calls of workers that are in no pool or block."""
        if self.default_pool is None:
            return await self.one_shot.answer(tool, items, priority)
        answers: list[Any] = await self.default_pool.run(tool, items, priority=priority)
        return answers

    async def close(self, staff: Workforce) -> None:
        """Stop all its workers. Idempotent."""
        if staff in self._open:
            self._open.remove(staff)
            await staff.aclose()

    def stats(self) -> tuple[PoolStats, ...]:
        """Return a snapshot of every workforce that has workers."""
        snapshots = (staff.stats() for staff in self._open)
        return tuple(stats for stats in snapshots if stats.slots)

    async def aclose(self) -> None:
        """Stop everything, all at once."""
        self.default_pool = None
        async with anyio.create_task_group() as tasks:
            for staff in tuple(self._open):
                tasks.start_soon(self.close, staff)


def one_seat(tool: Tool) -> int:
    """One worker for each tool, once its device string has been read."""
    parse_device(tool.device)
    return 1


def host_of_task() -> ToolHost:
    """Return the tool host of the current task's runtime.

    Raises:
        NoRuntime: no runtime is open here.
    """
    host: ToolHost = ambient.find_runtime().tools
    return host
