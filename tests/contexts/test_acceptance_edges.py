"""Where promises of contexts meet: closing and waiting, collectors, loops and threads."""

from __future__ import annotations

import contextvars
import functools
import gc
import math
import threading

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
import torch

from asyncgpu import (
    GB,
    MB,
    MemoryPool,
    QoSPolicy,
    Runtime,
    context_session,
    create_context,
    current_runtime,
    get_available_vram,
    initialize,
    on_memory_pressure,
    shutdown,
)
from asyncgpu.drivers.virtual.blocks import VirtualBlocks
from asyncgpu.drivers.virtual.device import VirtualDevice
from asyncgpu.drivers.virtual.driver import VirtualDriver
from asyncgpu.drivers.virtual.event import VirtualEvent
from asyncgpu.drivers.virtual.memory import VirtualMemory
from asyncgpu.errors import ContextClosed, RequestError, VRAMBudgetExceeded
from asyncgpu.home_loop import in_event_loop

pytestmark = pytest.mark.anyio

GUARANTEED, BEST_EFFORT = QoSPolicy.GUARANTEED, QoSPolicy.BEST_EFFORT


def take(megabytes):
    return torch.empty(megabytes * MB, dtype=torch.uint8)


@pytest.fixture
async def runtime(virtual_gpus):
    virtual_gpus("1x8GiB")
    async with Runtime() as opened:
        yield opened


async def as_far_as_they_can():
    """Every task waits, those that look at the driver in a thread too."""
    for _ in range(10):
        await anyio.wait_all_tasks_blocked()
        await anyio.to_thread.run_sync(lambda: None)


async def test_of_two_initialize_at_once_one_is_refused(virtual_gpus):
    virtual_gpus("1x8GiB")
    outcomes = []

    async def start():
        try:
            outcomes.append(await initialize())
        except RequestError as error:
            outcomes.append(type(error))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(start)
        tasks.start_soon(start)
    outcomes.remove(RequestError)
    assert outcomes == [current_runtime()]
    await shutdown()


# ------------------------------------------------------------------------ waiting for room


async def test_closing_ends_who_waits_for_room_and_holds_up_nobody_behind(runtime):
    holder = await create_context("holder", max_vram="6GiB", qos=GUARANTEED)
    closing, other = await create_context("closing"), await create_context("other")
    ended = []

    async def wait(block, name):
        with pytest.raises(ContextClosed, match="'closing' is clos"):
            async with block:
                pytest.fail("there was no room")
        ended.append(name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, closing.reserve("4GiB"), "reserve")
        tasks.start_soon(wait, MemoryPool("4GiB", context=closing), "pool")
        await as_far_as_they_can()
        with anyio.fail_after(5):
            await closing.aclose()
    assert sorted(ended) == ["pool", "reserve"]
    with anyio.fail_after(5):
        async with other.reserve("2GiB"):
            pass
    await holder.aclose()
    assert get_available_vram() == 8 * GB


async def test_a_reservation_left_after_its_context_has_closed_is_over(runtime):
    ctx = await create_context("a", max_vram="2GiB", qos=GUARANTEED)
    kept = await ctx.run_sync(take, 100)
    async with ctx.reserve("1GiB"):
        await ctx.aclose()
        assert get_available_vram() == 8 * GB - len(kept)
    assert get_available_vram() == 8 * GB - len(kept)
    del kept
    assert get_available_vram() == 8 * GB
    with pytest.raises(ContextClosed):
        async with ctx.reserve(1):
            pass


async def test_a_closing_context_sets_nothing_aside_for_newcomers(runtime, gate):
    ctx, held = await create_context("a"), gate()
    held.hold(ctx)
    with pytest.raises(TimeoutError):
        await ctx.aclose(timeout=0)
    with pytest.raises(ContextClosed, match="closing"):
        async with ctx.reserve(1):
            pass
    held.open()
    await ctx.aclose()


