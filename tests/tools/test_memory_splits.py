"""Out of memory: in halves, then alone, then on a larger device, then a typed error."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import pytest
import sample_tools

import asyncgpu
from asyncgpu import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings():
    return Settings(virtual_devices="8GiB,16GiB")


def big_batches(**attributes):
    tool = sample_tools.OneByteEach()
    vars(tool).update(max_batch=16, **attributes)
    return tool


async def test_a_batch_that_does_not_fit_is_run_in_halves(rt, new_pool):
    async with new_pool(["cuda:0"]) as pool:
        answers = await pool.run(big_batches(), range(32))
    assert [item for item, _, _ in answers] == list(range(32))
    # 16 does not fit, nor does 8; 4 does, and from then on nothing larger is sent.
    assert {size for _, size, _ in answers} == {4}


async def test_a_tools_own_words_around_it_do_not_hide_it(rt, new_pool):
    tool = sample_tools.OneByteEach(room=4, wrapped=True)
    tool.max_batch = 8
    async with new_pool(["cuda:0"]) as pool:
        answers = await pool.run(tool, range(8))
    assert {size for _, size, _ in answers} == {4}


async def test_an_item_too_large_by_itself_goes_to_a_larger_device(rt, new_pool):
    async with new_pool() as pool:
        with anyio.fail_after(60):
            answers = await pool.run(big_batches(), ["a", "giant", "b"])
    where = {item: devices for item, _, devices in answers}
    assert where["giant"] == (1,)


async def test_a_larger_device_that_nobody_needed_yet_is_got_for_it(rt, new_pool):
    async with new_pool() as pool:
        async with rt.lease("cuda:1"):
            [(_, _, devices)] = await pool.run(sample_tools.OneByteEach(), ["a"])
            assert devices == (0,)  # where the only worker stays
        with anyio.fail_after(60):
            [(_, _, devices)] = await pool.run(sample_tools.OneByteEach(), ["giant"])
        assert devices == (1,)


@asynccontextmanager
async def held_by_another_task(rt, device):
    """A lease that the caller's task does not have, and must wait for."""
    leave = anyio.Event()

    async def hold(*, task_status):
        async with rt.lease(device):
            task_status.started()
            await leave.wait()

    async with anyio.create_task_group() as tasks:
        await tasks.start(hold)
        yield
        leave.set()


async def until_queued(rt):
    changes = rt.devices.watch()
    while not rt.devices.status().queue:
        await anext(changes)


async def test_an_item_waits_for_a_larger_device_that_is_held(rt, new_pool):
    tool, answers = sample_tools.OneByteEach(), []

    async def run(pool):
        answers.extend(await pool.run(tool, ["giant"]))

    async with (
        new_pool() as pool,
        anyio.create_task_group() as tasks,
        held_by_another_task(rt, "cuda:1"),
    ):
        await pool.run(tool, ["a"])
        tasks.start_soon(run, pool)
        with anyio.fail_after(60):
            await until_queued(rt)
        assert not answers
    assert answers == [("giant", 1, (1,))]


async def test_a_caller_who_stops_waiting_for_a_larger_device_leaves_nothing(rt, new_pool):
    tool = sample_tools.OneByteEach()
    with anyio.fail_after(60):
        async with new_pool() as pool, held_by_another_task(rt, "cuda:1"):
            await pool.run(tool, ["a"])
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pool.run, tool, ["giant"])
                await until_queued(rt)
                tasks.cancel_scope.cancel()
            await pool.run(tool, ["a"])
            assert not rt.devices.status().queue


async def test_where_there_is_no_larger_device_only_that_item_fails(rt, new_pool):
    async with new_pool(["cuda:0"]) as pool:
        with pytest.raises(asyncgpu.PartialFailure) as caught:
            await pool.run(big_batches(), ["a", "b", "giant", "c"])
    failure = caught.value
    assert sorted(failure.results) == [0, 1, 3]
    error = failure.errors[2]
    assert isinstance(error, asyncgpu.ToolOutOfMemory)
    assert isinstance(error, asyncgpu.OutOfDeviceMemory)
    assert isinstance(error, asyncgpu.ToolFailed)
    assert (error.device, error.requested, error.available) == ("cuda:0", 1, 4)
    assert "OutOfDeviceMemory" in error.remote_traceback


async def test_host_memory_too(rt, new_pool):
    async with new_pool(0, cpus=2) as pool:
        with pytest.raises(asyncgpu.ToolOutOfMemory) as caught:
            await pool.call(sample_tools.OutOfHostMemory(), 1)
    assert caught.value.device == "cpu"


async def test_single_calls_that_were_batched_are_split_too(rt, gates, new_pool):
    entered, leave = gates
    tool = sample_tools.HeldOneByteEach(entered, leave)
    answers = []

    async def call(pool, item):
        answers.append(await pool.call(tool, item))

    async with new_pool(["cuda:0"]) as pool, anyio.create_task_group() as tasks:
        tasks.start_soon(call, pool, "first")
        await entered.wait()
        for item in range(8):
            tasks.start_soon(call, pool, item)
        await anyio.wait_all_tasks_blocked()
        leave.open()
    assert sorted(size for _, size, _ in answers) == [1] + [4] * 8


async def test_a_single_call_goes_to_a_larger_device(rt, new_pool):
    async with new_pool() as pool:
        with anyio.fail_after(60):
            _, _, devices = await pool.call(sample_tools.OneByteEach(), "giant")
    assert devices == (1,)


async def test_a_single_call_that_fits_nowhere_fails(rt, new_pool):
    async with new_pool(["cuda:0"]) as pool:
        with pytest.raises(asyncgpu.ToolOutOfMemory):
            await pool.call(sample_tools.OneByteEach(), "giant")
