"""Where a bare ``await tool(items)`` goes."""

from __future__ import annotations

from typing import Any

from .. import ambient
from .host import host_of_task
from .options import RunOptions
from .pool import ToolPool
from .tool import Items, Tool
from .workforce import Workforce

__all__ = ["dispatch"]


async def dispatch(tool: Tool, items: Items) -> list[Any]:
    """Answer `items`: by the pool around, else the persist block, else the runtime.

    Of a pool and a block the innermost wins: a block hides the pool around it.
    """
    pool: ToolPool | None = ambient.pool.get()
    if pool is not None:
        return await pool.run(tool, items)
    block: Workforce | None = ambient.persistence.get()
    if block is not None:
        return await block.run(tool, items, RunOptions())
    host = host_of_task()
    default: ToolPool | None = host.default_pool
    if default is not None:
        return await default.run(tool, items)
    return await host.one_shot.run(tool, items, RunOptions())
