"""Memory pressure: who is asked, when, and what the answer changes."""

from __future__ import annotations

import logging

import anyio
import pytest
import torch

from asyncgpu import QoSPolicy, context_session
from asyncgpu.contexts.pressure import Pressure
from asyncgpu.errors import InvalidRequest, OutOfDeviceMemory, VRAMBudgetExceeded
from asyncgpu.units import MB

pytestmark = pytest.mark.anyio


def allocate(megabytes):
    return torch.empty(megabytes * MB, dtype=torch.uint8)


class Handler:
    """Notes what it is asked, and answers as it is told."""

    def __init__(self, answer=False):
        self.asked = []
        self.answer = answer

    def __call__(self, ctx, requested, available):
        self.asked.append((ctx.name, requested // MB, available // MB))
        return self.answer() if callable(self.answer) else self.answer

    @property
    def marks(self):
        return [entry for entry in self.asked if entry[1] == 0]

    @property
    def requests(self):
        return [entry for entry in self.asked if entry[1]]


@pytest.fixture
async def ctx(registry):
    return await registry.create("ctx", max_vram=1000 * MB)


@pytest.fixture
def on_pressure(ctx):
    """Register handlers, as `on_memory_pressure` does."""
    return ctx._core.memory._pressure.register


async def told():
    """Until the runtime's task has told everybody."""
    for _ in range(10):
        await anyio.wait_all_tasks_blocked()
        await anyio.to_thread.run_sync(lambda: None)


async def test_f4_a_handler_that_says_true_lifts_the_contexts_own_max(ctx, on_pressure):
    handler = Handler(True)
    on_pressure(handler)
    held = [await ctx.run_sync(allocate, 900)]
    held.append(await ctx.run_sync(allocate, 300, retries=1))
    assert handler.requests == [("ctx", 300, 100)]
    assert ctx.usage().used == 1200 * MB
    with pytest.raises(VRAMBudgetExceeded):
        await ctx.run_sync(allocate, 100)


async def test_a_lift_ends_when_use_is_back_under_the_max(ctx, on_pressure):
    registration = on_pressure(Handler(True))
    held = [await ctx.run_sync(allocate, 900)]
    held.append(await ctx.run_sync(allocate, 300, retries=1))
    registration.unregister()
    held.pop()
    held.append(await ctx.run_sync(allocate, 50))
    with pytest.raises(VRAMBudgetExceeded):
        await ctx.run_sync(allocate, 100)


async def test_without_a_handler_or_with_one_that_says_false_it_is_refused(ctx, on_pressure):
    held = await ctx.run_sync(allocate, 900)
    with pytest.raises(VRAMBudgetExceeded):
        await ctx.run_sync(allocate, 300, retries=1)
    handler = Handler(False)
    on_pressure(handler)
    with pytest.raises(VRAMBudgetExceeded):
        await ctx.run_sync(allocate, 300, retries=1)
    assert handler.requests == [("ctx", 300, 100)]
    assert ctx.usage().used == len(held)


async def test_f5_true_never_reaches_into_anothers_reservation(registry, ctx, on_pressure):
    await registry.create("other", max_vram="7GiB", qos=QoSPolicy.GUARANTEED)
    on_pressure(Handler(True))
    with pytest.raises(OutOfDeviceMemory):
        await ctx.run_sync(allocate, 1100, retries=3)
    assert ctx.usage().used == 0
    assert len(await registry.get("other").run_sync(allocate, 7 * 1024)) == 7 * 1024 * MB


async def test_a_handler_may_free_what_is_asked_for(ctx, on_pressure):
    held = [await ctx.run_sync(allocate, 900)]
    on_pressure(Handler(lambda: held.clear() or False))
    assert len(await ctx.run_sync(allocate, 300, retries=1)) == 300 * MB
    held.append(await ctx.run_sync(allocate, 900))
    async with ctx.reserve(300 * MB):
        assert ctx.usage().used == 0


async def test_reserve_beyond_the_max_asks_and_is_lifted_or_refused(ctx, on_pressure):
    handler = Handler(False)
    on_pressure(handler)
    with pytest.raises(VRAMBudgetExceeded):
        async with ctx.reserve(1200 * MB):
            pass
    handler.answer = True
    async with ctx.reserve(1200 * MB):
        held = await ctx.run_sync(allocate, 1200)
    assert handler.requests == [("ctx", 1200, 1000)] * 2
    del held
    with pytest.raises(VRAMBudgetExceeded):
        await ctx.run_sync(allocate, 1100)


async def test_f7_a_handler_that_raises_counts_as_false_and_is_reported(ctx, on_pressure, caplog):
    on_pressure(Handler(lambda: 1 / 0))
    held = await ctx.run_sync(allocate, 900)
    with pytest.raises(VRAMBudgetExceeded):
        await ctx.run_sync(allocate, 300, retries=1)
    assert "ZeroDivisionError" in caplog.text
    assert ctx.usage().used == len(held)


async def test_f8_handlers_are_asked_in_order_until_one_says_true(ctx, on_pressure):
    handlers = [Handler(False), Handler(True), Handler(True)]
    registrations = [on_pressure(handler) for handler in handlers]
    held = [await ctx.run_sync(allocate, 900)]
    held.append(await ctx.run_sync(allocate, 300, retries=1))
    assert [len(handler.requests) for handler in handlers] == [1, 1, 0]
    registrations[1].unregister()
    registrations[1].unregister()
    held.append(await ctx.run_sync(allocate, 100, retries=1))
    assert [len(handler.requests) for handler in handlers] == [2, 1, 1]


async def test_f9_an_async_handler_is_awaited_and_blocks_nobody(ctx, on_pressure):
    asked, answer = anyio.Event(), anyio.Event()

    @on_pressure
    async def handler(context, requested, available):
        if requested:
            asked.set()
            await answer.wait()
        return True

    held = [await ctx.run_sync(allocate, 900)]
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:

            async def more():
                held.append(await ctx.run_sync(allocate, 300, retries=1))

            tasks.start_soon(more)
            await asked.wait()
            assert len(await ctx.run_sync(allocate, 50)) == 50 * MB
            answer.set()
    assert len(held) == 2
    handler.unregister()
    assert await handler(ctx, 0, 0) is True, "it can still be called as the function it is"


async def test_a_handler_that_never_answers_counts_as_false(ctx, on_pressure, caplog):
    ctx._core.memory._pressure._timeout = 0.01

    @on_pressure
    async def handler(context, requested, available):
        await anyio.sleep_forever()

    held = await ctx.run_sync(allocate, 700)
    with anyio.fail_after(10):
        with pytest.raises(VRAMBudgetExceeded):
            await ctx.run_sync(allocate, 400, retries=1)
    assert "no answer within 0.01 s" in caplog.text
    assert len(held) == 700 * MB


async def test_cancelling_who_asks_cancels_the_handler(ctx, on_pressure):
    asked, ended = anyio.Event(), anyio.Event()

    @on_pressure
    async def handler(context, requested, available):
        try:
            asked.set()
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with anyio.create_task_group() as tasks:

        async def reserve():
            async with ctx.reserve(1200 * MB):
                pass

        tasks.start_soon(reserve)
        await asked.wait()
        tasks.cancel_scope.cancel()
    assert ended.is_set()
    assert ctx.usage().reserved == 0


async def test_a_handler_that_asks_for_memory_is_not_asked_again(ctx, on_pressure):
    depth = []

    @on_pressure
    async def handler(context, requested, available):
        depth.append(requested)
        async with context.reserve(5000 * MB):
            pass
        return True

    with anyio.fail_after(10), pytest.raises(VRAMBudgetExceeded):
        async with ctx.reserve(2000 * MB):
            pass
    assert depth == [2000 * MB]


async def test_a_handler_that_allocates_pays_like_everybody(ctx, on_pressure, caplog):
    held = []
    on_pressure(Handler(lambda: held.append(allocate(2000)) or True))
    async with context_session(ctx):
        with pytest.raises(VRAMBudgetExceeded):
            async with ctx.reserve(1200 * MB):
                pass
    assert held == []
    assert "OutOfMemoryError" in caplog.text


async def test_each_mark_is_told_once_per_crossing(ctx, on_pressure):
    handler = Handler(True)
    on_pressure(handler)
    held = [await ctx.run_sync(allocate, 790)]
    await told()
    assert handler.asked == []
    held.append(await ctx.run_sync(allocate, 20))
    await told()
    held.append(await ctx.run_sync(allocate, 20))
    await told()
    assert handler.asked == [("ctx", 0, 190)]
    held.append(await ctx.run_sync(allocate, 130))
    await told()
    assert handler.asked[1:] == [("ctx", 0, 40)]
    held.clear()
    held.append(await ctx.run_sync(allocate, 900))
    await told()
    assert handler.asked[2:] == [("ctx", 0, 100)]


async def test_a_mark_passed_in_a_step_of_a_session_is_told_before_the_session_ends(
    ctx, on_pressure
):
    handler = Handler()
    on_pressure(handler)
    async with context_session(ctx):
        held = allocate(900)
        await told()
        assert handler.marks == [("ctx", 0, 100)]
    assert len(held) == 900 * MB


async def test_marks_of_a_context_without_a_max_are_shares_of_the_device(registry, on_pressure):
    handler = Handler()
    on_pressure(handler)
    uncapped = await registry.create("uncapped")
    held = [await uncapped.run_sync(allocate, 6 * 1024)]
    await told()
    assert handler.asked == []
    held.append(await uncapped.run_sync(allocate, 1024))
    await told()
    assert handler.asked == [("uncapped", 0, 1024)]


async def test_what_cannot_be_called_is_no_handler():
    with pytest.raises(InvalidRequest, match="cannot be called"):
        Pressure(timeout=1).register("handler")


@pytest.fixture(autouse=True)
def log_level(caplog):
    caplog.set_level(logging.ERROR, "asyncgpu")