async def test_a_handler_may_close_the_very_context_it_is_asked_about(runtime):
    @on_memory_pressure
    async def close(ctx, requested, available):
        await ctx.aclose()
        return True

    async def reserve(ctx):
        async with ctx.reserve("2GiB"):
            pass

    async def call_again(ctx):
        await ctx.run_sync(take, 2000, retries=1)

    for name, ask in (("a", reserve), ("b", call_again)):
        ctx = await create_context(name, max_vram="1GiB")
        with pytest.raises(ContextClosed), anyio.fail_after(5):
            await ask(ctx)
    assert get_available_vram() == 8 * GB


async def test_a_better_class_goes_before_who_has_gathered_what_it_needs(runtime):
    await create_context("holder", max_vram="3GiB", qos=GUARANTEED)
    waiting = await create_context("waiting", qos=BEST_EFFORT)
    fast = await create_context("fast", max_vram="4GiB")

    async def wait():
        async with waiting.reserve("6GiB"):
            pytest.fail("there was no room")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await as_far_as_they_can()
        assert get_available_vram() == 0
        with anyio.fail_after(5):
            async with fast.reserve("4GiB"):
                assert fast.usage().reserved == 4 * GB
        tasks.cancel_scope.cancel()
    assert get_available_vram() == 5 * GB


async def test_a_reservation_that_is_over_is_not_kept_for_more_that_is_waited_for(runtime):
    """Who waits behind others holds nothing: else those would wait for what he has."""
    ctx = await create_context("a", qos=BEST_EFFORT)
    better = await create_context("better", max_vram="8GiB")
    entered = anyio.Event()

    async def wait(which, size):
        async with which.reserve(size):
            entered.set()

    async with anyio.create_task_group() as tasks:
        async with ctx.reserve("2GiB"):
            tasks.start_soon(wait, better, "7GiB")
            await as_far_as_they_can()
            tasks.start_soon(wait, ctx, "3GiB")
            await as_far_as_they_can()
            assert ctx.usage().reserved == 2 * GB
            assert not entered.is_set()
        with anyio.fail_after(5):
            await entered.wait()
    assert get_available_vram() == 8 * GB


async def test_room_is_waited_for_in_any_event_loop(runtime):
    holder = await create_context("holder", max_vram="6GiB", qos=GUARANTEED)
    ctx, reserved = await create_context("a"), []

    async def wait():
        # Without any timer that would wake this loop by chance.
        async with ctx.reserve("4GiB"):
            reserved.append(ctx.usage().reserved)

    with anyio.from_thread.start_blocking_portal() as portal:
        waiting = portal.start_task_soon(wait)
        while get_available_vram():
            await as_far_as_they_can()
        await holder.aclose()
        await anyio.to_thread.run_sync(waiting.result, 10)
    assert reserved == [4 * GB]
    assert get_available_vram() == 8 * GB


async def test_what_other_programs_give_back_is_there_for_the_next_try(virtual_gpus, faults):
    virtual_gpus("1x8GiB")
    script = faults()
    async with Runtime():
        ctx = await create_context("a")
        script.occupy(0, "6GiB")
        assert get_available_vram() == 2 * GB
        script.occupy(0, 0)
        assert len(await ctx.run_sync(take, 5000, retries=1)) == 5000 * MB


async def test_an_endless_timeout_is_none_in_a_thread_too(runtime):
    ctx = await create_context("a", max_concurrent_sessions=1)
    entered = threading.Event()

    def work():
        with ctx.session(timeout=math.inf):
            entered.set()

    # In a context of its own: it would share the turn of this task's session otherwise.
    thread = threading.Thread(target=contextvars.Context().run, args=(work,))
    async with ctx.session():
        thread.start()
        while not ctx._core.turns.waiting:
            await anyio.sleep(0)
    await anyio.to_thread.run_sync(thread.join)
    assert entered.is_set()


# --------------------------------------------------------------------- clean-up and threads


