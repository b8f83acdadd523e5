"""`run`, `run_sync` and `bind`: functions called on a context's stream."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from asyncgpu.contexts.current import current_context
from asyncgpu.errors import ContextClosed, DeviceLost, InvalidRequest, OutOfDeviceMemory
from asyncgpu.policy.context_state import ContextState

pytestmark = pytest.mark.anyio

caller = contextvars.ContextVar("caller", default="nobody")


class Marked:
    """Something that can be seen to be collected."""


# ------------------------------------------------------------------------------------- run


async def test_run_puts_every_step_on_the_stream(ctx, where):
    async def fn(a, *, b):
        steps = [where()]
        for _ in range(3):
            await anyio.sleep(0)
            steps.append(where())
        assert current_context() is ctx
        return a + b, steps

    assert await ctx.run(fn, 1, b=2) == (3, [ctx.stream.id] * 4)
    assert where() is None


async def test_run_nests_and_passes_exceptions(registry, where):
    a, b = await registry.create("a"), await registry.create("b")

    async def inner():
        await anyio.sleep(0)
        assert where() == b.stream.id
        raise KeyError("mine")

    async def outer():
        with pytest.raises(KeyError, match="mine"):
            await b.run(inner)
        assert where() == a.stream.id
        await anyio.sleep(0)
        assert where() == a.stream.id

    await a.run(outer)
    assert where() is None


async def test_run_waits_for_the_work(ctx, new_gate):
    gate = new_gate()
    order = []

    async def fn():
        gate.hold(ctx)

    async def call():
        await ctx.run(fn)
        order.append("ran")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await anyio.to_thread.run_sync(gate.reached.wait)
        await anyio.wait_all_tasks_blocked()
        order.append("open")
        gate.open()
    assert order == ["open", "ran"]


# -------------------------------------------------------------------------------- run_sync


async def test_run_sync_calls_in_one_thread_of_its_own_on_the_stream(ctx, where):
    def fn(a, *, b):
        assert current_context() is ctx
        return threading.current_thread(), where(), a + b

    results = [await ctx.run_sync(fn, index, b=1) for index in range(3)]
    assert [value for _, _, value in results] == [1, 2, 3]
    assert {stream for _, stream, _ in results} == {ctx.stream.id}
    (thread,) = {thread for thread, _, _ in results}
    assert thread is not threading.current_thread()


async def test_run_sync_keeps_the_order_of_its_calls(ctx):
    order = []
    async with anyio.create_task_group() as tasks:
        for index in range(10):
            tasks.start_soon(ctx.run_sync, order.append, index)
            await anyio.lowlevel.checkpoint()
    assert order == list(range(10))


async def test_run_sync_gives_the_function_its_callers_context_variables(ctx):
    caller.set("me")
    assert await ctx.run_sync(caller.get) == "me"

    def change():
        caller.set("the function")

    await ctx.run_sync(change)
    assert caller.get() == "me"


async def test_run_sync_does_not_block_the_loop(ctx):
    go = threading.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ctx.run_sync, go.wait)
        for _ in range(100):
            await anyio.sleep(0)
        assert ctx.state is ContextState.RUNNING
        go.set()
    assert ctx.state is ContextState.IDLE


async def test_run_sync_passes_exceptions(ctx):
    def fn():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await ctx.run_sync(fn)
    assert await ctx.run_sync(int) == 0


async def test_run_sync_waits_for_the_work(ctx, new_gate):
    gate = new_gate()
    order = []

    async def call():
        await ctx.run_sync(gate.hold, ctx)
        order.append("ran")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await anyio.to_thread.run_sync(gate.reached.wait)
        await anyio.wait_all_tasks_blocked()
        order.append("open")
        gate.open()
    assert order == ["open", "ran"]


async def test_run_sync_cancelled_returns_while_the_context_runs_on(registry):
    ctx = await registry.create("long")
    began, go = threading.Event(), threading.Event()

    def fn():
        began.set()
        go.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ctx.run_sync, fn)
        await anyio.to_thread.run_sync(began.wait)
        tasks.cancel_scope.cancel()
    assert ctx.state is ContextState.RUNNING
    with pytest.raises(TimeoutError, match=r"'long' still runs after 0.01 s: run_sync\(fn\)"):
        await ctx.aclose(timeout=0.01)
    go.set()
    with anyio.fail_after(5):
        await ctx.aclose()
    assert ctx.state is ContextState.CLOSED


async def test_run_sync_cancelled_in_the_queue_never_calls(ctx):
    began, go = threading.Event(), threading.Event()
    called = []

    def fn():
        began.set()
        go.wait()

    async with anyio.create_task_group() as running:
        running.start_soon(ctx.run_sync, fn)
        await anyio.to_thread.run_sync(began.wait)
        async with anyio.create_task_group() as queued:
            queued.start_soon(ctx.run_sync, called.append, 1)
            await anyio.wait_all_tasks_blocked()
            queued.cancel_scope.cancel()
        go.set()
    await ctx.run_sync(called.append, 2)
    assert called == [2]


async def test_run_sync_runs_again_when_out_of_memory(ctx):
    attempts = []

    def fn():
        attempts.append(1)
        if len(attempts) < 3:
            raise OutOfDeviceMemory("cuda:0", 10, 1)
        return "fits"

    assert await ctx.run_sync(fn, retries=2) == "fits"
    attempts.clear()
    with pytest.raises(OutOfDeviceMemory):
        await ctx.run_sync(fn, retries=1)
    assert len(attempts) == 2


async def test_run_sync_keeps_nothing_of_a_call_alive(ctx):
    gc.collect()
    gc.disable()
    try:
        argument = Marked()
        gone = weakref.ref(argument)

        def fail(value):
            raise KeyError("mine")

        await ctx.run_sync(id, argument)
        with pytest.raises(KeyError):
            await ctx.run_sync(fail, argument)
        del argument
        await ctx.run_sync(int)
        assert gone() is None, "a reference cycle, or the idle thread, holds it"
    finally:
        gc.enable()


@pytest.mark.parametrize("retries", [-1, 1.5, True, None])
async def test_run_sync_refuses_bad_retries(ctx, retries):
    with pytest.raises(InvalidRequest, match="retries"):
        await ctx.run_sync(int, retries=retries)


async def test_coroutine_functions_are_for_run(ctx):
    async def fn():
        pass

    with pytest.raises(InvalidRequest, match="use `run`"):
        await ctx.run_sync(fn)
    with pytest.raises(InvalidRequest, match="use `run`"):
        ctx.bind(fn)


async def test_in_a_session_run_sync_is_part_of_it_even_while_the_context_closes(ctx):
    closing = anyio.Event()

    async def close():
        closing.set()
        await ctx.aclose()

    async with anyio.create_task_group() as tasks:
        async with ctx.session():
            # Not from here: closing inside one's own session would wait for itself.
            contextvars.Context().run(tasks.start_soon, close)
            await closing.wait()
            await anyio.sleep(0)
            assert await ctx.run_sync(int) == 0
            async with ctx.session():
                pass
        with pytest.raises(ContextClosed):
            await ctx.run_sync(int)


async def test_a_lost_device_is_raised_by_run_sync(driver, ctx, new_gate):
    gate = new_gate()

    def fn():
        gate.hold(ctx)

    async def call():
        with pytest.raises(DeviceLost, match="scripted"):
            await ctx.run_sync(fn)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await anyio.to_thread.run_sync(gate.reached.wait)
        driver.script.lose_device(0)


# ------------------------------------------------------------------------------------ bind


async def test_bind_gives_a_foreign_thread_the_stream(ctx, where):
    def fn(a, *, b=0):
        """Say where it is."""
        assert current_context() is ctx
        return where(), a + b

    bound = ctx.bind(fn)
    assert (bound.__name__, bound.__doc__) == ("fn", "Say where it is.")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(bound, 1, b=2).result() == (ctx.stream.id, 3)
        assert pool.submit(where).result() is None, "nothing is left on the pool's thread"
        assert pool.submit(current_context).result() is None


async def test_bind_is_needed_in_a_thread_that_inherits_the_session(ctx, where):
    async with ctx.session():
        assert await anyio.to_thread.run_sync(where) is None
        assert await anyio.to_thread.run_sync(current_context) is ctx
        assert await anyio.to_thread.run_sync(ctx.bind(where)) == ctx.stream.id


async def test_bind_keeps_the_context_running_and_is_refused_after_it_closed(ctx):
    began, go = threading.Event(), threading.Event()

    def fn():
        began.set()
        go.wait()

    bound = ctx.bind(fn)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(bound)
        began.wait()
        with pytest.raises(TimeoutError, match="bound fn"):
            await ctx.aclose(timeout=0)
        go.set()
        call.result()
    await ctx.aclose()
    with pytest.raises(ContextClosed):
        bound()


# --------------------------------------------------------------- loops that cannot be hooked


class Unhookable(asyncio.SelectorEventLoop):
    """As an extension type is: its methods cannot be replaced."""

    def __setattr__(self, name, value):
        if name == "call_soon":
            raise AttributeError(name)
        super().__setattr__(name, value)


def on_unhookable_loop(main):
    with asyncio.Runner(loop_factory=Unhookable) as runner:
        return runner.run(main())


def test_run_works_on_a_loop_that_cannot_be_hooked(open_context, driver, where):
    async def main():
        async with open_context() as ctx, open_context() as other:

            async def inner():
                await asyncio.sleep(0)
                return where()

            async def fn():
                assert where() == ctx.stream.id
                await asyncio.sleep(0)
                assert where() == ctx.stream.id
                assert await other.run(inner) == other.stream.id
                assert where() == ctx.stream.id
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(asyncio.Event().wait(), 0.001)
                assert where() == ctx.stream.id
                raise KeyError("mine")

            async def sentinel():
                for _ in range(30):
                    assert where() is None
                    await asyncio.sleep(0)

            task = asyncio.create_task(sentinel())
            with pytest.raises(KeyError, match="mine"):
                await ctx.run(fn)
            assert where() is None
            await task

    on_unhookable_loop(main)


def test_a_session_on_a_loop_that_cannot_be_hooked_says_what_to_use(open_context):
    async def main():
        async with open_context() as ctx:
            with pytest.raises(Exception, match=r"use `await ctx\.run"):
                async with ctx.session():
                    pass

    on_unhookable_loop(main)


def test_run_on_a_loop_that_cannot_be_hooked_ends_in_device_lost(open_context, driver):
    async def main():
        async with open_context() as ctx:

            async def fn():
                driver.script.fail_next_apply()
                await asyncio.sleep(0)
                await asyncio.Event().wait()

            with pytest.raises(DeviceLost, match="made current"):
                async with asyncio.timeout(1):
                    await ctx.run(fn)

    on_unhookable_loop(main)
