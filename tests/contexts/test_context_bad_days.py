"""Bad days inside the program: each ends in a clear error or a clean end, and leaves nothing."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from asyncgpu import Runtime, Settings, current_context
from asyncgpu.errors import ContextClosed, DeviceLost, RequestError
from asyncgpu.policy.context_state import ContextState

pytestmark = pytest.mark.anyio

SETTINGS = Settings(virtual_devices="2x8GiB", close_timeout=0.05)


def own_threads():
    return {each.name for each in threading.enumerate() if each.name.startswith("asyncgpu")}


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
async def nothing_left():
    """Whatever happened: no thread, descriptor, task or hook of ours when the runtime is closed."""
    async with Runtime(settings=SETTINGS):
        """What the loop opens once, for its worker threads, is no leak of the test."""
    before = own_threads(), descriptors()
    yield
    gc.collect()
    with anyio.fail_after(60):
        while own_threads() - before[0]:
            await anyio.sleep(0)
    assert descriptors() <= before[1]
    if asyncio._get_running_loop() is not None:
        assert "call_soon" not in vars(asyncio.get_running_loop())


async def test_a_task_that_never_returns_does_not_keep_a_runtime_open(nothing_left, caplog):
    """Its context is closed under it; the task goes on without, and its exit says so."""
    closed, seen = anyio.Event(), []

    async def session(ctx, task_status):
        async with ctx.session():
            task_status.started()
            await closed.wait()
            with pytest.raises(ContextClosed, match="outlived"):
                current_context()
            seen.append(ctx._core.driver.current_stream(0))

    async def stuck(ctx, *, task_status):
        with pytest.raises(ContextClosed, match="'stuck'"):
            await session(ctx, task_status)
        seen.append("left")

    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(60):
            async with Runtime(settings=SETTINGS) as runtime:
                ctx = await runtime.create_context("stuck")
                await tasks.start(stuck, ctx)
        assert ctx.state is ContextState.CLOSED
        assert "'stuck' still runs after 0.05 s" in caplog.text
        closed.set()
    assert seen == [None, "left"]
    await ctx.aclose()
    with pytest.raises(ContextClosed):
        await ctx.run_sync(int)


async def test_a_task_that_is_cancelled_after_its_runtime_closed_is_just_cancelled(nothing_left):
    async def stuck(ctx, *, task_status):
        async with ctx.session():
            task_status.started()
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        async with Runtime(settings=SETTINGS) as runtime:
            ctx = await runtime.create_context("stuck")
            await tasks.start(stuck, ctx)
        tasks.cancel_scope.cancel()
    assert ctx.state is ContextState.CLOSED


async def test_a_call_that_never_returns_is_left_to_itself_when_the_runtime_closes(nothing_left):
    """Whoever waits for it, or for one queued behind it, is told; the function runs on alone."""
    began, end, errors, called = threading.Event(), threading.Event(), [], []

    def function():
        began.set()
        end.wait()

    async def call(fn, *args):
        with pytest.raises(ContextClosed, match="'stuck'") as caught:
            await ctx.run_sync(fn, *args)
        errors.append(caught.value)

    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(60):
            async with Runtime(settings=SETTINGS) as runtime:
                ctx = await runtime.create_context("stuck")
                tasks.start_soon(call, function)
                await anyio.to_thread.run_sync(began.wait)
                tasks.start_soon(call, called.append, 1)
                await anyio.wait_all_tasks_blocked()
    assert len(errors) == 2
    end.set()
    with anyio.fail_after(60):
        while ctx._core.activity.under_way():
            await anyio.sleep(0)
    assert called == [], "it would have run on the default stream"


async def test_a_runtime_closed_in_a_session_of_its_own(nothing_left, caplog):
    async def close_inside():
        async with Runtime(settings=SETTINGS) as runtime:
            ctx = await runtime.create_context("a")
            async with ctx.session():
                await runtime.aclose()

    with pytest.raises(ContextClosed):
        await close_inside()
    assert "would wait for itself" in caplog.text


async def test_a_runtime_closed_while_device_work_is_in_flight(nothing_left, gate):
    held = gate()
    async with anyio.create_task_group() as tasks:

        async def drain(ctx):
            with pytest.raises((ContextClosed, DeviceLost)):
                async with ctx.session():
                    held.hold(ctx)

        async with Runtime(settings=SETTINGS) as runtime:
            ctx = await runtime.create_context("a")
            event = ctx.record_event()
            tasks.start_soon(drain, ctx)
            await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(60):
            await event.wait()


async def test_destroying_a_context_with_work_waiters_and_tasks_that_outlive_it(nothing_left, gate):
    held, stop, ended = gate(), anyio.Event(), []

    async def outlive():
        await stop.wait()
        with pytest.raises(ContextClosed, match="outlived it"):
            current_context()
        ended.append("outlived")

    async def wait_for_a_turn(ctx):
        with pytest.raises(ContextClosed):
            async with ctx.session():
                pass
        ended.append("waiter")

    async with Runtime(settings=SETTINGS) as runtime, anyio.create_task_group() as tasks:
        ctx = await runtime.create_context("a", max_concurrent_sessions=1)
        began = anyio.Event()

        async def hold():
            async with ctx.session():
                tasks.start_soon(outlive)
                held.hold(ctx)
                began.set()
            ended.append("session")

        tasks.start_soon(hold)
        await began.wait()
        tasks.start_soon(wait_for_a_turn, ctx)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(runtime.destroy_context, "a")
        await anyio.wait_all_tasks_blocked()
        assert ended == ["waiter"], "its own work is waited for"
        held.open()
        with anyio.fail_after(60):
            while runtime.contexts():
                await anyio.sleep(0)
        stop.set()
    assert ended == ["waiter", "session", "outlived"]


async def test_a_kernel_fault_in_the_middle_of_nested_sessions(nothing_left, faults):
    script, told = faults(), []
    async with Runtime(settings=SETTINGS) as runtime:
        a, b = await runtime.create_context("a"), await runtime.create_context("b")
        other = await runtime.create_context("other", device="cuda:1")

        async def inner():
            async with b.session():
                script.fail_next_work(0)
                b.stream.driver_stream.enqueue(int)

        async def outer():
            async with a.session(), other.session():
                with pytest.raises(DeviceLost) as caught:
                    await inner()
                told.append(str(caught.value))
                assert current_context() is other
                await anyio.sleep(0)
                assert await other.run_sync(lambda: "works") == "works"

        with pytest.raises(DeviceLost):
            await outer()
        assert "'b'" in told[0]
        assert current_context() is None
        with pytest.raises(DeviceLost):
            await a.run_sync(int)
        async with other.session():
            await other.synchronize()
        with anyio.fail_after(60):
            assert await runtime.destroy_context("a")


async def test_sessions_from_event_loops_of_other_threads(nothing_left, where_on):
    """Each loop gets a hook of its own, and none is kept alive by the context."""
    loops = []

    async def use(ctx):
        loops.append(weakref.ref(asyncio.get_running_loop()))
        async with ctx.session():
            for _ in range(5):
                await asyncio.sleep(0)
                assert where_on(ctx) == ctx.stream.id
            assert await ctx.run_sync(where_on, ctx) == ctx.stream.id
        assert where_on(ctx) is None

    async with Runtime(settings=SETTINGS) as runtime:
        ctx = await runtime.create_context("a", max_concurrent_sessions=1)
        for _ in range(5):
            async with anyio.create_task_group() as tasks:
                for _ in range(2):
                    tasks.start_soon(anyio.to_thread.run_sync, lambda: asyncio.run(use(ctx)))
                async with ctx.session():
                    await anyio.sleep(0)
        gc.collect()
        assert sum(loop() is not None for loop in loops) <= 2, "the latest, at most"
    gc.collect()
    assert [loop() for loop in loops] == [None] * 10


@pytest.fixture
def where_on():
    def where(ctx):
        stream = ctx._core.driver.current_stream(0)
        return None if stream is None else stream.id

    return where


async def test_bound_functions_in_a_thread_pool(nothing_left, where_on):
    """As a web framework calls its plain functions: many at once, in threads that are reused."""
    async with Runtime(settings=SETTINGS) as runtime:
        contexts = [await runtime.create_context(f"c{index}") for index in range(4)]
        wrong = []

        async def request(ctx):
            def handler():
                return where_on(ctx), current_context()

            found = await anyio.to_thread.run_sync(ctx.bind(handler))
            wrong.extend([found] if found != (ctx.stream.id, ctx) else [])
            bare = await anyio.to_thread.run_sync(handler)
            wrong.extend([bare] if bare != (None, None) else [])

        async with anyio.create_task_group() as tasks:
            for index in range(40):
                tasks.start_soon(request, contexts[index % 4])
        assert wrong == []


async def test_a_bound_function_still_running_when_the_runtime_closes(nothing_left):
    began, end = threading.Event(), threading.Event()

    def handler():
        began.set()
        end.wait()
        return "answer"

    answers = []
    async with anyio.create_task_group() as tasks:

        async def request(ctx):
            answers.append(await anyio.to_thread.run_sync(ctx.bind(handler)))

        with anyio.fail_after(60):
            async with Runtime(settings=SETTINGS) as runtime:
                ctx = await runtime.create_context("a")
                tasks.start_soon(request, ctx)
                await anyio.to_thread.run_sync(began.wait)
        end.set()
    assert answers == ["answer"]


async def test_sessions_end_with_the_tasks_that_hold_them(nothing_left):
    """A program that fails in the middle of a hundred sessions."""

    async def hold(ctx):
        async with ctx.session():
            await anyio.sleep_forever()

    async def program():
        async with Runtime(settings=SETTINGS) as runtime:
            contexts.append(await runtime.create_context("a"))
            async with anyio.create_task_group() as tasks:
                for _ in range(100):
                    tasks.start_soon(hold, contexts[0])
                await anyio.wait_all_tasks_blocked()
                raise KeyError("the program's own")

    contexts = []
    with pytest.raises(ExceptionGroup) as caught:
        await program()
    assert caught.group_contains(KeyError)
    assert contexts[0].state is ContextState.CLOSED


async def test_a_fork_can_use_nothing_of_it(nothing_left):
    async with Runtime(settings=SETTINGS) as runtime:
        ctx = await runtime.create_context("a")
        child = os.fork()
        if child == 0:
            refused = 0
            for call in (runtime.contexts, ctx.record_event, ctx.bind(int)):
                try:
                    call()
                except RequestError:
                    refused += 1
            os._exit(refused)
        _, status = await anyio.to_thread.run_sync(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 3
        async with ctx.session():
            """The parent goes on as before."""
