"""The sync form, `with`: worker threads, sync programs, and its limits on an event loop."""

from __future__ import annotations

import threading

import anyio
import anyio.to_thread
import pytest
from anyio.from_thread import start_blocking_portal

from asyncgpu.contexts.current import current_context
from asyncgpu.contexts.session import context_session
from asyncgpu.errors import ContextClosed, InvalidRequest, RequestError, SessionMisuse
from asyncgpu.policy.context_state import ContextState

pytestmark = pytest.mark.anyio


async def test_in_a_worker_thread_it_waits_for_the_work(ctx, where, new_gate):
    gate = new_gate()
    order = []

    def work():
        with context_session(ctx):
            assert where() == ctx.stream.id
            assert current_context() is ctx
            gate.hold(ctx)
        order.append("left")
        assert where() is None

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, work)
        await anyio.to_thread.run_sync(gate.reached.wait)
        assert ctx.state is ContextState.RUNNING
        order.append("open")
        gate.open()
    assert order == ["open", "left"]
    assert ctx.state is ContextState.IDLE


async def test_in_a_worker_thread_it_nests_and_survives_exceptions(registry, where):
    a, b = await registry.create("a"), await registry.create("b")

    def fail():
        with context_session(b):
            assert where() == b.stream.id
            raise KeyError

    def work():
        with context_session(a):
            with pytest.raises(KeyError):
                fail()
            assert where() == a.stream.id
        assert where() is None

    await anyio.to_thread.run_sync(work)


async def test_in_a_worker_thread_it_blocks_for_its_turn(registry):
    ctx = await registry.create("one", max_concurrent_sessions=1)
    entered = threading.Event()

    def work():
        with context_session(ctx):
            entered.set()

    async with anyio.create_task_group() as tasks:
        async with ctx.session():
            # A foreign thread: anyio's own would carry this session, and share its turn.
            thread = threading.Thread(target=work)
            thread.start()
            await anyio.sleep(0)
            assert not entered.is_set()
        tasks.start_soon(anyio.to_thread.run_sync, thread.join)
    assert entered.is_set()


async def test_in_a_worker_thread_the_wait_for_a_turn_is_bounded(registry):
    ctx = await registry.create("one", max_concurrent_sessions=1)
    errors = []

    def work():
        try:
            with context_session(ctx, timeout=0.01):
                pass
        except TimeoutError as error:
            errors.append(str(error))

    async with ctx.session():
        thread = threading.Thread(target=work)
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
    assert "no turn within 0.01 s" in errors[0]
    async with ctx.session():
        """The turn that was not taken is free."""


async def test_a_thread_that_waits_for_a_turn_is_told_when_the_context_closes(registry):
    ctx = await registry.create("one", max_concurrent_sessions=1)
    ended, errors = anyio.Event(), []

    async def holder(*, task_status):
        async with ctx.session():
            task_status.started()
            await ended.wait()

    def work():
        try:
            with context_session(ctx):
                pass
        except ContextClosed as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    async with anyio.create_task_group() as tasks:
        await tasks.start(holder)
        thread.start()
        while not ctx._core.turns.waiting:
            await anyio.sleep(0)
        tasks.start_soon(ctx.aclose)
        await anyio.to_thread.run_sync(thread.join)
        ended.set()
    assert len(errors) == 1


async def test_on_a_loop_it_needs_synchronize_false(ctx):
    with pytest.raises(InvalidRequest, match="block the event loop"), context_session(ctx):
        pass


async def test_on_a_loop_it_applies_at_once_and_restores_at_once(ctx, where):
    with context_session(ctx, synchronize=False):
        assert where() == ctx.stream.id
        assert current_context() is ctx
    assert where() is None
    assert current_context() is None
    assert ctx.state is ContextState.IDLE


async def test_on_a_loop_it_refuses_to_wait_for_a_turn(registry):
    ctx = await registry.create("one", max_concurrent_sessions=1)
    free = anyio.Event()

    async def holder(*, task_status):
        async with ctx.session():
            task_status.started()
            await free.wait()

    async with anyio.create_task_group() as tasks:
        await tasks.start(holder)
        with (
            pytest.raises(RequestError, match="all turns are taken"),
            context_session(ctx, synchronize=False),
        ):
            pass
        free.set()
    with context_session(ctx, synchronize=False):
        """A turn is free."""


async def test_within_a_session_it_restores_that_session(registry, where):
    a, b = await registry.create("a"), await registry.create("b")
    async with a.session():
        with b.session(synchronize=False):
            assert where() == b.stream.id
        assert where() == a.stream.id
        await anyio.sleep(0)
        assert where() == a.stream.id
    assert where() is None


async def test_an_await_inside_it_raises_at_its_exit(ctx, where):
    with pytest.raises(SessionMisuse, match="await inside"), ctx.session(synchronize=False):
        await anyio.sleep(0)
    assert where() is None
    await anyio.sleep(0)
    assert where() is None


async def test_an_await_inside_it_within_a_session_raises_too(registry, where):
    a, b = await registry.create("a"), await registry.create("b")

    async def misuse():
        with b.session(synchronize=False):
            await anyio.sleep(0)
            assert where() == b.stream.id, "from the next step on the session follows its task"

    async with a.session():
        with pytest.raises(SessionMisuse, match="await inside"):
            await misuse()
        assert where() == a.stream.id
        await anyio.sleep(0)
        assert where() == a.stream.id
    assert where() is None


async def test_an_await_inside_it_is_not_seen_by_tasks_of_later_turns(ctx, where):
    seen = []

    async def misuse():
        with ctx.session(synchronize=False):
            for _ in range(10):
                await anyio.sleep(0)

    async def bystander():
        for _ in range(10):
            await anyio.sleep(0)
            seen.append(where())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bystander)
        with pytest.raises(SessionMisuse):
            await misuse()
    assert seen == [None] * 10


async def test_left_out_of_order_it_raises_and_restores(registry, where):
    a, b = await registry.create("a"), await registry.create("b")

    def work():
        outer, inner = context_session(a), context_session(b)
        outer.__enter__()
        inner.__enter__()
        with pytest.raises(SessionMisuse, match="still open"):
            outer.__exit__(None, None, None)
        assert where() == b.stream.id
        inner.__exit__(None, None, None)
        assert where() is None

    await anyio.to_thread.run_sync(work)


def test_a_sync_program_needs_no_loop_in_its_own_thread(open_context, where):
    """The context lives on a portal's loop; `with` works in the main thread."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_context()) as ctx,
    ):
        with context_session(ctx):
            assert where() == ctx.stream.id
        assert where() is None
