"""Where workers run that are threads of this process: an execution context, or a plain thread."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from functools import partial
from typing import Any

from ..errors import DuplicateName
from ..home_loop import home_loop
from ..ports import WorkerRoom
from ..promise import new_promise, resolve
from .context import ExecutionContext
from .own_thread import OwnThread
from .registry import ContextRegistry

__all__ = ["ContextRooms"]


class ContextRooms:
    """Opens rooms; implements `WorkerRooms`. Used in the runtime's loop.

    Args:
        registry: the runtime's contexts, among which those of workers are.
    """

    def __init__(self, registry: ContextRegistry) -> None:
        self._registry = registry

    async def open(
        self, name: str, indices: Sequence[int], *, vram: int | None, timeout: float | None
    ) -> WorkerRoom:
        """Open a context in the worker's own share of its device, or on the CPU just a thread."""
        if not indices:
            return _PlainRoom(name)
        [index] = indices
        for number in itertools.count(2):
            try:
                return _ContextRoom(await self._create(name, index, vram, timeout))
            except DuplicateName:
                # Two pools may have a worker of one name, and one may still be closing.
                name = f"{name.partition('#')[0]}#{number}"
        raise AssertionError("unreachable")

    async def _create(
        self, name: str, index: int, vram: int | None, timeout: float | None
    ) -> ExecutionContext:
        return await self._registry.create(
            name,
            device=f"cuda:{index}",
            max_vram=vram,
            base_vram=vram,
            timeout=timeout,
            claim=_WorkersOwn(),
        )


class _WorkersOwn:
    """The share of a device that its worker holds, and gives back itself."""

    def release(self) -> None:
        pass


class _ContextRoom:
    """A context's thread, stream and budget."""

    def __init__(self, context: ExecutionContext) -> None:
        self._context = context

    @property
    def open(self) -> bool:
        return not self._context._core.activity.closing

    async def call(self, fn: Callable[[], Any]) -> Any:
        return await self._context.run_sync(fn)

    async def aclose(self) -> None:
        await self._context.aclose()


class _PlainRoom:
    """A thread, and nothing else."""

    open = True

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = OwnThread(f"asyncgpu {name}", self._run)

    async def call(self, fn: Callable[[], Any]) -> Any:
        loop, promise = home_loop(), new_promise()
        tell = partial(loop.call, resolve, promise)
        self._thread.start()
        self._calls.put(partial(_perform, copy_context(), fn, tell))
        try:
            value, error = await promise
        except BaseException:
            self._calls.put(None)
            raise
        try:
            if error is not None:
                raise error
            return value
        finally:
            # The exception's traceback refers to this frame, and must not find itself here.
            del error

    async def aclose(self) -> None:
        self._calls.put(None)
        await self._thread.join()

    def _run(self) -> None:
        while (perform := self._calls.get()) is not None:
            perform()
            # An idle thread must not keep the arguments of its last call alive.
            del perform


def _perform(
    context: Context,
    fn: Callable[[], Any],
    tell: Callable[[tuple[Any, BaseException | None]], object],
) -> None:
    """Call `fn`, in the thread, and tell the loop how it ended."""
    try:
        outcome = context.run(fn), None
    except BaseException as error:  # noqa: BLE001 - raised again in the caller's task
        tell((None, error))
    else:
        tell(outcome)
