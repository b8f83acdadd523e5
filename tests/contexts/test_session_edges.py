"""What a session does not reach, and what it reaches without being asked: documented by tests."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import warnings

import anyio
import pytest

from asyncgpu.contexts.current import current_context
from asyncgpu.errors import SessionMisuse

pytestmark = pytest.mark.anyio

asyncio_only = pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)


async def holding(ctx):
    async with ctx.session():
        yield 1
        yield 2


async def test_a_session_held_across_a_yield_is_seen_by_the_consumer_until_it_is_closed(ctx, where):
    """True of every ContextVar (PEP 568): an async generator runs in its consumer's Context."""
    generator = holding(ctx)
    async for _ in generator:
        assert where() == ctx.stream.id
        break
    await anyio.sleep(0)
    assert where() == ctx.stream.id
    await generator.aclose()
    assert where() is None
    assert current_context() is None


async def test_a_generator_that_is_used_up_leaves_nothing(ctx, where):
    assert [value async for value in holding(ctx)] == [1, 2]
    assert where() is None


async def test_a_context_manager_around_a_session_is_right(ctx, where):
    @contextlib.asynccontextmanager
    async def manager():
        async with ctx.session():
            yield

    async with manager():
        await anyio.sleep(0)
        assert where() == ctx.stream.id
    assert where() is None


async def test_a_generator_closed_inside_a_later_session_reports_the_order(registry, where):
    a, b = await registry.create("a"), await registry.create("b")
    generator = holding(a)
    await anext(generator)
    async with b.session():
        with pytest.raises(SessionMisuse, match="still open"):
            await generator.aclose()
        assert where() == b.stream.id
        await anyio.sleep(0)
        assert where() == b.stream.id
    assert where() is None


@asyncio_only
async def test_an_abandoned_generator_is_finalised_without_touching_anybody(ctx, where):
    async def consumer():
        async for _ in holding(ctx):
            break

    await asyncio.create_task(consumer())
    gc.collect()
    for _ in range(5):
        await asyncio.sleep(0)
        assert where() is None
    with anyio.fail_after(5):
        await ctx.aclose()


@pytest.mark.parametrize("anyio_backend", [("trio", {})])
async def test_on_trio_an_abandoned_generator_is_a_corrupted_scope(ctx, where):
    """trio's own rule for cancel scopes, and a session there has one."""

    async def consumer():
        async for _ in holding(ctx):
            break

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        with pytest.raises(ExceptionGroup) as caught:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consumer)
        assert caught.group_contains(RuntimeError, match="Cancel scope stack corrupted")
        with anyio.fail_after(5):
            await ctx.aclose()
    assert where() is None


@asyncio_only
async def test_which_raw_callbacks_run_on_the_stream(ctx, where):
    loop = asyncio.get_running_loop()
    seen = {}

    def note(name):
        seen[name] = where()

    async with ctx.session():
        future = loop.create_future()
        future.add_done_callback(lambda _: note("done callback"))
        future.set_result(None)
        loop.call_soon(note, "call_soon")
        loop.call_later(0, note, "call_later")
        loop.call_soon_threadsafe(note, "call_soon_threadsafe")
        await loop.run_in_executor(None, note, "executor")
        await asyncio.to_thread(note, "to_thread")
        while len(seen) < 6:
            await asyncio.sleep(0)
    on_stream = {name for name, stream in seen.items() if stream == ctx.stream.id}
    assert on_stream == {"done callback", "call_soon"}


@asyncio_only
async def test_a_task_with_a_context_of_its_own_follows_that_one(ctx, where):
    import contextvars

    async def child():
        await asyncio.sleep(0)
        return where()

    async with ctx.session():
        assert await asyncio.create_task(child(), context=contextvars.Context()) is None
        inside = contextvars.copy_context()
    assert await asyncio.create_task(child(), context=inside) == ctx.stream.id


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
@pytest.mark.parametrize("anyio_backend", [("asyncio", {})])
async def test_eager_tasks(ctx, where):
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    seen = []

    async def child():
        seen.append(where())
        await asyncio.sleep(0)
        seen.append(where())

    async def own_session():
        async with ctx.session():
            seen.append(where())

    async with ctx.session():
        await asyncio.create_task(child())
    task = asyncio.create_task(own_session())
    assert where() is None
    await task
    assert seen == [ctx.stream.id] * 3
