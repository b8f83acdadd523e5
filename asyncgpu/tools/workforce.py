"""`Workforce`: crews by tool, and the ways to give them work.

What a pool, a ``persist()`` block and the runtime's own workers have in common. A run's path: check
everything, merge equal items, plan (`policy.shards`), hand the job to the tool's crew, wait for its
end, collect. Nothing is started before the last check has passed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import anyio

from .. import ambient
from ..errors import AdmissionRejected
from ..policy.dedup import merge
from ..policy.shards import BatchPlan
from ..units import parse_timeout
from .assignment import Assignment
from .calls import Call, CallQueue
from .crew import Crew
from .crews import Crews
from .items import costs_of, keys_of, list_items
from .job import ItemResult, Job
from .launcher import Launcher
from .mailbox import InputOrder, Mailbox
from .options import RunOptions
from .progress import ProgressCallback, Reporter
from .progress_bar import progress_callback
from .stats import PoolStats, slot_stats
from .timeline import Timeline
from .tool import Tool
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
        """
        self.crews = Crews(launcher, seats=seats, among=among, pinned=pinned, keeps=keeps)
        self._launcher = launcher
        self._retries = retries
        self._max_queue = max_queue
        self._queues: dict[tuple[Crew, int], CallQueue] = {}
        self._jobs: set[Job] = set()
        self._merged = 0
        self._latest: tuple[float, float] | None = None  # not the job: it holds items and answers

    # -------------------------------------------------------------------------- batches

    async def run(
        self, tool: Tool, items: Iterable[Any], options: RunOptions, *, instance: str | None = None
    ) -> list[Any]:
        """Answer `items` in order; see `ToolPool.run`."""
        listed = list_items(items)
        with progress_callback(options.progress, tool.name) as report:
            job = self._prepare(tool, listed, options, report)
            if not listed:
                return []
            crew = self.crews.engage(tool, instance)
            try:
                self._submit(job, crew)
                with anyio.fail_after(options.timeout):
                    await job.ended
            finally:
                await self._release(job, crew, options.cancel_grace)
        return job.collect(options.on_error)

    async def stream(
        self, tool: Tool, items: Iterable[Any], options: RunOptions, *, ordered: bool
    ) -> AsyncIterator[ItemResult]:
        """Yield outcomes as they come; see `ToolPool.stream`."""
        listed = list_items(items)
        mailbox = Mailbox()
        order = InputOrder() if ordered else None
        deadline = None if options.timeout is None else anyio.current_time() + options.timeout
        with progress_callback(options.progress, tool.name) as report:
            job = self._prepare(tool, listed, options, report, mailbox.put)
            if not listed:
                return
            job.ended.add_done_callback(lambda _: mailbox.close())
            crew = self.crews.engage(tool)
            try:
                self._submit(job, crew)
                while (result := await _before(deadline, mailbox)) is not None:
                    for ready in (result,) if order is None else order.put(result):
                        yield ready
                job.check()
            finally:
                await self._release(job, crew, options.cancel_grace)

    def _prepare(
        self,
        tool: Tool,
        items: list[Any],
        options: RunOptions,
        report: ProgressCallback | None,
        on_results: Callable[[list[ItemResult]], None] | None = None,
    ) -> Job:
        mergeable = tool.deterministic and options.seed is None
        merged = merge(keys_of(tool, items) if mergeable else [None] * len(items))
        costs = costs_of(tool, items)
        if costs is not None:
            costs = [costs[position] for position in merged.firsts]
        known = self.crews.find(tool)
        plan = BatchPlan(
            costs,
            len(merged.firsts),
            max_batch=tool.max_batch,
            retries=self._retries,
            seconds_per_cost=known.seconds_per_cost if known is not None else None,
        )
        return Job(
            items,
            merged,
            plan,
            Reporter(report, len(items), costs or len(merged.firsts), self._launcher.clock),
            priority=options.priority,
            claims=ambient.claims.get(),
            seed=options.seed,
            item_timeout=options.item_timeout,
            on_results=on_results,
        )

    def _submit(self, job: Job, crew: Crew) -> None:
        self._admit()
        self._jobs.add(job)
        self._merged += job.saved
        crew.submit(job)

    async def _release(self, job: Job, crew: Crew, grace: float | None) -> None:
        """Leave nothing behind of a job that has ended, or that nobody waits for any more."""
        self._jobs.discard(job)
        self._latest = job.span or self._latest
        crew.learn(job.plan.stats())
        for assignment in job.cancel():
            self._abandon(assignment, grace)
        crew.pump()
        if not self.crews.stays(crew.tool):
            await self.dismiss(crew)

    def _abandon(self, assignment: Assignment, grace: float | None) -> None:
        assignment.cancel()
        if grace is not None:
            self._launcher.start_soon(assignment.kill_after, grace)

    # --------------------------------------------------------------------- single calls

    async def call(
        self,
        tool: Tool,
        item: Any,
        *,
        timeout: float | None = None,
        priority: int = 0,
        max_wait: float = 0.0,
    ) -> Any:
        """Answer one item; see `ToolPool.call`."""
        parse_timeout(timeout)
        parse_timeout(max_wait, what="max_wait")
        self._admit()
        costs = costs_of(tool, [item])
        call = Call(item, 1.0 if costs is None else costs[0])
        crew = self.crews.engage(tool, None)
        queue = self._queue_for(crew, priority)
        try:
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
        )

    # -------------------------------------------------------------------------- helpers

    def _waiting(self) -> int:
        return sum(job.plan.queued for job in self._jobs) + sum(map(len, self._queues.values()))

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
