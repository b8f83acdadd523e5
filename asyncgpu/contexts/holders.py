"""Which task uses which blocks of a memory pool, so that none waits for itself."""

from __future__ import annotations

import anyio

from ..policy.pool_block import PoolBlock

__all__ = ["Holders"]


class Holders:
    """The blocks in use, by task.

    Tasks that were started inside a use are not counted in: they may go on after it, and then it is
    right that they wait for its end.
    """

    def __init__(self) -> None:
        self._blocks: dict[int, list[PoolBlock]] = {}

    def here(self) -> list[PoolBlock]:
        """Return what the current task uses, each block as often as it does."""
        return self._blocks.get(anyio.get_current_task().id, [])

    def add(self, block: PoolBlock) -> int:
        """Note a use by the current task; return the task's number."""
        task = anyio.get_current_task().id
        self._blocks.setdefault(task, []).append(block)
        return task

    def remove(self, task: int, block: PoolBlock) -> None:
        """End a use of the task of that number."""
        blocks = self._blocks[task]
        blocks.remove(block)
        if not blocks:
            del self._blocks[task]
