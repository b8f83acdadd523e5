"""`ToolPool.run`: answers in order, whatever happens on the way."""

from __future__ import annotations

import gc
import os
import weakref
from functools import partial

import anyio
import pytest
import sample_tools

import asyncgpu
from asyncgpu import ToolPool

pytestmark = pytest.mark.anyio


async def test_answers_come_in_the_order_of_the_items(rt, new_pool):
    async with new_pool() as pool:
        assert await pool.run(sample_tools.Square(), range(100)) == [i * i for i in range(100)]


async def test_an_empty_list_starts_nothing(rt, new_pool):
    async with new_pool() as pool:
        assert await pool.run(sample_tools.Square(), []) == []
        assert pool.stats().slots == ()


async def test_two_batches_use_the_same_processes_and_load_once(rt):
    async with ToolPool() as pool:
        pids = {pid for pid, _, _ in await pool.run(sample_tools.Where(), range(50))}
        pids |= {pid for pid, _, _ in await pool.run(sample_tools.Where(), range(50))}
        assert len(pids) <= 2
        assert os.getpid() not in pids
        assert all(slot.loads <= 1 for slot in pool.stats().slots)


async def test_a_single_item_uses_a_warm_worker(rt):
    async with ToolPool(1) as pool:
        warm = {pid for pid, _, _ in await pool.run(sample_tools.Where(), range(50))}
        [(pid, _, _)] = await pool.run(sample_tools.Where(), [1])
        assert pid in warm
        pid, _, _ = await pool.call(sample_tools.Where(), 1)
        assert pid in warm


async def test_equal_items_are_computed_once_and_copied_out(rt, new_pool):
    async with new_pool() as pool:
        answers = await pool.run(sample_tools.Lists(), ["a", "b", "a", "c", "a"])
        assert answers == [["a"], ["b"], ["a"], ["c"], ["a"]]
        assert answers[0] is not answers[2]
        assert pool.stats().items == 3
        assert pool.stats().merged == 2


async def test_items_of_a_tool_that_is_not_deterministic_are_all_computed(rt, new_pool):
    async with new_pool() as pool:
        await pool.run(sample_tools.Priced(), [1, 1, 1])
        assert pool.stats().items == 3


async def test_max_batch_is_never_exceeded(rt, new_pool):
    async with new_pool(cpus=2) as pool:
        assert await pool.run(sample_tools.shout, ["a", "bb", "ccc"] * 5) == ["A", "BB", "CCC"] * 5
        sizes = {size for _, _, size in await pool.run(sample_tools.Threes(), range(50))}
        assert max(sizes) <= 3


async def test_a_poison_item_fails_alone_with_its_own_index(rt, new_pool):
    async with new_pool() as pool:
        with pytest.raises(asyncgpu.PartialFailure) as caught:
            await pool.run(sample_tools.Poison(), ["a", "b", "bad", "c", "d", "e", "f"])
        assert sorted(caught.value.errors) == [2]
        assert caught.value.results == {0: "a!", 1: "b!", 3: "c!", 4: "d!", 5: "e!", 6: "f!"}
        error = caught.value.errors[2]
        assert isinstance(error, asyncgpu.ToolFailed)
        assert "a bad item" in error.remote_traceback


async def test_errors_can_be_collected_in_place(rt, new_pool):
    async with new_pool() as pool:
        answers = await pool.run(
            sample_tools.Poison(), ["a", "bad", "b", "bad"], on_error="collect"
        )
        assert answers[0] == "a!"
        assert answers[2] == "b!"
        assert [answers[index].index for index in (1, 3)] == [1, 3]
        assert isinstance(answers[1], asyncgpu.ItemError)


async def test_an_item_that_kills_its_workers_is_given_up_and_the_others_are_answered(rt):
    async with ToolPool() as pool:
        answers = await pool.run(
            sample_tools.Poison(), ["a", "b", "deadly", "c", "d"], on_error="collect"
        )
        assert [a for a in answers if isinstance(a, str)] == ["a!", "b!", "c!", "d!"]
        assert isinstance(answers[2].error, asyncgpu.WorkerDied)
        assert answers[2].error.exit_code == -9


async def test_items_of_a_worker_that_died_are_run_again(rt, tmp_path):
    async with ToolPool() as pool:
        tool = sample_tools.DiesOnce(str(tmp_path / "mark"))
        assert await pool.run(tool, range(20)) == list(range(1, 21))


