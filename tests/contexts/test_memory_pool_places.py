"""Where a memory pool has its quota, and how that is taken and given back."""

from __future__ import annotations

import anyio
import pytest

from asyncgpu import (
    MB,
    ContextClosed,
    InfeasibleRequest,
    InvalidRequest,
    MemoryPool,
    NoRuntime,
    RequestError,
    Runtime,
    VRAMBudgetExceeded,
    context_session,
    get_available_vram,
)

pytestmark = pytest.mark.anyio


# -------------------------------------------------------------------------------- on a device


async def test_the_quota_is_reserved_until_the_pool_is_closed(pool_runtime):
    before = get_available_vram()
    async with MemoryPool("100MiB") as pool:
        assert get_available_vram() == before - 100 * MB
        block = await pool.allocate("50MiB")
        async with block.use() as tensor:
            tensor.fill_(1)
        assert get_available_vram() == before - 100 * MB
        del tensor
    assert get_available_vram() == before


async def test_memory_that_is_cleared_is_given_back(pool_runtime):
    """[H20] What remains is the reservation."""
    async with MemoryPool("100MiB") as pool:
        memory = await pool_runtime._memories.get(0)
        for _ in range(4):
            pool.free(await pool.allocate("20MiB"))
        await pool.allocate("30MiB")
        assert memory.ledger.used > 0
        await pool.clear()
        assert memory.ledger.used == 0


async def test_a_pool_that_is_not_entered_takes_its_quota_with_the_first_block(pool_runtime):
    before = get_available_vram()
    pool = MemoryPool("100MiB")
    assert pool.stats().quota == 100 * MB
    assert get_available_vram() == before
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(pool.allocate, 256)
    assert get_available_vram() == before - 100 * MB
    assert pool.stats().active_blocks == 5
    await pool.aclose()
    assert get_available_vram() == before


async def test_pools_on_different_devices_have_nothing_to_do_with_each_other(new_pool):
    for device in ("cuda:0", "cuda:1"):
        pool = await new_pool("200MiB", device=device)
        await pool.allocate("200MiB")
    assert get_available_vram("cuda:1") == 56 * MB


async def test_a_pool_waits_for_its_quota_and_giving_up_leaves_no_trace(pool_runtime):
    before = get_available_vram()
    waiting = MemoryPool("200MiB")
    async with MemoryPool("200MiB"):
        with pytest.raises(TimeoutError):
            await waiting.allocate(256, timeout=0.01)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(waiting.allocate, 256)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        assert get_available_vram() == before - 200 * MB
    await waiting.allocate(256)
    assert get_available_vram() == before - 200 * MB
    await waiting.aclose()


async def test_a_quota_that_no_device_has_is_refused_at_once(pool_runtime):
    with pytest.raises(InfeasibleRequest):
        async with MemoryPool("1GiB"):
            pass


async def test_a_pool_lives_on_one_device(pool_runtime):
    with pytest.raises(InvalidRequest, match="one GPU"):
        async with MemoryPool("1MiB", device="cudax2"):
            pass


# ------------------------------------------------------------------------------- in a context


async def test_a_pool_inside_a_context_is_part_of_its_budget(pool_runtime):
    ctx = await pool_runtime.create_context("a", max_vram="100MiB")
    async with MemoryPool("40MiB", context=ctx) as pool:
        assert ctx.usage().reserved == 40 * MB
        assert ctx.usage().used == 0
        await pool.allocate("20MiB")
        assert ctx.usage().used == 20 * MB
        assert ctx.usage().reserved == 40 * MB
    assert (ctx.usage().reserved, ctx.usage().used) == (0, 0)


async def test_a_quota_over_the_context_s_budget_is_refused(pool_runtime):
    ctx = await pool_runtime.create_context("a", max_vram="100MiB")
    with pytest.raises(VRAMBudgetExceeded):
        async with MemoryPool("101MiB", context=ctx):
            pass
    assert ctx.usage().reserved == 0


async def test_a_pool_of_a_closed_context_is_of_no_use(pool_runtime):
    ctx = await pool_runtime.create_context("a", max_vram="100MiB")
    async with MemoryPool("40MiB", context=ctx) as pool:
        block = await pool.allocate(1)
        await ctx.aclose()
        with pytest.raises(ContextClosed):
            await pool.allocate(1)
        with pytest.raises(ContextClosed):
            async with block.use():
                pass
        pool.free(block)


