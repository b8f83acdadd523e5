"""Cancelled at every step, everything leaves no trace: no memory, name, turn, thread or task.

On asyncio by ``task.cancel()``, as `asyncio.timeout` and a failing `asyncio.TaskGroup` do it: that
goes through every shield of anyio's, so that clean-up is cut short too.
"""

from __future__ import annotations

import asyncio
import threading

import anyio
import anyio.lowlevel
import pytest
import torch

from asyncgpu import MB, MemoryPool, QoSPolicy, Runtime, Settings
from asyncgpu.testing import busy

pytestmark = pytest.mark.anyio

TOTAL = 1024 * MB
PROMISED = {"max_vram": 600 * MB, "qos": QoSPolicy.GUARANTEED}
# An operation is over long before; a bound for one that hangs.
MOST_STEPS = 2000


def take(megabytes):
    return torch.empty(megabytes * MB, dtype=torch.uint8)


# Each returns what is to be cancelled, and what a user would do afterwards, if anything.


async def creating(runtime):
    async def create():
        await runtime.create_context("a", **PROMISED)

    return create, None


async def using(runtime):
    async def use():
        async with await runtime.create_context("a", **PROMISED) as ctx:
            await ctx.run_sync(take, 100)
            async with ctx.session():
                tensor = take(10)
                busy(ctx, 0.001)
                await anyio.sleep(0)
                del tensor

    return use, None


async def closing(runtime):
    ctx = await runtime.create_context("a", **PROMISED)
    await ctx.run_sync(take, 1)
    async with ctx.session(synchronize=False):
        busy(ctx, 0.0005)
    return ctx.aclose, ctx.aclose


async def reserving(runtime):
    ctx = await runtime.create_context("a")

    async def reserve():
        async with ctx.reserve(600 * MB):
            await anyio.sleep(0)

    return reserve, ctx.aclose


async def opening_a_pool(runtime):
    pool = MemoryPool(600 * MB)
    return pool.__aenter__, pool.aclose


async def using_a_pool(runtime):
    pool = MemoryPool(4 * MB)

    async def use():
        for number in range(3):
            block = await pool.allocate(2 * MB)
            async with block.use() as tensor:
                tensor.fill_(number)

    return use, pool.aclose


async def closing_a_pool(runtime):
    pool = MemoryPool(600 * MB)
    await pool.allocate(2 * MB)
    return pool.aclose, pool.aclose


async def closing_a_pool_in_a_context(runtime):
    ctx = await runtime.create_context("a", **PROMISED)
    pool = MemoryPool(600 * MB, context=ctx)
    await pool.allocate(2 * MB)

    async def finish():
        await pool.aclose()
        await ctx.aclose()

    return pool.aclose, finish


OPERATIONS = [creating, using, closing, reserving, opening_a_pool, using_a_pool, closing_a_pool]
OPERATIONS += [closing_a_pool_in_a_context]


async def cancelled_after(steps, operation):
    """Run `operation` in a task that is cancelled after so many turns; return whether in time."""
    done = anyio.Event()

    async def run():
        await operation()
        done.set()

    if asyncio._get_running_loop() is None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await turns(steps, done)
            tasks.cancel_scope.cancel()
    else:
        task = asyncio.ensure_future(run())
        await turns(steps, done)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return not done.is_set()


async def turns(steps, done):
    for _ in range(steps):
        if not done.is_set():
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_cancelled_operation_leaves_no_trace(operation):
    before = set(threading.enumerate())
    async with Runtime(settings=Settings(virtual_devices=f"1x{TOTAL}")) as runtime:
        for steps in range(MOST_STEPS):
            cancel_me, finish = await operation(runtime)
            in_time = await cancelled_after(steps * (1 + steps // 16), cancel_me)
            with anyio.fail_after(10):
                if finish is not None:
                    await finish()
                for ctx in runtime.contexts():
                    await ctx.aclose()
                # What a cancelled block has left to the runtime is over soon.
                while runtime.available_vram() != TOTAL:
                    await anyio.sleep(0.001)
                async with await runtime.create_context("a", max_vram=TOTAL, qos=PROMISED["qos"]):
                    pass
            if not in_time:
                break
        else:
            pytest.fail("it was never finished")
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert {name for name in left if name.startswith("asyncgpu")} == set()


async def test_a_runtime_whose_closing_is_cancelled_is_closed(anyio_backend):
    tasks_before = all_tasks()
    for steps in range(MOST_STEPS):
        before = set(threading.enumerate())
        runtime = Runtime(settings=Settings(virtual_devices=f"1x{TOTAL}"))
        await runtime.open()
        ctx = await runtime.create_context("a", max_vram=TOTAL // 4, qos=PROMISED["qos"])
        await ctx.run_sync(take, 1)
        async with await runtime.create_context("b") as other, other.session():
            pass
        in_time = await cancelled_after(steps * (1 + steps // 16), runtime.aclose)
        with anyio.fail_after(10):
            await runtime.aclose()
            while ours(set(threading.enumerate()) - before) or all_tasks() != tasks_before:
                await anyio.sleep(0.001)
        if not in_time:
            return
    pytest.fail("it was never closed")


def ours(threads):
    return {thread.name for thread in threads if thread.name.startswith("asyncgpu")}


def all_tasks():
    return set() if asyncio._get_running_loop() is None else asyncio.all_tasks()
