"""`Workforce`: crews by tool, and the ways to give them work.

What a pool, a ``persist()`` block and the runtime's own workers have in common. A run's path: check
everything, merge equal items, plan (`policy.shards`), hand the job to the tool's crew, wait for its
end, collect. Nothing is started before the last check has passed. A source, and a list of which the
result cache may know answers, goes through a flow instead, which plans item by item.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio

from .. import ambient
from ..errors import AdmissionRejected
from ..units import parse_timeout
from .assignment import Assignment
from .calls import Call, CallQueue
from .crew import Crew
from .crews import Crews
from .intake import Intake
from .items import costs_of, is_source, list_items
from .launcher import Launcher
from .mailbox import InputOrder, Mailbox
from .nested import Serve
from .options import RunOptions
from .plan_work import ItemResult, PlanWork
from .planning import OnResults, Planner
from .progress_bar import progress_callback
from .result_cache import ResultCache
from .result_key import result_keys
from .share import Share
from .stats import PoolStats, slot_stats
from .timeline import Timeline
from .tool import Items, Tool
from .warm_up import WarmUp

__all__ = ["Workforce"]


class Workforce:
    """Warm workers of any number of tools."""

    def __init__(
        self,
        launcher: Launcher,
        *,
        seats: Callable[[Tool], int],
        among: frozenset[int] | None = None,
        retries: int = 1,
        max_queue: int | None = None,
        pinned: bool = False,
        keeps: bool = True,
        cache: ResultCache | None = None,
        serve: Serve | None = None,
    ) -> None:
        """Hire nobody yet.

        Args:
            launcher: what the runtime provides.
            seats: how many workers a tool may have here; raises what makes it impossible.
            among: the devices they may use; None: all managed ones.
            retries: how often an item may be run again after its worker died.
            max_queue: items that may wait; None: any number.
            pinned: idle workers are never evicted.
            keeps: workers stay for the next call; False: one shot, as for `Tool.resident`.
            cache: remembers answers; None: nothing does.
            serve: answers what its workers' tools ask of other tools; None: it does.
        """
        self.crews = Crews(
            launcher,
            seats=seats,
            among=among,
            pinned=pinned,
            keeps=keeps,
            serve=serve or self.answer,
        )
        self._launcher = launcher
        self._cache = cache
        share = None if cache is None else Share(cache.answers, launcher)
        self._planner = Planner(launcher, retries=retries, share=share)
        self._retries = retries
        self._max_queue = max_queue
        self._queues: dict[tuple[Crew, int], CallQueue] = {}
        self._works: set[PlanWork] = set()
        self._merged = 0
        self._latest: tuple[float, float] | None = None  # not the run: it holds items

    # -------------------------------------------------------------------------- batches

    async def run(
        self, tool: Tool, items: Items, options: RunOptions, *, instance: str | None = None
    ) -> list[Any]:
        """Answer `items` in order; see `ToolPool.run`."""
        async with self._at_work(tool, items, options, instance=instance) as job:
            with anyio.fail_after(options.timeout):
                await job.ended
        return job.collect(options.on_error)

    async def answer(self, tool: Tool, items: list[Any], priority: int) -> list[Any]:
        """Answer what a worker's tool asks of another tool, as part of the call it is in."""
        return await self.run(tool, items, RunOptions(priority=priority, admitted=True))

    async def stream(
        self, tool: Tool, items: Items, options: RunOptions, *, ordered: bool
    ) -> AsyncIterator[ItemResult]:
        """Yield outcomes as they come; see `ToolPool.stream`."""
        mailbox = Mailbox()
        order = InputOrder() if ordered else None
        deadline = None if options.timeout is None else anyio.current_time() + options.timeout
        async with self._at_work(tool, items, options, on_results=mailbox.put) as job:
            job.ended.add_done_callback(lambda _: mailbox.close())
            while (result := await _before(deadline, mailbox)) is not None:
                for ready in (result,) if order is None else order.put(result):
                    yield ready
                    job.took(1)
            job.check()

    @asynccontextmanager
    async def _at_work(
        self,
        tool: Tool,
        items: Items,
        options: RunOptions,
        *,
        instance: str | None = None,
        on_results: OnResults | None = None,
    ) -> AsyncIterator[PlanWork]:
        """Give the run of `items`, under way, and leave nothing of it behind."""
        with progress_callback(options.progress, tool.name) as report:
            listed = None if is_source(items) else list_items(items)
            # A nested call shares no answers: it might wait for one that waits for itself.
            sharing = not options.admitted and self._planner.shares(tool, options)
            if listed is None or (listed and sharing):
                crew = self.crews.engage(tool, instance)
                flow = self._planner.flow(tool, listed, options, crew, report, on_results)
                intake = Intake(items, flow, self._launcher, crew.pump)
                async with self._served(flow, crew, options, intake):
                    yield flow
                return
            known = self.crews.find(tool)
            rate = None if known is None else known.seconds_per_cost
            job = self._planner.job(tool, listed, options, rate, report, on_results)
            if not listed:
                yield job
                return
            async with self._served(job, self.crews.engage(tool, instance), options):
                yield job

    @asynccontextmanager
    async def _served(
        self, work: PlanWork, crew: Crew, options: RunOptions, intake: Intake | None = None
    ) -> AsyncIterator[None]:
        """Have `crew` serve `work`, to its end or that of the block."""
        try:
            if not options.admitted:
                self._admit()
            self._works.add(work)
            with self._launcher.waits.of(crew, work.claims):
                crew.submit(work)
                if intake is not None:
                    intake.start()
                yield
        finally:
            if intake is not None:
                await intake.aclose()
            await self._release(work, crew, options.cancel_grace)

    async def _release(self, work: PlanWork, crew: Crew, grace: float | None) -> None:
        """Leave nothing behind of a run that has ended, or that nobody waits for any more."""
        self._works.discard(work)
        self._merged += work.saved
        self._latest = work.makespan.span or self._latest
        crew.learn(work.plan.stats())
        for assignment in work.cancel():
            self._abandon(assignment, grace)
        crew.pump()
        if not self.crews.stays(crew.tool):
            await self.dismiss(crew)

    def _abandon(self, assignment: Assignment, grace: float | None) -> None:
        assignment.cancel()
        if grace is not None:
            self._launcher.start_soon(assignment.kill_after, grace)

    # --------------------------------------------------------------------- single calls

    def call(
        self,
        tool: Tool,
        item: Any,
        *,
        timeout: float | None = None,
        priority: int = 0,
        max_wait: float = 0.0,
    ) -> Coroutine[Any, Any, Any]:
        """Answer one item; see `ToolPool.call`."""
        parse_timeout(timeout)
        parse_timeout(max_wait, what="max_wait")
        if self._planner.share is None or not tool.deterministic:
            return self._compute(tool, item, timeout, priority, max_wait)
        return self._recall(self._planner.share, tool, item, timeout, priority, max_wait)

    async def _recall(
        self,
        share: Share,
        tool: Tool,
        item: Any,
        timeout: float | None,
        priority: int,
        max_wait: float,
    ) -> Any:
        """Answer one item from the result cache, or by computing it for the cache."""
        key = result_keys(tool)(0, item)
        compute = partial(self._compute, tool, item, None, priority, max_wait)
        with anyio.fail_after(timeout):
            return await (compute() if key is None else share.answer(key, compute))

    async def _compute(
        self, tool: Tool, item: Any, timeout: float | None, priority: int, max_wait: float
    ) -> Any:
        self._admit()
        costs = costs_of(tool, [item])
        call = Call(item, 1.0 if costs is None else costs[0])
        crew = self.crews.engage(tool, None)
        queue = self._queue_for(crew, priority)
        try:
            with self._launcher.waits.of(crew, ambient.claims.get()):
                self._enqueue(call, queue, crew, max_wait)
                if timeout is None:
                    reply = await call.outcome
                else:
                    with anyio.fail_after(timeout):
                        reply = await call.outcome
        except BaseException:
            queue.forget(call)
            raise
        finally:
            if not self.crews.stays(tool):
                await self.dismiss(crew)
        if reply.error is not None:
            raise reply.error
        return reply.value

    def _enqueue(self, call: Call, queue: CallQueue, crew: Crew, max_wait: float) -> None:
        if max_wait > 0:
            call.hold_until = self._launcher.clock() + max_wait
            self._launcher.start_soon(self._pump_at, crew, call)
        queue.add(call, ambient.claims.get())
        crew.submit(queue)

    async def _pump_at(self, crew: Crew, call: Call) -> None:
        await anyio.sleep_until(call.hold_until)
        # Its time is up, whatever the clock says: uvloop's timers may fire a moment early.
        call.hold_until = 0.0
        crew.pump()

    def _queue_for(self, crew: Crew, priority: int) -> CallQueue:
        queue = self._queues.get((crew, priority))
        if queue is None:
            queue = CallQueue(
                priority=priority,
                max_batch=crew.tool.max_batch,
                retries=self._retries,
                seconds_per_cost=crew.seconds_per_cost,
                clock=self._launcher.clock,
            )
            self._queues[crew, priority] = queue
        return queue

    # ---------------------------------------------------------------------- whole crews

    async def warm(self, tool: Tool, *, instance: str | None = None) -> Crew:
        """Return the tool's crew once one of its workers is ready.

        Raises:
            Exception: why there is no worker.
        """
        crew = self.crews.engage(tool, instance)
        warm_up = WarmUp(ambient.claims.get())
        with self._launcher.waits.of(crew, warm_up.claims):
            crew.submit(warm_up)
            error = await warm_up.ready
        if error is not None:
            raise error
        return crew

    async def dismiss(self, crew: Crew) -> None:
        """Stop a crew's workers; what still waits for them fails."""
        self._queues = {key: queue for key, queue in self._queues.items() if key[0] is not crew}
        await self.crews.dismiss(crew)

    async def aclose(self) -> None:
        """Stop every worker, all at once; what still waits fails."""
        self._queues.clear()
        await self.crews.aclose()

    @property
    def timeline(self) -> Timeline:
        """The runtime's timeline."""
        return self._launcher.timeline

    def stats(self) -> PoolStats:
        """Return a snapshot of every worker and of the latest run."""
        slots = [
            stats for crew in self.crews for stats in slot_stats(crew.tool.name, crew.stations)
        ]
        makespan, lower_bound = self._latest or (None, None)
        return PoolStats(
            slots=tuple(slots),
            items=sum(slot.items for slot in slots),
            merged=self._merged,
            waiting=self._waiting(),
            makespan=makespan,
            lower_bound=lower_bound,
            cache=None if self._cache is None else self._cache.stats(),
        )

    # -------------------------------------------------------------------------- helpers

    def _waiting(self) -> int:
        return sum(work.plan.queued for work in self._works) + sum(map(len, self._queues.values()))

    def _admit(self) -> None:
        """Refuse work while `max_queue` items wait already."""
        if self._max_queue is None:
            return
        waiting = self._waiting()
        if waiting >= self._max_queue:
            raise AdmissionRejected(
                f"{waiting} items wait already, and max_queue is {self._max_queue}",
                retry_after=self._seconds_to_clear(waiting),
            )

    def _seconds_to_clear(self, waiting: int) -> float:
        """Estimate when the queue is short again, by the seconds per item so far."""
        stations = [station for crew in self.crews for station in crew.stations]
        items = sum(station.items for station in stations)
        busy = sum(station.busy_seconds for station in stations)
        workers = sum(station.manned for station in stations)
        return waiting * busy / items / max(1, workers) if items else 1.0


async def _before(deadline: float | None, mailbox: Mailbox) -> ItemResult | None:
    """Return the next result; the scope must not stay open across a yield, so each has its own."""
    if deadline is None:
        return await mailbox.get()
    with anyio.fail_after(max(0.0, deadline - anyio.current_time())):
        return await mailbox.get()
