"""`Settings.max_concurrent_sessions`: turns of a device, over all its contexts."""

from __future__ import annotations

import asyncio
import threading

import anyio
import anyio.to_thread
import pytest

from asyncgpu import Runtime, Settings
from asyncgpu.contexts.device_turns import DeviceTurns
from asyncgpu.errors import ContextClosed, RequestError
from asyncgpu.policy.qos import QoSPolicy

pytestmark = pytest.mark.anyio

BEST_EFFORT = {"qos": QoSPolicy.BEST_EFFORT}
BURSTABLE = {"qos": QoSPolicy.BURSTABLE}
GUARANTEED = {"qos": QoSPolicy.GUARANTEED, "max_vram": "1MiB"}


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def limit():
    return 1


@pytest.fixture
def registry_options(clock, limit):
    """Each device gives out `limit` turns; `clock` says who has waited long."""
    return {"new_device_turns": lambda: DeviceTurns(limit, ageing_seconds=10.0, clock=clock)}


@pytest.fixture
async def registry(registry):
    yield registry
    await registry.aclose(timeout=10)
    for turns in registry._turns.values():
        assert turns.limit.held == 0
        assert turns._queue.waiting == len(turns._waiting) == 0


class Crowd:
    """Sessions that note when they are inside, and leave when they are told."""

    def __init__(self, tasks):
        self.inside = []
        self._tasks = tasks

    async def enter(self, ctx, label):
        """Ask for a session in a task of its own, which goes as far as it can."""
        leave = anyio.Event()

        async def session():
            async with ctx.session():
                self.inside.append(label)
                await leave.wait()

        self._tasks.start_soon(session)
        await anyio.wait_all_tasks_blocked()
        return leave


async def served_after(first, crowd, leaving):
    """Let the sessions leave one by one, each when it is inside; return the order of entering."""
    first.set()
    for _ in leaving:
        await anyio.wait_all_tasks_blocked()
        leaving[crowd.inside[-1]].set()
    return crowd.inside[1:]


async def test_contexts_of_one_device_share_its_turns_in_the_order_of_their_classes(registry):
    contexts = {
        "best": await registry.create("best", **BEST_EFFORT),
        "burst": await registry.create("burst", **BURSTABLE),
        "sure": await registry.create("sure", **GUARANTEED),
    }
    async with anyio.create_task_group() as tasks:
        crowd = Crowd(tasks)
        first = await crowd.enter(contexts["best"], "first")
        leaving = {}
        for number in (1, 2):
            for name, ctx in contexts.items():
                leaving[name, number] = await crowd.enter(ctx, (name, number))
        assert crowd.inside == ["first"]
        order = await served_after(first, crowd, leaving)
    assert order == [(name, number) for name in ("sure", "burst", "best") for number in (1, 2)]


async def test_a_waiter_rises_one_class_for_each_ageing_time(registry, clock):
    best = await registry.create("best", **BEST_EFFORT)
    sure = await registry.create("sure", **GUARANTEED)
    async with anyio.create_task_group() as tasks:
        crowd = Crowd(tasks)
        first = await crowd.enter(best, "first")
        leaving = {"old": await crowd.enter(best, "old")}
        for clock.now in (19.0, 21.0):
            leaving[clock.now] = await crowd.enter(sure, clock.now)
        assert await served_after(first, crowd, leaving) == [19.0, "old", 21.0]


async def test_a_session_inside_anothers_shares_the_turn_of_the_device(registry):
    a = await registry.create("a", max_concurrent_sessions=1)
    b = await registry.create("b", max_concurrent_sessions=1)
    with anyio.fail_after(5):
        async with a.session(), b.session(), a.session():
            await b.run(anyio.sleep, 0)
            await b.run_sync(int)
            await a.run_sync(int)
            with b.session(synchronize=False):
                pass


async def test_each_device_has_turns_of_its_own(registry):
    here = await registry.create("here")
    there = await registry.create("there", device="cuda:1")
    async with anyio.create_task_group() as tasks:
        crowd = Crowd(tasks)
        leave = await crowd.enter(there, "there")
        with anyio.fail_after(5):
            async with here.session():
                with pytest.raises(TimeoutError, match=r"'there': no turn within 0.01 s"):
                    async with there.session(timeout=0.01):
                        pass
                leave.set()
                async with there.session(), here.session():
                    """Back on the first device, inside a session on the second."""