async def test_marks_are_told_after_one_that_could_not_be_seen_to(runtime, monkeypatch, caplog):
    ctx, told = await create_context("a", max_vram="1GiB"), []
    on_memory_pressure(lambda ctx, requested, available: told.append(requested))

    async def cross():
        kept = await ctx.run_sync(take, 900)
        await as_far_as_they_can()
        del kept
        await ctx.run_sync(int)

    with monkeypatch.context() as broken:
        broken.setattr(VirtualMemory, "trim", lambda self: 1 / 0)
        await cross()
    assert told == []
    assert "ZeroDivisionError" in caplog.text
    await cross()
    assert told == [0]


async def test_a_collector_may_end_an_abandoned_session_in_the_middle_of_anything(runtime, gate):
    """It runs in whatever thread allocates, which may hold the very locks that ending needs."""
    ctx, ended, held = await create_context("a", max_concurrent_sessions=1000), [], gate()
    # What is recorded stays, so that the number of objects only grows.
    held.hold(ctx)

    def hold():
        with context_session(ctx):
            try:
                yield
            finally:
                ended.append(1)

    def work():
        for number in range(600):
            gc.disable()
            gc.collect(0)
            abandoned = hold()
            next(abandoned)
            cycle = [abandoned]
            cycle.append(cycle)
            del abandoned, cycle
            # The next so many allocations later it is found: at each place below, some time.
            gc.set_threshold(gc.get_count()[0] + number % 60)
            gc.enable()
            for _ in range(3):
                ctx.record_event()
                ctx.usage()

    before = gc.get_threshold()
    try:
        with anyio.fail_after(30):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            await anyio.to_thread.run_sync(thread.join, abandon_on_cancel=True)
    finally:
        gc.set_threshold(*before)
        gc.enable()
        held.open()
    gc.collect()
    assert len(ended) == 600
    with anyio.fail_after(5):
        await ctx.aclose()


BLOCKING = [
    (VirtualDriver, ("inventory", "open_memory", "open_blocks", "close")),
    (VirtualDevice, ("free_memory",)),
    (VirtualMemory, ("trim", "close")),
    (VirtualBlocks, ("empty", "to_host", "trim", "close")),
    (VirtualEvent, ("synchronize",)),
]


async def test_nothing_that_may_block_is_called_in_the_event_loop(virtual_gpus, monkeypatch):
    """With CUDA each of these takes from microseconds to seconds; the loop must not wait for it."""
    virtual_gpus("1x8GiB")
    called, in_the_loop = set(), []

    def watched(name, method):
        @functools.wraps(method)
        def watch(*args, **kwargs):
            called.add(name)
            if in_event_loop():
                in_the_loop.append(name)
            return method(*args, **kwargs)

        return watch

    for kind, names in BLOCKING:
        for name in names:
            method = watched(f"{kind.__name__}.{name}", getattr(kind, name))
            monkeypatch.setattr(kind, name, method)
    async with Runtime(total_vram_budget="8GiB") as runtime:
        ctx = await create_context("a", max_vram="1GiB", qos=GUARANTEED)
        with pytest.raises(VRAMBudgetExceeded):
            await ctx.run_sync(take, 1100, retries=1)
        async with ctx.reserve("1GiB"), ctx.session():
            kept = take(900)
        async with MemoryPool(4 * MB) as pool, MemoryPool(4 * MB, context=ctx) as inner:
            for each in (pool, inner):
                blocks = [await each.allocate(2 * MB) for _ in range(3)]
                async with ctx.session():
                    for block in blocks:
                        async with block.use() as tensor:
                            tensor.fill_(1)
                await each.clear()
        async with await create_context("b", base_vram="7GiB") as other:
            await other.synchronize()
            await as_far_as_they_can()
        runtime.status()
        del kept
    missing = {f"{kind.__name__}.{name}" for kind, names in BLOCKING for name in names} - called
    assert missing <= {"VirtualEvent.synchronize"}, "this has not come by"
    assert in_the_loop == []