async def test_a_worker_killed_in_mid_batch_loses_nothing(rt, gates):
    entered, leave = gates
    async with ToolPool(1) as pool, anyio.create_task_group() as tasks:
        answers = []

        async def run():
            answers.extend(await pool.run(sample_tools.Gated(entered, leave), range(6)))

        tasks.start_soon(run)
        await entered.wait()
        [victim] = [slot.pid for slot in pool.stats().slots]
        os.kill(victim, 9)
        leave.open()
    assert [item for item, _ in answers] == list(range(6))
    assert victim not in {pid for _, pid in answers}


async def test_a_tool_that_cannot_be_loaded_fails_its_callers_with_the_reason(rt, new_pool):
    async with new_pool() as pool:
        with pytest.raises(asyncgpu.ToolFailed, match="no such checkpoint"):
            await pool.run(sample_tools.LoadsBadly(), [1, 2])
        assert await pool.run(sample_tools.Square(), [3]) == [9]


async def test_seeds_do_not_depend_on_the_number_of_gpus(rt, new_pool):
    seeds = []
    for gpus in (1, 2):
        async with new_pool(gpus) as pool:
            seeds.append(await pool.run(sample_tools.Seeded(), ["x"] * 4, seed=7))
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 4


async def test_a_timeout_ends_the_call_and_the_pool_serves_on(rt, gates, new_pool):
    async with new_pool(1) as pool:
        with pytest.raises(TimeoutError):
            await pool.run(sample_tools.Gated(*gates), [1, 2], timeout=0.2, cancel_grace=0.0)
        assert await pool.run(sample_tools.Square(), [2], timeout=30) == [4]


async def test_an_item_that_takes_too_long_fails_alone(rt, gates, new_pool):
    async with new_pool(1) as pool:
        tool = sample_tools.WaitsFor(gates[0])
        answers = await pool.run(tool, ["a", "slow", "b"], item_timeout=0.5, on_error="collect")
        assert [answers[0], answers[2]] == ["a", "b"]
        assert isinstance(answers[1].error, TimeoutError)


async def test_a_cancelled_call_keeps_the_process_and_starts_nothing_more(rt, gates):
    entered, leave = gates
    tool = sample_tools.Gated(entered, leave)
    async with ToolPool(1) as pool:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.run, tool, range(5))
            await entered.wait()
            pid = pool.stats().slots[0].pid
            tasks.cancel_scope.cancel()
        leave.open()
        assert await pool.run(tool, [9]) == [(9, pid)]
        assert pool.stats().items == 2  # the one that ran, and this one


async def test_a_grace_kills_the_worker_of_a_cancelled_call(rt, gates):
    entered, leave = gates
    tool = sample_tools.Gated(entered, leave)
    async with ToolPool(1) as pool:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(pool.run, tool, [1], cancel_grace=0.0))
            await entered.wait()
            pid = pool.stats().slots[0].pid
            tasks.cancel_scope.cancel()
        # Its gate is still closed: only another process can answer.
        assert await pool.run(sample_tools.Square(), [2]) == [4]
        leave.open()
        [(_, answered_by)] = await pool.run(tool, [2])
        assert answered_by != pid


async def test_progress_counts_every_item_and_shows_the_load(rt, new_pool):
    seen = []
    async with new_pool() as pool:
        await pool.run(sample_tools.Square(), [1, 2, 2, 3], progress=seen.append)
    assert seen[-1].done == seen[-1].total == 4
    assert seen[-1].finished
    assert any(progress.loading for progress in seen)


async def test_a_progress_callback_that_raises_does_not_end_the_run(rt, caplog, new_pool):
    def broken(progress):
        raise ZeroDivisionError

    async with new_pool() as pool:
        assert await pool.run(sample_tools.Square(), [1, 2], progress=broken) == [1, 4]
    assert "progress callback" in caplog.text


async def test_stats_compare_the_run_with_what_no_schedule_could_beat(rt, new_pool):
    async with new_pool() as pool:
        await pool.run(sample_tools.Square(), range(1000))
        stats = pool.stats()
    assert stats.items == 1000
    assert 0 < stats.lower_bound <= stats.makespan


async def test_an_item_that_cannot_be_sent_fails_with_its_index(rt):
    unsendable = (line for line in "generators cannot be pickled")
    async with ToolPool() as pool:
        answers = await pool.run(sample_tools.Echo(), [1, 2, unsendable, 3], on_error="collect")
        assert [answers[i] for i in (0, 1, 3)] == [1, 2, 3]
        assert isinstance(answers[2].error, asyncgpu.RequestError)


async def test_a_finished_run_keeps_neither_items_nor_answers_alive(rt, new_pool):
    class Heavy:
        def __reduce__(self):
            return (bytes, (3,))

    item = Heavy()
    gone = weakref.ref(item)
    async with new_pool(1) as pool:
        await pool.run(sample_tools.Echo(), [item])
        del item
        gc.collect()
        assert gone() is None