async def test_nesting_over_two_devices_in_opposite_orders_ends_with_a_deadline(registry):
    """Two tasks that each keep what the other wants: no more can be done than to give one up."""
    here = await registry.create("here")
    there = await registry.create("there", device="cuda:1")
    both, ended = [], []

    async def nest(outer, inner, timeout):
        async with outer.session():
            both.append(outer)
            while len(both) < 2:
                await anyio.sleep(0)
            try:
                async with inner.session(timeout=timeout):
                    ended.append(inner)
            except TimeoutError:
                ended.append(TimeoutError)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(nest, here, there, 0.01)
            tasks.start_soon(nest, there, here, None)
    assert ended == [TimeoutError, here]


async def test_a_childs_session_keeps_the_devices_turn_that_its_parent_has_left(registry):
    a = await registry.create("a")
    b = await registry.create("b")
    entered, leave = anyio.Event(), anyio.Event()

    async def child():
        async with b.session():
            entered.set()
            await leave.wait()

    async with anyio.create_task_group() as tasks:
        async with a.session():
            tasks.start_soon(child)
            await entered.wait()
        with pytest.raises(TimeoutError):
            async with a.session(timeout=0):
                pass
        leave.set()
    with anyio.fail_after(5):
        async with a.session():
            pass


@pytest.mark.parametrize("limit", [2])
async def test_who_waits_for_a_turn_of_the_context_keeps_none_of_the_device(registry):
    narrow = await registry.create("narrow", max_concurrent_sessions=1)
    other = await registry.create("other", **BEST_EFFORT)
    async with anyio.create_task_group() as tasks:
        crowd = Crowd(tasks)
        leaving = [await crowd.enter(narrow, number) for number in range(3)]
        leaving.append(await crowd.enter(other, "other"))
        assert crowd.inside == [0, "other"]
        for leave in leaving:
            leave.set()
    assert crowd.inside[2:] == [1, 2]


async def test_who_waits_for_a_turn_of_the_device_keeps_none_of_the_context(registry):
    a = await registry.create("a")
    b = await registry.create("b", max_concurrent_sessions=1)
    go, order = anyio.Event(), []

    async def wait_for_the_device():
        # Not started in the session, whose turn it would share.
        await go.wait()
        async with b.session():
            order.append("outer")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_for_the_device)
        with anyio.fail_after(5):
            async with a.session():
                go.set()
                await anyio.wait_all_tasks_blocked()
                async with b.session():
                    order.append("inner")
    assert order == ["inner", "outer"]


async def test_the_deadline_is_one_for_both_turns(registry):
    a = await registry.create("a", max_concurrent_sessions=1)
    b = await registry.create("b", max_concurrent_sessions=1)
    async with anyio.create_task_group() as tasks:
        crowd = Crowd(tasks)
        leave = await crowd.enter(a, "a")
        for ctx in (a, b):
            text = f"'{ctx.name}'.*1 sessions of it and 1 sessions on its device at once"
            with pytest.raises(TimeoutError, match=text):
                async with ctx.session(timeout=0.01):
                    pass
        leave.set()


@pytest.mark.parametrize("turns", range(16))
async def test_cancelled_anywhere_it_leaves_no_trace(registry, turns):
    """The victims are cancelled after each possible number of loop turns."""
    a = await registry.create("a", max_concurrent_sessions=1)
    b = await registry.create("b")

    async def victim(outer, inner):
        async with outer.session():
            await anyio.sleep(0)
            async with inner.session():
                await inner.run_sync(int)

    async with anyio.create_task_group() as tasks:
        for outer, inner in [(a, b), (b, a), (a, b)]:
            tasks.start_soon(victim, outer, inner)
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    with anyio.fail_after(5):
        async with a.session(), b.session():
            pass


async def test_closing_a_context_ends_its_waits_and_only_those(registry):
    a, b = await registry.create("a"), await registry.create("b")
    closed = anyio.Event()

    async def told():
        with pytest.raises(ContextClosed, match="'b'"):
            await b.run_sync(int)
        closed.set()

    async with anyio.create_task_group() as tasks:
        crowd = Crowd(tasks)
        leave = await crowd.enter(a, "first")
        tasks.start_soon(told)
        second = await crowd.enter(a, "second")
        await b.aclose()
        await closed.wait()
        assert crowd.inside == ["first"]
        leave.set()
        second.set()
    assert crowd.inside == ["first", "second"]


