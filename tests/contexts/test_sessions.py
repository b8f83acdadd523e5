"""Sessions: whose stream is current where, whatever tasks do between their steps."""

from __future__ import annotations

import asyncio

import anyio
import pytest
import torch

from asyncgpu.contexts.current import current_context
from asyncgpu.contexts.session import context_session
from asyncgpu.errors import ContextClosed, InvalidRequest, SessionMisuse
from asyncgpu.policy.context_state import ContextState

pytestmark = pytest.mark.anyio


async def test_the_stream_is_current_inside_and_default_outside(ctx, where):
    assert where() is None
    async with context_session(ctx) as entered:
        assert entered is ctx
        assert where() == ctx.stream.id
        await anyio.sleep(0)
        assert where() == ctx.stream.id
        assert current_context() is ctx
        assert ctx.state is ContextState.RUNNING
    assert where() is None
    assert current_context() is None
    assert ctx.state is ContextState.IDLE


async def test_interleaved_tasks_each_see_their_own_stream(registry, where):
    contexts = [await registry.create(f"c{i}") for i in range(5)]
    wrong = []

    async def work(ctx):
        expected = None if ctx is None else ctx.stream.id
        for _ in range(20):
            await anyio.sleep(0)
            if where() != expected:
                wrong.append((expected, where()))

    async def in_session(ctx):
        async with ctx.session():
            await work(ctx)

    async with anyio.create_task_group() as tasks:
        for index in range(40):
            tasks.start_soon(in_session, contexts[index % 5])
            tasks.start_soon(work, None)
    assert wrong == []


async def test_nested_sessions_restore_the_outer_stream(registry, where):
    a, b = await registry.create("a"), await registry.create("b")
    async with a.session():
        async with b.session():
            assert where() == b.stream.id
            assert current_context() is b
            async with a.session():
                assert where() == a.stream.id
            assert where() == b.stream.id
            await anyio.sleep(0)
            assert where() == b.stream.id
        assert where() == a.stream.id
        await anyio.sleep(0)
        assert where() == a.stream.id
    assert where() is None


async def test_children_inherit_the_session(ctx, where):
    seen = []

    async def child():
        seen.append(where())
        await anyio.sleep(0)
        seen.append(where())

    async with ctx.session(), anyio.create_task_group() as tasks:
        tasks.start_soon(child)
        tasks.start_soon(child)
    assert seen == [ctx.stream.id] * 4


async def test_a_child_that_outlives_the_session_keeps_the_context_until_it_closes(
    registry, where, caplog
):
    ctx, other = await registry.create("short"), await registry.create("long")
    async with other.session():
        """So that the loop stays hooked when the first context is gone."""
    left, closed = anyio.Event(), anyio.Event()
    seen = []

    async def child():
        await left.wait()
        seen.append((where() == ctx.stream.id, current_context() is ctx))
        await closed.wait()
        seen.append(where())
        with pytest.raises(ContextClosed, match="short"):
            current_context()

    async with anyio.create_task_group() as tasks:
        async with ctx.session():
            tasks.start_soon(child)
        left.set()
        while not seen:
            await anyio.sleep(0)
        await ctx.aclose()
        closed.set()
    assert seen == [(True, True), None]
    assert caplog.records == [], "this is how it should be, and nobody's fault"


async def test_an_exception_passes_and_everything_is_restored(ctx, where):
    async def fail():
        async with ctx.session():
            await anyio.sleep(0)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await fail()
    assert where() is None
    assert ctx.state is ContextState.IDLE


async def test_leaving_waits_for_this_tasks_work(ctx, new_gate):
    gate = new_gate()
    order = []

    async def session():
        async with ctx.session():
            gate.hold(ctx)
        order.append("left")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(session)
        await anyio.to_thread.run_sync(gate.reached.wait)
        await anyio.wait_all_tasks_blocked()
        assert ctx.state is ContextState.RUNNING
        order.append("open")
        gate.open()
    assert order == ["open", "left"]


async def test_leaving_does_not_wait_for_work_that_came_later(ctx, new_gate):
    first, second = new_gate(), new_gate()
    left = anyio.Event()

    async def session():
        async with ctx.session():
            first.hold(ctx)
        left.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(session)
        await anyio.to_thread.run_sync(first.reached.wait)
        await anyio.wait_all_tasks_blocked()
        second.hold(ctx)
        first.open()
        with anyio.fail_after(5):
            await left.wait()
        second.open()


