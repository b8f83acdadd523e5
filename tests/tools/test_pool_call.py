"""`ToolPool.call`: one item at a time, batched while the workers are busy."""

from __future__ import annotations

from functools import partial

import anyio
import pytest
import sample_tools

import asyncgpu
from asyncgpu import ToolPool

pytestmark = pytest.mark.anyio


async def test_a_lone_call_is_answered(rt, new_pool):
    async with new_pool() as pool:
        assert await pool.call(sample_tools.Square(), 3) == 9


async def test_calls_that_queue_while_the_worker_is_busy_go_together(rt, gates, new_pool):
    entered, leave = gates
    tool = sample_tools.GatedOnce(entered, leave)
    sizes = []

    async def call(pool, item):
        sizes.append(await pool.call(tool, item))

    async with new_pool(1) as pool, anyio.create_task_group() as tasks:
        tasks.start_soon(call, pool, 0)
        await entered.wait()
        for item in range(1, 5):
            tasks.start_soon(call, pool, item)
        await anyio.wait_all_tasks_blocked()
        leave.open()
    assert sizes == [1, 4, 4, 4, 4]


async def test_a_poison_does_not_fail_its_batch_mates(rt, gates, new_pool):
    entered, leave = gates
    tool = sample_tools.GatedOnce(entered, leave)
    outcomes = {}

    async def call(pool, item):
        try:
            outcomes[item] = await pool.call(tool, item)
        except asyncgpu.ToolFailed as error:
            outcomes[item] = error

    async with new_pool(1) as pool, anyio.create_task_group() as tasks:
        tasks.start_soon(call, pool, 0)
        await entered.wait()
        for item in ("a", "bad", "b"):
            tasks.start_soon(call, pool, item)
        await anyio.wait_all_tasks_blocked()
        leave.open()
    assert isinstance(outcomes.pop("bad"), asyncgpu.ToolFailed)
    assert outcomes == {0: 1, "a": 1, "b": 1}


async def test_a_call_that_kills_its_workers_is_given_up(rt):
    async with ToolPool(1, retries=1) as pool:
        with pytest.raises(asyncgpu.WorkerDied):
            await pool.call(sample_tools.Poison(), "deadly")
        assert await pool.call(sample_tools.Poison(), "a") == "a!"


async def test_a_call_whose_worker_died_once_is_answered(rt, tmp_path):
    async with ToolPool(1) as pool:
        assert await pool.call(sample_tools.DiesOnce(str(tmp_path / "mark")), 1) == 2


async def test_a_full_queue_refuses_and_says_when_to_come_back(rt, gates, new_pool):
    entered, leave = gates
    tool = sample_tools.Gated(entered, leave)
    async with new_pool(1, max_queue=2) as pool, anyio.create_task_group() as tasks:
        tasks.start_soon(pool.call, tool, 0)
        await entered.wait()
        for item in (1, 2):
            tasks.start_soon(pool.call, tool, item)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(asyncgpu.AdmissionRejected, match="max_queue is 2") as caught:
            await pool.call(tool, 3)
        assert caught.value.retry_after > 0
        leave.open()


async def test_higher_priority_goes_first(rt, gates, new_pool):
    entered, leave = gates
    tool = sample_tools.Gated(entered, leave)
    order = []

    async def call(pool, item, priority):
        order.append((await pool.call(tool, item, priority=priority))[0])

    async with new_pool(1) as pool, anyio.create_task_group() as tasks:
        tasks.start_soon(call, pool, "first", 0)
        await entered.wait()
        for item, priority in (("low", 0), ("high", 5), ("middle", 1)):
            tasks.start_soon(call, pool, item, priority)
        await anyio.wait_all_tasks_blocked()
        leave.open()
    assert order == ["first", "high", "middle", "low"]


async def test_a_single_call_does_not_wait_for_the_end_of_a_long_batch(rt, gates, new_pool):
    entered, leave = gates
    tool = sample_tools.Gated(entered, leave)
    order = []

    async def run(pool):
        async for result in pool.stream(tool, range(6)):
            order.append(result.index)

    async def call(pool):
        await pool.call(tool, 99)
        order.append("call")

    async with new_pool(1) as pool, anyio.create_task_group() as tasks:
        tasks.start_soon(run, pool)
        await entered.wait()
        tasks.start_soon(call, pool)
        await anyio.wait_all_tasks_blocked()
        leave.open()
    assert order.index("call") <= 3


async def test_a_timeout_covers_the_wait(rt, gates, new_pool):
    entered, leave = gates
    async with new_pool(1) as pool:
        with pytest.raises(TimeoutError):
            await pool.call(sample_tools.Gated(entered, leave), 1, timeout=0.2)
        leave.open()


async def test_a_cancelled_call_that_waits_is_never_run(rt, gates, new_pool):
    entered, leave = gates
    tool = sample_tools.Gated(entered, leave)
    async with new_pool(1) as pool:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.call, tool, 0)
            await entered.wait()
            tasks.start_soon(pool.call, tool, 1)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        leave.open()
        assert (await pool.call(tool, 2))[0] == 2
        assert pool.stats().items == 2


async def test_a_pool_that_is_closed_ends_a_call_that_runs(rt, gates, new_pool):
    entered, leave = gates

    async def call(pool):
        with pytest.raises(asyncgpu.RequestError, match="closed before they were done"):
            await pool.call(sample_tools.Gated(entered, leave), 1)

    async with anyio.create_task_group() as tasks, new_pool(1) as pool:
        tasks.start_soon(call, pool)
        await entered.wait()


async def test_calls_held_back_go_together_as_soon_as_the_micro_batch_is_full(rt, gates, new_pool):
    entered, leave = gates
    leave.open()
    tool = sample_tools.GatedOnce(entered, leave)
    sizes = []

    async def call(pool):
        sizes.append(await pool.call(tool, 1, max_wait=600))

    async with new_pool(1) as pool, anyio.create_task_group() as tasks:
        for _ in range(tool.max_batch):
            tasks.start_soon(call, pool)
    assert sizes == [tool.max_batch] * tool.max_batch


async def test_a_call_that_nobody_joins_goes_when_its_wait_is_over(rt, new_pool):
    async with new_pool(1) as pool:
        with anyio.fail_after(60):
            for item in range(30):
                assert await pool.call(sample_tools.Square(), item, max_wait=0.002) == item * item


@pytest.mark.parametrize("count", [200])
async def test_many_calls_at_once_each_get_their_own_answer(rt, count, new_pool):
    answers = {}

    async def call(pool, item):
        answers[item] = await pool.call(sample_tools.Square(), item)

    async with new_pool() as pool, anyio.create_task_group() as tasks:
        for item in range(count):
            tasks.start_soon(partial(call, pool, item))
    assert answers == {item: item * item for item in range(count)}
