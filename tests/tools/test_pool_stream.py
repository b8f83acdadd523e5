"""`ToolPool.stream`: outcomes as they come."""

from __future__ import annotations

from contextlib import aclosing

import pytest
import sample_tools

import asyncgpu

pytestmark = pytest.mark.anyio


async def test_every_item_has_one_outcome(rt, new_pool):
    async with new_pool() as pool:
        results = [r async for r in pool.stream(sample_tools.Square(), [3, 1, 3, 2])]
    assert sorted((r.index, r.value) for r in results) == [(0, 9), (1, 1), (2, 9), (3, 4)]
    assert all(r.error is None for r in results)


async def test_results_come_before_the_slowest_item_is_done(rt, gates, new_pool):
    slow, _ = gates
    async with new_pool(1) as pool:
        tool = sample_tools.WaitsFor(slow).on("cuda")
        tool.max_batch = 1
        seen = []
        async with aclosing(pool.stream(tool, ["a", "b", "c", "slow"])) as results:
            async for result in results:
                seen.append(result.index)
                if len(seen) == 3:
                    slow.open()
    assert seen == [0, 1, 2, 3]


async def test_in_order_holds_early_results_back(rt, new_pool):
    async with new_pool() as pool:
        items = [5, 1, 9, 2, 7, 3]
        results = [r async for r in pool.stream(sample_tools.Priced(), items, ordered=True)]
    assert [r.index for r in results] == list(range(6))


async def test_errors_come_with_their_items(rt, new_pool):
    async with new_pool() as pool:
        results = [r async for r in pool.stream(sample_tools.Poison(), ["a", "bad", "b"])]
    by_index = {r.index: r for r in results}
    assert (by_index[0].value, by_index[2].value) == ("a!", "b!")
    assert isinstance(by_index[1].error, asyncgpu.ToolFailed)


async def test_leaving_the_iteration_cancels_what_is_left(rt, gates, new_pool):
    entered, leave = gates
    leave.open()
    tool = sample_tools.Gated(entered, leave)
    async with new_pool(1) as pool:
        async with aclosing(pool.stream(tool, range(50))) as results:
            async for _ in results:
                break
        await pool.run(tool, [0])
        assert pool.stats().items < 50


async def test_a_load_that_fails_ends_the_iteration_with_the_reason(rt, new_pool):
    async with new_pool() as pool:
        with pytest.raises(asyncgpu.ToolFailed, match="no such checkpoint"):
            async for _ in pool.stream(sample_tools.LoadsBadly(), [1, 2]):
                pass


async def test_a_timeout_is_raised_where_the_next_result_is_awaited(rt, gates, new_pool):
    entered, leave = gates
    async with new_pool(1) as pool:
        with pytest.raises(TimeoutError):
            async for _ in pool.stream(sample_tools.Gated(entered, leave), [1], timeout=0.2):
                pass
        leave.open()


async def test_no_items_no_outcomes(rt, new_pool):
    async with new_pool() as pool:
        assert [r async for r in pool.stream(sample_tools.Square(), [])] == []