async def test_without_synchronize_leaving_does_not_wait(ctx, new_gate):
    gate = new_gate()
    with anyio.fail_after(5):
        async with ctx.session(synchronize=False):
            gate.hold(ctx)
    assert ctx.state is ContextState.IDLE


async def test_cancelled_while_draining_it_returns_and_the_context_finishes(ctx, new_gate):
    gate = new_gate()
    scope = anyio.CancelScope()

    async def session():
        with scope:
            async with ctx.session():
                gate.hold(ctx)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(session)
        await anyio.to_thread.run_sync(gate.reached.wait)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
    assert ctx.state is ContextState.RUNNING
    gate.open()
    with anyio.fail_after(5):
        await ctx.aclose()


async def test_cancelled_in_its_body_it_does_not_wait_either(ctx, new_gate):
    gate = new_gate()
    with anyio.fail_after(5), anyio.CancelScope() as scope:
        async with ctx.session():
            gate.hold(ctx)
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert ctx.state is ContextState.RUNNING


@pytest.mark.parametrize("anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})])
async def test_cancelled_once_as_asyncio_does_it_does_not_wait_either(ctx, new_gate):
    """asyncio cancels one await and not, as anyio's scopes do, every later one too."""
    gate = new_gate()

    async def victim():
        async with ctx.session():
            gate.hold(ctx)
            await asyncio.sleep(60)

    task = asyncio.create_task(victim())
    await asyncio.to_thread(gate.reached.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(5):
            await task
    assert task.cancelled()
    assert ctx.state is ContextState.RUNNING


@pytest.mark.parametrize("turns", range(14))
async def test_cancelled_anywhere_it_leaves_no_trace(registry, where, turns):
    """The victim is cancelled after each possible number of loop turns."""
    outer = await registry.create("outer", max_concurrent_sessions=1)
    inner = await registry.create("inner", max_concurrent_sessions=1)

    async def victim():
        async with outer.session():
            await anyio.sleep(0)
            async with inner.session():
                await anyio.sleep(0)
                await inner.run_sync(int)
            await anyio.sleep(0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(victim)
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
            assert where() is None
        tasks.cancel_scope.cancel()
    assert where() is None
    with anyio.fail_after(5):
        # Both turns are free again, and nothing is under way.
        async with outer.session(), inner.session():
            pass
        await outer.aclose()
        await inner.aclose()


async def test_a_session_is_entered_once(ctx):
    session = ctx.session()
    async with session:
        with pytest.raises(SessionMisuse, match="once"):
            await session.__aenter__()
    with pytest.raises(SessionMisuse, match="once"):
        await session.__aenter__()
    with pytest.raises(SessionMisuse, match="not open"):
        await session.__aexit__(None, None, None)


async def test_sessions_left_out_of_order_raise_after_everything_is_restored(registry, where):
    a, b = await registry.create("a"), await registry.create("b")
    outer, inner = a.session(), b.session()
    await outer.__aenter__()
    await inner.__aenter__()
    with pytest.raises(SessionMisuse, match="still open"):
        await outer.__aexit__(None, None, None)
    assert where() == b.stream.id
    await anyio.sleep(0)
    assert where() == b.stream.id
    await inner.__aexit__(None, None, None)
    assert where() is None
    await anyio.sleep(0)
    assert where() is None
    assert (a.state, b.state) == (ContextState.IDLE, ContextState.IDLE)


async def test_inference_mode_follows_the_task(ctx):
    seen = []

    async def bystander():
        for _ in range(10):
            seen.append(torch.is_inference_mode_enabled())
            await anyio.sleep(0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bystander)
        async with ctx.session(inference=True):
            for _ in range(5):
                assert torch.is_inference_mode_enabled()
                await anyio.sleep(0)
            async with ctx.session():
                assert torch.is_inference_mode_enabled(), "an inner session inherits it"
            assert await ctx.run_sync(torch.is_inference_mode_enabled)
        assert not torch.is_inference_mode_enabled()
        async with ctx.session():
            assert not torch.is_inference_mode_enabled()
    assert seen == [False] * 10


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True])
async def test_a_bad_timeout_is_refused_before_anything_is_touched(ctx, timeout):
    with pytest.raises(InvalidRequest, match="timeout"):
        ctx.session(timeout=timeout)


async def test_the_session_of_a_closed_context_is_refused(ctx):
    await ctx.aclose()
    with pytest.raises(ContextClosed, match="'a'"):
        async with ctx.session():
            pass
