"""`max_concurrent_sessions`: first come, first served, whoever is cancelled or closed."""

from __future__ import annotations

import anyio
import pytest

from asyncgpu.contexts.device_turns import DeviceTurns
from asyncgpu.contexts.turns import Turns
from asyncgpu.errors import ContextClosed

pytestmark = pytest.mark.anyio


async def test_sessions_wait_for_their_turn_in_the_order_of_arrival(registry):
    ctx = await registry.create("one", max_concurrent_sessions=1)
    order = []

    async def session(index):
        async with ctx.session():
            order.append(index)
            await anyio.sleep(0)

    async with anyio.create_task_group() as tasks:
        for index in range(10):
            tasks.start_soon(session, index)
            await anyio.lowlevel.checkpoint()
    assert order == list(range(10))


async def test_no_more_than_the_limit_are_inside(registry):
    ctx = await registry.create("three", max_concurrent_sessions=3)
    inside, most = 0, 0

    async def session():
        nonlocal inside, most
        async with ctx.session():
            inside += 1
            most = max(most, inside)
            for _ in range(3):
                await anyio.sleep(0)
            inside -= 1

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(session)
    assert most == 3


async def test_a_turn_lasts_until_the_work_is_done(registry, new_gate):
    ctx = await registry.create("one", max_concurrent_sessions=1)
    gate, order = new_gate(), []

    async def first():
        async with ctx.session():
            gate.hold(ctx)
            order.append("first")

    async def second():
        async with ctx.session():
            order.append("second")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        await anyio.to_thread.run_sync(gate.reached.wait)
        tasks.start_soon(second)
        await anyio.wait_all_tasks_blocked()
        order.append("open")
        gate.open()
    assert order == ["first", "open", "second"]


async def test_a_cancelled_drain_gives_its_turn_back_when_the_work_is_done(registry, new_gate):
    ctx = await registry.create("one", max_concurrent_sessions=1)
    gate = new_gate()
    with anyio.CancelScope() as scope:
        async with ctx.session():
            gate.hold(ctx)
            scope.cancel()
    with pytest.raises(TimeoutError):
        async with ctx.session(timeout=0.01):
            pass
    gate.open()
    with anyio.fail_after(5):
        async with ctx.session():
            pass


async def test_reentering_ones_own_context_reuses_the_turn(registry):
    ctx = await registry.create("one", max_concurrent_sessions=1)
    other = await registry.create("other")
    with anyio.fail_after(5):
        async with ctx.session(), other.session(), ctx.session():
            async with ctx.session():
                pass
            await ctx.run(anyio.sleep, 0)


async def test_a_child_shares_the_turn_it_inherited_even_beyond_its_parents_session(registry):
    ctx = await registry.create("one", max_concurrent_sessions=1)
    entered, left = anyio.Event(), anyio.Event()

    async def child():
        async with ctx.session():
            entered.set()
            await left.wait()

    async with anyio.create_task_group() as tasks:
        async with ctx.session():
            tasks.start_soon(child)
            await entered.wait()
        with pytest.raises(TimeoutError):
            async with ctx.session(timeout=0):
                pass
        left.set()
    with anyio.fail_after(5):
        async with ctx.session():
            pass


async def test_a_child_that_enters_after_the_turn_was_given_back_needs_its_own(registry):
    ctx = await registry.create("one", max_concurrent_sessions=1)
    left = anyio.Event()
    entered = []

    async def child():
        await left.wait()
        async with ctx.session():
            entered.append(1)

    async with anyio.create_task_group() as tasks:
        async with ctx.session():
            tasks.start_soon(child)
        # Not a child of the session, so that this one is a rival.
        async with ctx.session():
            left.set()
            await anyio.wait_all_tasks_blocked()
            assert entered == []
    assert entered == [1]


async def test_the_wait_for_a_turn_is_bounded(registry):
    ctx = await registry.create("one", max_concurrent_sessions=1)

    async def rival():
        with pytest.raises(TimeoutError, match=r"'one': no turn within 0.01 s \(1 sessions"):
            async with ctx.session(timeout=0.01):
                pass

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(holding, ctx, tasks, rival)
    with anyio.fail_after(5):
        async with ctx.session(timeout=0):
            pass


async def holding(ctx, tasks, rival):
    """Hold a turn while `rival`, which must not inherit it, runs in `tasks`."""
    done = anyio.Event()

    async def run():
        await rival()
        done.set()

    started = anyio.Event()

    async def wait_then_run():
        await started.wait()
        await run()

    tasks.start_soon(wait_then_run)
    async with ctx.session():
        started.set()
        await done.wait()


async def test_a_cancelled_wait_does_not_keep_its_place(registry):
    ctx = await registry.create("one", max_concurrent_sessions=1)
    entered = []

    async def session(index, scope):
        with scope:
            async with ctx.session():
                entered.append(index)

    async def rivals():
        scopes = [anyio.CancelScope() for _ in range(3)]
        async with anyio.create_task_group() as tasks:
            for index, scope in enumerate(scopes):
                tasks.start_soon(session, index, scope)
                await anyio.wait_all_tasks_blocked()
            scopes[0].cancel()
            await anyio.wait_all_tasks_blocked()
            assert ctx._core.turns.waiting == 2
            tasks.cancel_scope.shield = True
            release.set()

    release = anyio.Event()

    async def holder(*, task_status):
        async with ctx.session():
            task_status.started()
            await release.wait()

    async with anyio.create_task_group() as tasks:
        await tasks.start(holder)
        tasks.start_soon(rivals)
    assert entered == [1, 2]


async def test_a_turn_given_back_after_closing_goes_to_nobody():
    turns = Turns("one", DeviceTurns(), limit=1)
    held = turns.take_now()
    refused = []

    async def rival():
        with pytest.raises(ContextClosed):
            await turns.take(None)
        refused.append(1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rival)
        tasks.start_soon(rival)
        await anyio.wait_all_tasks_blocked()
        turns.close()
        # Before the rivals have had a step to leave the line in.
        held.drop()
    assert refused == [1, 1]
    assert turns.waiting == 0


async def test_closing_ends_the_waits_for_a_turn(registry):
    ctx = await registry.create("one", max_concurrent_sessions=1)
    release = anyio.Event()
    ended = []

    async def holder(*, task_status):
        async with ctx.session():
            task_status.started()
            await release.wait()

    async def rival():
        with pytest.raises(ContextClosed, match="'one'"):
            async with ctx.session():
                pass
        ended.append(1)
        release.set()

    async with anyio.create_task_group() as tasks:
        await tasks.start(holder)
        tasks.start_soon(rival)
        await anyio.wait_all_tasks_blocked()
        await ctx.aclose()
    assert ended == [1]
