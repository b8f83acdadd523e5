"""Tools without a pool: one-shot, `persist`, `persist_tool`, `get_tool`, `shutdown_tool`."""

from __future__ import annotations

import os

import anyio
import pytest
import sample_tools

import asyncgpu
from asyncgpu import ToolPool, get_tool, persist, persist_tool, shutdown_tool

pytestmark = pytest.mark.anyio


async def pid_of(tool):
    [(pid, _, _)] = await tool([1])
    return pid


async def test_outside_any_block_a_call_has_a_worker_of_its_own(rt):
    first, second = await pid_of(sample_tools.Where()), await pid_of(sample_tools.Where())
    assert first != second
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


async def test_inside_a_block_tools_stay_warm_and_end_with_it(rt):
    async with persist():
        first = await pid_of(sample_tools.Where())
        assert await pid_of(sample_tools.Where()) == first
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


async def test_blocks_nest_and_have_their_own_workers(rt):
    async with persist():
        outer = await pid_of(sample_tools.Where())
        async with persist():
            assert await pid_of(sample_tools.Where()) != outer
        assert await pid_of(sample_tools.Where()) == outer


async def test_another_configuration_has_another_worker(rt):
    async with persist():
        assert await sample_tools.Square(1)([2]) == [5]
        assert await sample_tools.Square(2)([2]) == [6]


async def test_the_innermost_of_pool_and_block_is_used(rt):
    async with ToolPool(1) as pool:
        await sample_tools.Where()([1])
        assert pool.stats().items == 1
        async with persist():
            await sample_tools.Where()([1])
        assert pool.stats().items == 1


async def test_a_default_pool_serves_every_task(rt):
    async def elsewhere():
        await sample_tools.Where()([1])

    async with ToolPool(1, default=True) as pool, anyio.create_task_group() as tasks:
        asyncgpu.ambient.pool.set(None)
        tasks.start_soon(elsewhere)
        await elsewhere()
    assert pool


async def test_persist_tool_gives_a_loaded_worker(rt):
    async with persist_tool(sample_tools.Where(), instance_name="here", device="cuda:1") as worker:
        pid = worker.pid
        assert (worker.name, worker.device) == ("here", "cuda:1")
        [(answered_by, devices, _)] = await worker.run([1])
        assert (answered_by, devices) == (pid, (1,))


async def test_a_worker_is_of_no_use_after_its_block(rt):
    async with persist_tool(sample_tools.Where()) as worker:
        pass
    assert worker.pid is None
    with pytest.raises(asyncgpu.RequestError, match="was closed"):
        await worker.run([1])


async def test_persist_tool_fails_on_entry_when_it_cannot_be_loaded(rt):
    with pytest.raises(asyncgpu.ToolFailed, match="no such checkpoint"):
        async with persist_tool(sample_tools.LoadsBadly()):
            raise AssertionError("entered without a worker")


async def test_get_tool_gives_the_same_worker_until_it_is_shut_down(rt):
    one = await get_tool(sample_tools.Where())
    two = await get_tool(sample_tools.Where())
    assert one.pid == two.pid is not None
    assert await shutdown_tool(sample_tools.Where())
    assert not await shutdown_tool(sample_tools.Where())


async def test_a_name_belongs_to_one_tool(rt):
    async with persist():
        await get_tool(sample_tools.Where(), instance_name="it")
        with pytest.raises(asyncgpu.DuplicateName, match="'it' is a Where"):
            await get_tool(sample_tools.Square(), instance_name="it")
        assert await shutdown_tool("it")
        assert not await shutdown_tool("it")


async def test_a_tool_that_is_not_resident_stops_after_each_call_even_in_a_pool(rt):
    async with ToolPool(1):
        first = await pid_of(sample_tools.OneShot())
        assert await pid_of(sample_tools.OneShot()) != first
