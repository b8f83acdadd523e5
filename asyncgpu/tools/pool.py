"""`ToolPool`: fans the items of a batch over warm workers and puts the answers back in order."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from contextvars import Token
from functools import partial
from types import TracebackType
from typing import Any

from .. import ambient
from ..errors import InvalidRequest, RequestError
from .host import ToolHost, host_of_task
from .items import check_tool
from .options import RunOptions
from .plan_work import ItemResult
from .progress import ProgressCallback
from .result_cache import ResultCache, check_cache
from .seats import check_gpus, choose_gpus, seats_for
from .stats import PoolStats
from .timeline import Timeline
from .tool import Items, Tool
from .workforce import Workforce

__all__ = ["ToolPool"]


class ToolPool:
    """Warm workers for any number of tools, one on each GPU or share of the CPUs for each tool.

    ::

        async with ToolPool() as pool:
            vectors = await pool.run(Embed(), texts)

    Pools, single calls and leases all draw from the runtime's one `DeviceManager`: several pools
    may use the same GPUs, and a GPU that is busy elsewhere is waited for.
    """

    def __init__(
        self,
        gpus: str | int | Sequence[str] = "all",
        *,
        cpus: int | None = None,
        worker: str = "process",
        keep_warm: bool = False,
        default: bool = False,
        retries: int = 1,
        max_queue: int | None = None,
        cache: ResultCache | None = None,
    ) -> None:
        """Describe a pool; ``async with`` opens it. Nothing is started before the first item.

        Args:
            gpus: ``"all"`` managed GPUs, the first so many of them, a list such as
                ``["cuda:0", "cuda:2"]``, or 0 for none.
            cpus: CPU threads for tools on the CPU; None: all that this process may use.
            worker: ``"process"``: each worker is a process of its own. ``"thread"``: a thread of
                this one, inside an `ExecutionContext` on its GPU. Items and answers are then the
                very objects, and a declared `vram` is a budget that is enforced; but the GIL is
                shared, a fault of a tool is the program's, and what runs cannot be killed: where
                a process would be, a thread is abandoned, and ends when its call returns.
            keep_warm: its idle workers are never evicted for somebody else.
            default: tools called anywhere in the runtime use this pool.
            retries: how often an item is run again after its worker died, before it is given up.
            max_queue: items that may wait; more are refused with `AdmissionRejected`.
            cache: remembers the answers of deterministic tools; None: nothing does.

        Raises:
            InvalidRequest: a parameter that means nothing.
        """
        self._gpus = check_gpus(gpus)
        self._cpus = _check_count("cpus", cpus, least=1) or len(os.sched_getaffinity(0))
        if worker not in ("process", "thread"):
            raise InvalidRequest(f"worker: {worker!r} is neither 'process' nor 'thread'")
        self._threads = worker == "thread"
        self._keep_warm = keep_warm
        self._default = default
        self._retries = _check_count("retries", retries, least=0) or 0
        self._max_queue = _check_count("max_queue", max_queue, least=1)
        self._cache = check_cache(cache)
        self._indices: tuple[int, ...] = ()
        self._staff: Workforce | None = None
        self._host: ToolHost | None = None
        self._token: Token[Any] | None = None

    async def __aenter__(self) -> ToolPool:
        if self._staff is not None:
            raise RequestError("this pool is open already")
        host = host_of_task()
        self._indices = choose_gpus(self._gpus, host.launcher.devices.managed)
        if self._cache is not None:
            self._cache.attach()
        self._staff = host.open(
            threads=self._threads,
            seats=partial(seats_for, indices=self._indices, cpus=self._cpus),
            among=frozenset(self._indices),
            retries=self._retries,
            max_queue=self._max_queue,
            pinned=self._keep_warm,
            cache=self._cache,
        )
        if self._default:
            host.default_pool = self
        self._host = host
        self._token = ambient.pool.set(self)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._token is not None:
            # Closed from another task than it was opened in: that task's variable is its own.
            with suppress(ValueError):
                ambient.pool.reset(self._token)
        await self.aclose()

    async def aclose(self) -> None:
        """Stop every worker; what still waits fails. Idempotent."""
        staff, self._staff, self._token = self._staff, None, None
        if staff is None:
            return
        assert self._host is not None
        if self._host.default_pool is self:
            self._host.default_pool = None
        try:
            await self._host.close(staff)
        finally:
            if self._cache is not None:
                self._cache.detach()

    async def run(
        self,
        tool: Tool,
        items: Items,
        *,
        timeout: float | None = None,
        item_timeout: float | None = None,
        on_error: str = "raise",
        priority: int = 0,
        progress: bool | ProgressCallback | None = None,
        seed: int | None = None,
        cancel_grace: float | None = None,
        look_ahead: int | None = None,
    ) -> list[Any]:
        """Answer `items`, in order.

        The costliest items go first, each to the worker that would finish it earliest; an idle
        worker takes from the one with most left. Equal items are computed once. An item whose
        micro-batch failed or died is run again alone, so items may run more than once.

        Items may come from an async iterable, or from an iterator such as a generator. It is drawn
        only as fast as its items are worked off, and all of the above holds for those that are out
        at the same time. What it raises itself ends the run with a `PartialFailure`, which holds
        every answer, and that error in the place of the item that did not come. It is closed in the
        end. A plain generator runs in the loop's thread, so it must not block.

        Args:
            tool: what answers them.
            items: one value each; parallel fields stay together in tuples.
            timeout: seconds for the whole call, waiting and loading included.
            item_timeout: seconds for each item, from dispatch; of a micro-batch, times its items.
            on_error: ``"raise"`` or ``"collect"``: an `ItemError` stands in a failed item's place.
            priority: higher goes first.
            progress: True for a bar on standard error, or a callable that takes a `Progress`.
            seed: item *i* gets a seed derived from ``(seed, i)``; nothing is merged.
            cancel_grace: seconds after which a worker that still runs a cancelled micro-batch is
                killed, or abandoned if it is a thread; None: it finishes, and stays warm.
            look_ahead: how many items of an iterator may be out: drawn, and their results not yet
                taken. None: four micro-batches for each worker.

        Raises:
            PartialFailure: some items failed; it holds every answer and every error by index.
            TimeoutError: `timeout` ran out.
            AdmissionRejected: `max_queue` items wait already.
            RequestError: the tool cannot run in this pool, or an argument means nothing.
            WorkerError: no worker could be started, or the tool did not load.
        """
        options = RunOptions(
            timeout=timeout,
            item_timeout=item_timeout,
            on_error=on_error,
            priority=priority,
            progress=progress,
            seed=seed,
            cancel_grace=cancel_grace,
            look_ahead=look_ahead,
        )
        return await self._open_staff().run(check_tool(tool), items, options)

    def stream(
        self,
        tool: Tool,
        items: Items,
        *,
        ordered: bool = False,
        timeout: float | None = None,
        item_timeout: float | None = None,
        priority: int = 0,
        progress: bool | ProgressCallback | None = None,
        seed: int | None = None,
        cancel_grace: float | None = None,
        look_ahead: int | None = None,
    ) -> AsyncIterator[ItemResult]:
        """Yield an `ItemResult` for each item as it is finished, or in order if `ordered`.

        Leaving the iteration cancels what is left; close the iterator (``contextlib.aclosing``) to
        have that happen at once. The arguments are those of `run`; errors come with their items.
        What an iterator of items raises itself is raised here, after the results of all items that
        came before. An endless one is fine: never more than `look_ahead` items and results are
        held, so whoever takes results slowly slows the iterator down.
        """
        options = RunOptions(
            timeout=timeout,
            item_timeout=item_timeout,
            priority=priority,
            progress=progress,
            seed=seed,
            cancel_grace=cancel_grace,
            look_ahead=look_ahead,
        )
        return self._open_staff().stream(check_tool(tool), items, options, ordered=ordered)

    async def call(
        self,
        tool: Tool,
        item: Any,
        *,
        timeout: float | None = None,
        priority: int = 0,
        max_wait: float = 0.0,
    ) -> Any:
        """Answer one item. A lone call goes at once; calls that queue meanwhile go together.

        Args:
            tool: what answers it.
            item: the item.
            timeout: seconds for the whole call, waiting and loading included.
            priority: higher goes first.
            max_wait: seconds it may be held back for others to share its micro-batch.

        Raises:
            ToolFailed: the tool raised for this item.
            WorkerDied: workers died while they ran it alone.
            TimeoutError: `timeout` ran out.
            AdmissionRejected: `max_queue` items wait already.
        """
        return await self._open_staff().call(
            check_tool(tool), item, timeout=timeout, priority=priority, max_wait=max_wait
        )

    @property
    def timeline(self) -> Timeline:
        """What the runtime's workers waited for and did, for the tracing integrations."""
        return self._open_staff().timeline

    def stats(self) -> PoolStats:
        """Return a snapshot: what each slot did, and how the latest run compares to its bound."""
        return self._open_staff().stats()

    # --------------------------------------------------------------------------- helpers

    def _open_staff(self) -> Workforce:
        if self._staff is None:
            raise RequestError("this pool is closed; open it with `async with`")
        return self._staff


def _check_count(name: str, value: int | None, *, least: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidRequest(f"{name}: {value!r} is not an int of {least} or more")
    return value