async def test_a_pool_is_on_its_context_s_device(pool_runtime):
    ctx = await pool_runtime.create_context("a", device="cuda:1")
    with pytest.raises(InvalidRequest, match="the context is on cuda:1"):
        MemoryPool("1MiB", context=ctx, device="cuda:0")
    async with MemoryPool("1MiB", context=ctx, device="cuda:1") as pool:
        await pool.allocate(1)


# ------------------------------------------------------------------------------------- the end


async def test_closing_waits_for_blocks_in_use(new_pool):
    pool = await new_pool(512)
    block = await pool.allocate(256)
    async with anyio.create_task_group() as tasks:
        leave = anyio.Event()

        async def use():
            async with block.use() as tensor:
                await leave.wait()
                tensor.fill_(1)

        tasks.start_soon(use)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(TimeoutError, match="the end of all work"):
            await pool.aclose(timeout=0.01)
        with pytest.raises(RequestError, match="closed"):
            await pool.allocate(1)
        tasks.start_soon(pool.aclose)
        await anyio.wait_all_tasks_blocked()
        leave.set()
    assert pool.stats().allocated_bytes == 0


async def test_closing_inside_a_use_would_wait_for_itself(new_pool):
    pool = await new_pool(512)
    block = await pool.allocate(256)
    async with block.use():
        with pytest.raises(RequestError, match="wait for itself"):
            await pool.aclose()
    await pool.allocate(1)


async def test_closing_refuses_who_waits(new_pool):
    pool = await new_pool(256, enable_eviction=False)
    await pool.allocate(256)
    refused = []

    async def wait():
        try:
            await pool.allocate(256)
        except RequestError as error:
            refused.append(str(error))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await pool.aclose()
    assert refused == ["<MemoryPool of 256 B> is closed"]


async def test_a_pool_left_by_cancellation_is_closed_by_the_runtime(pool_runtime, gate):
    before = get_available_vram()
    held = gate()
    async with anyio.create_task_group() as tasks, MemoryPool("100MiB") as pool:
        block = await pool.allocate(256)
        pool._opened.place.mover._stream.enqueue(held.wait_sync, interrupt=held.open)
        tasks.cancel_scope.cancel()
        await anyio.sleep_forever()
    assert not block.resident
    held.open()
    with anyio.fail_after(10):
        while get_available_vram() != before:
            await anyio.wait_all_tasks_blocked()


async def test_a_closing_runtime_closes_its_pools(virtual_gpus):
    virtual_gpus("1x64MiB")
    async with Runtime():
        pool = MemoryPool("1MiB")
        block = await pool.allocate(256)
    with pytest.raises(RequestError, match="closed"):
        await pool.allocate(256)
    assert pool.stats().allocated_bytes == 0
    assert not block.resident


async def test_a_closing_runtime_does_not_wait_for_ever_for_a_use(virtual_gpus, monkeypatch):
    monkeypatch.setenv("ASYNCGPU_CLOSE_TIMEOUT", "0.05")
    virtual_gpus("1x64MiB")
    async with anyio.create_task_group() as tasks:
        async with Runtime():
            pool = MemoryPool("1MiB")
            block = await pool.allocate(256)

            async def use():
                async with block.use():
                    await anyio.sleep_forever()

            tasks.start_soon(use)
            await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()


async def test_a_closing_runtime_does_not_wait_for_ever_for_a_stream(
    virtual_gpus, monkeypatch, gate
):
    """Work that never ends was using the memory of a block."""
    monkeypatch.setenv("ASYNCGPU_CLOSE_TIMEOUT", "0.05")
    virtual_gpus("1x64MiB")
    held = gate()
    async with Runtime() as runtime:
        ctx = await runtime.create_context("a")
        pool = MemoryPool("1MiB")
        block = await pool.allocate(256)
        async with context_session(ctx, synchronize=False), block.use():
            held.hold(ctx)
    assert pool.stats().allocated_bytes == 0


async def test_without_a_runtime_there_is_no_pool():
    pool = MemoryPool("1MiB")
    with pytest.raises(NoRuntime):
        await pool.allocate(1)
    assert pool.stats().quota == MB
    await pool.clear()
    await pool.aclose()