async def test_run_sync_takes_a_turn(registry):
    a, b = await registry.create("a"), await registry.create("b")
    began, end = threading.Event(), threading.Event()

    def function():
        began.set()
        end.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(a.run_sync, function)
        await anyio.to_thread.run_sync(began.wait)
        with pytest.raises(TimeoutError):
            async with b.session(timeout=0.01):
                pass
        end.set()
    with anyio.fail_after(5):
        async with b.session():
            pass


@pytest.mark.parametrize("limit", [2])
async def test_calls_that_queue_for_their_thread_keep_no_turns(registry):
    """The second call could not run anyway, so the second turn is for somebody who can."""
    a, b = await registry.create("a", **GUARANTEED), await registry.create("b", **BEST_EFFORT)
    began, end = threading.Event(), threading.Event()
    order = []

    def first():
        began.set()
        end.wait()
        order.append("first")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(a.run_sync, first)
        await anyio.to_thread.run_sync(began.wait)
        tasks.start_soon(a.run_sync, order.append, "second")
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(5):
            async with b.session():
                order.append("b")
        end.set()
    assert order == ["b", "first", "second"]


async def test_a_call_inside_a_session_does_not_wait_behind_one_that_waits_for_a_turn(registry):
    ctx = await registry.create("a")
    go, ended = anyio.Event(), []

    async def rival():
        await go.wait()
        ended.append(await ctx.run_sync(lambda: "rival"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rival)
        with anyio.fail_after(5):
            async with ctx.session():
                go.set()
                await anyio.wait_all_tasks_blocked()
                ended.append(await ctx.run_sync(lambda: "mine"))
    assert ended == ["mine", "rival"]


async def test_a_cancelled_call_keeps_its_turn_until_the_function_has_ended(registry):
    a, b = await registry.create("a"), await registry.create("b")
    began, end = threading.Event(), threading.Event()

    def function():
        began.set()
        end.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(a.run_sync, function)
        await anyio.to_thread.run_sync(began.wait)
        tasks.cancel_scope.cancel()
    with pytest.raises(TimeoutError):
        async with b.session(timeout=0.01):
            pass
    end.set()
    with anyio.fail_after(5):
        async with b.session():
            pass


async def test_a_sync_session_in_a_call_shares_its_turn(registry):
    a = await registry.create("a", max_concurrent_sessions=1)
    b = await registry.create("b")

    def function():
        with a.session(timeout=5), b.session(timeout=5):
            return "done"

    with anyio.fail_after(5):
        assert await a.run_sync(function) == "done"


async def test_a_sync_session_blocks_its_thread_and_never_the_loop(registry):
    a, b = await registry.create("a"), await registry.create("b")
    entered = threading.Event()

    def work():
        with b.session():
            entered.set()

    thread = threading.Thread(target=work)
    async with a.session():
        thread.start()
        while not b._core.turns.waiting:
            await anyio.sleep(0)
    await anyio.to_thread.run_sync(thread.join)
    assert entered.is_set()
    async with anyio.create_task_group() as tasks:
        crowd = Crowd(tasks)
        leave = await crowd.enter(a, "a")
        with pytest.raises(RequestError, match="all turns are taken"), b.session(synchronize=False):
            pass
        leave.set()


async def test_the_turns_of_a_loop_that_is_gone_go_to_the_next(registry):
    a = await registry.create("a", max_concurrent_sessions=1)
    b = await registry.create("b")
    waiting = threading.Event()

    def leave_a_waiter_behind():
        loop = asyncio.new_event_loop()
        task = loop.create_task(b._core.turns.take(None))
        loop.run_until_complete(asyncio.sleep(0))
        waiting.set()
        loop.close()
        # Nobody has told the task, and nobody can.
        task._log_destroy_pending = False

    async with anyio.create_task_group() as tasks:
        crowd = Crowd(tasks)
        leave = await crowd.enter(a, "a")
        thread = threading.Thread(target=leave_a_waiter_behind)
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        second = await crowd.enter(a, "second")
        leave.set()
        second.set()
    assert crowd.inside == ["a", "second"]


async def test_a_runtime_takes_the_limit_from_its_settings():
    settings = Settings(virtual_devices="2x8GiB", max_concurrent_sessions=1)
    async with Runtime(settings=settings) as runtime:
        a = await runtime.create_context("a")
        b = await runtime.create_context("b")
        async with anyio.create_task_group() as tasks:
            crowd = Crowd(tasks)
            leave = await crowd.enter(a, "a")
            with pytest.raises(TimeoutError, match="1 sessions on its device"):
                async with b.session(timeout=0.01):
                    pass
            leave.set()
