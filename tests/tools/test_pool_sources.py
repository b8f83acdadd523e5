"""Items that come from an async iterable or an iterator: drawn as they are worked off."""

from __future__ import annotations

import gc
import random
from contextlib import aclosing

import anyio
import anyio.lowlevel
import pytest
import sample_tools

import asyncgpu
from asyncgpu import ToolPool

pytestmark = pytest.mark.anyio


class Source:
    """An async iterator over `items` that says how many were drawn and whether it was closed."""

    def __init__(self, items, error=None):
        self._items = iter(items)
        self._error = error
        self.drawn = 0
        self.closed = False

    def __aiter__(self):
        return self

    async def __anext__(self):
        for item in self._items:
            self.drawn += 1
            return item
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    async def aclose(self):
        await anyio.lowlevel.checkpoint()
        self.closed = True


def endless():
    number = 0
    while True:
        yield number
        number += 1


async def test_answers_of_an_async_iterable_come_in_the_order_of_its_items(rt, new_pool):
    source = Source(range(500))
    async with new_pool() as pool:
        assert await pool.run(sample_tools.Square(), source) == [i * i for i in range(500)]
    assert source.closed


async def test_an_iterator_is_drawn_like_an_async_iterable(rt, new_pool):
    items = (i for i in range(300))
    async with new_pool() as pool:
        assert await pool.run(sample_tools.Square(), items) == [i * i for i in range(300)]


async def test_a_source_without_items_starts_nothing(rt, new_pool):
    async with new_pool() as pool:
        assert await pool.run(sample_tools.Square(), Source([])) == []
        assert [r async for r in pool.stream(sample_tools.Square(), iter(()))] == []
        assert all(slot.pid is None for slot in pool.stats().slots)


async def test_a_tool_by_itself_takes_a_source_too(rt):
    assert await sample_tools.Square()(Source([1, 2, 3])) == [1, 4, 9]


@pytest.mark.parametrize("look_ahead", [1, 7])
async def test_no_more_items_are_out_than_the_look_ahead_says(rt, look_ahead, new_pool):
    source = Source(range(40))
    async with new_pool() as pool:
        taken = 0
        tool = sample_tools.Square()
        async for result in pool.stream(tool, source, look_ahead=look_ahead):
            taken += 1
            assert result.value == result.index**2
            assert source.drawn <= taken - 1 + look_ahead
    assert taken == 40


async def test_by_default_four_micro_batches_for_each_worker_are_out(rt, gates, new_pool):
    entered, leave = gates
    source = Source(endless())
    tool = sample_tools.Gated(entered, leave)
    async with (
        new_pool() as pool,
        aclosing(pool.stream(tool, source)) as results,
        anyio.create_task_group() as tg,
    ):
        tg.start_soon(anext, results)
        await entered.wait()
        await anyio.wait_all_tasks_blocked()
        assert source.drawn == 2 * 4 * tool.max_batch
        leave.open()


async def test_a_source_is_not_drawn_while_nobody_takes_results(rt, new_pool):
    source = Source(endless())
    async with (
        new_pool(1) as pool,
        aclosing(pool.stream(sample_tools.Square(), source, look_ahead=10)) as results,
    ):
        await anext(results)
        while pool.stats().items < 10:
            await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()
        assert source.drawn == 10
        await anext(results)  # whoever asks for the next has taken the one before
        await anyio.wait_all_tasks_blocked()
        assert source.drawn == 11


async def test_in_order_a_slow_item_holds_the_source_back_too(rt, gates, new_pool):
    slow, _ = gates
    source = Source(["slow", *"abcdefghijklmnop"])
    tool = sample_tools.WaitsFor(slow).on("cuda")
    tool.max_batch = 1
    async with new_pool() as pool:
        seen = []

        async def iterate():
            async for result in pool.stream(tool, source, ordered=True, look_ahead=5):
                seen.append(result.index)

        async with anyio.create_task_group() as tg:
            tg.start_soon(iterate)
            while pool.stats().items < 4:
                await anyio.lowlevel.checkpoint()
            await anyio.wait_all_tasks_blocked()
            assert (seen, source.drawn) == ([], 5)
            slow.open()
    assert seen == list(range(17))


async def test_results_come_while_the_source_has_more_to_give(rt, new_pool):
    """The source waits for the answers to what it has given: only a real stream can serve it."""
    answered = [anyio.Event() for _ in range(4)]

    async def source():
        for number in range(4):
            yield number
            await answered[number].wait()

    async with new_pool() as pool:
        async for result in pool.stream(sample_tools.Square(), source()):
            answered[result.index].set()


async def test_the_costliest_item_of_those_at_hand_goes_first(rt, gates, new_pool):
    entered, leave = gates
    tool = sample_tools.GatedPrices(entered, leave)
    order = []
    async with new_pool(1) as pool, anyio.create_task_group() as tg:

        async def iterate():
            async for result in pool.stream(tool, Source([9, 1, 5, 3, 7]), look_ahead=5):
                order.append(result.value)

        tg.start_soon(iterate)
        await entered.wait()
        await anyio.wait_all_tasks_blocked()
        leave.open()
    assert order == [9, 7, 5, 3, 1]


async def test_equal_items_that_are_out_together_are_computed_once(rt, new_pool):
    async with new_pool(1) as pool:
        answers = await pool.run(sample_tools.Lists(), iter("abaca"), look_ahead=5)
        assert answers == [["a"], ["b"], ["a"], ["c"], ["a"]]
        assert answers[0] is not answers[2]
        assert (pool.stats().items, pool.stats().merged) == (3, 2)


async def test_seeds_are_those_of_a_list(rt, new_pool):
    async with new_pool() as pool:
        listed = await pool.run(sample_tools.Seeded(), ["x"] * 6, seed=7)
        assert await pool.run(sample_tools.Seeded(), Source(["x"] * 6), seed=7) == listed


async def test_poison_fails_alone_and_killers_are_given_up(rt):
    async with ToolPool() as pool:
        items = ["a", "bad", "b", "deadly", "c", "bad"]
        answers = await pool.run(sample_tools.Poison(), Source(items), on_error="collect")
        assert [answers[i] for i in (0, 2, 4)] == ["a!", "b!", "c!"]
        assert isinstance(answers[1].error, asyncgpu.ToolFailed)
        assert isinstance(answers[3].error, asyncgpu.WorkerDied)
        assert answers[5].index == 5
        with pytest.raises(asyncgpu.PartialFailure) as caught:
            await pool.run(sample_tools.Poison(), Source(["a", "bad"]))
        assert (caught.value.results, list(caught.value.errors)) == ({0: "a!"}, [1])


@pytest.mark.parametrize("on_error", ["raise", "collect"])
async def test_what_the_source_raises_ends_the_run_and_every_answer_is_kept(rt, on_error, new_pool):
    broken = ConnectionError("the source is gone")
    async with new_pool() as pool:
        with pytest.raises(asyncgpu.PartialFailure) as caught:
            await pool.run(sample_tools.Square(), Source([1, 2], broken), on_error=on_error)
        assert caught.value.results == {0: 1, 1: 4}
        assert caught.value.errors == {2: broken}
        assert caught.value.__cause__ is broken


async def test_a_stream_gives_all_results_and_then_raises_what_the_source_raised(rt, new_pool):
    source = Source([1, 2, 3], ConnectionError("the source is gone"))
    seen = []

    async def iterate(pool):
        async for result in pool.stream(sample_tools.Square(), source):
            seen.append(result.value)

    async with new_pool() as pool:
        with pytest.raises(ConnectionError, match="gone"):
            await iterate(pool)
    assert sorted(seen) == [1, 4, 9]
    assert source.closed


async def test_an_item_whose_cost_means_nothing_ends_the_run_by_name(rt, new_pool):
    async with new_pool() as pool:
        with pytest.raises(asyncgpu.PartialFailure, match="cost of item 1: -5") as caught:
            await pool.run(sample_tools.Priced(), Source([1, -5, 2]))
        assert list(caught.value.results) == [0]


async def test_leaving_the_stream_closes_the_source_and_cancels_what_is_queued(rt, gates, new_pool):
    entered, leave = gates
    leave.open()
    source = Source(endless())
    tool = sample_tools.Gated(entered, leave)
    async with new_pool(1) as pool:
        async with aclosing(pool.stream(tool, source, look_ahead=20)) as results:
            await anext(results)
        assert source.closed
        before = source.drawn
        await pool.run(tool, [0])
        assert source.drawn == before
        assert pool.stats().items < 20


async def test_a_cancelled_run_closes_a_source_that_waits(rt, new_pool):
    closed = []

    async def source():
        try:
            yield 1
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            closed.append(True)

    async with new_pool() as pool:
        with pytest.raises(TimeoutError):
            await pool.run(sample_tools.Square(), source(), timeout=0.2)
        assert closed == [True]


async def test_a_source_that_will_not_close_is_left_after_a_while(
    rt, monkeypatch, caplog, new_pool
):
    monkeypatch.setattr("asyncgpu.tools.intake._CLOSE_SECONDS", 0.05)

    async def source():
        try:
            while True:
                yield 1
        finally:
            await anyio.sleep_forever()

    async with (
        new_pool() as pool,
        aclosing(pool.stream(sample_tools.Square(), source())) as results,
    ):
        await anext(results)
    assert "was not closed within" in caplog.text


async def test_a_source_is_drawn_and_closed_in_one_task_with_the_caller_s_variables(rt, new_pool):
    tasks = set()

    async def source():
        try:
            async with anyio.create_task_group():  # would be torn apart by a change of task
                for number in range(5):
                    tasks.add(anyio.get_current_task().id)
                    assert asyncgpu.current_runtime() is rt
                    yield number
        finally:
            tasks.add(anyio.get_current_task().id)

    async with (
        new_pool() as pool,
        aclosing(pool.stream(sample_tools.Square(), source(), look_ahead=2)) as results,
    ):
        async for result in results:
            if result.index == 3:
                break
    assert len(tasks) == 1


async def test_one_pool_s_results_may_be_another_one_s_items(rt, new_pool):
    async with new_pool() as pool:
        squares = pool.stream(sample_tools.Square(), range(20), ordered=True)
        values = (result.value async for result in squares)
        answers = await pool.run(sample_tools.Square(offset=1), values)
    assert answers == [i**4 + 1 for i in range(20)]


async def test_a_worker_killed_in_mid_run_loses_nothing(rt, tmp_path):
    async with ToolPool(1) as pool:
        tool = sample_tools.DiesOnce(str(tmp_path / "mark"))
        assert await pool.run(tool, Source(range(20))) == list(range(1, 21))


async def test_a_tool_that_cannot_be_loaded_ends_the_run_with_the_reason(rt, new_pool):
    source = Source(endless())
    async with new_pool() as pool:
        with pytest.raises(asyncgpu.ToolFailed, match="no such checkpoint"):
            await pool.run(sample_tools.LoadsBadly(), source)
        assert source.closed
        with pytest.raises(asyncgpu.ToolFailed, match="no such checkpoint"):
            async for _ in pool.stream(sample_tools.LoadsBadly(), Source(endless())):
                pass


async def test_a_full_queue_refuses_the_source_and_closes_it(rt, gates, new_pool):
    entered, leave = gates
    tool = sample_tools.Gated(entered, leave)
    source = Source(range(3))
    async with new_pool(1, max_queue=1) as pool, anyio.create_task_group() as tasks:
        tasks.start_soon(pool.call, tool, 0)
        await entered.wait()
        tasks.start_soon(pool.call, tool, 1)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(asyncgpu.AdmissionRejected):
            await pool.run(tool, source)
        assert (source.drawn, source.closed) == (0, True)
        leave.open()


async def test_a_pool_closed_under_a_stream_ends_it_with_the_reason(rt, new_pool):
    source = Source(endless())
    pool = new_pool(1)
    async with pool:
        results = pool.stream(sample_tools.Square(), source, look_ahead=4)
        await anext(results)
    with pytest.raises(asyncgpu.RequestError, match="closed before they were done"):
        async for _ in results:
            pass
    assert source.closed


async def test_progress_knows_no_total_until_the_source_has_ended(rt, new_pool):
    seen = []
    async with new_pool() as pool:
        await pool.run(sample_tools.Square(), Source(range(9)), progress=seen.append)
    assert seen[0].total is None
    assert not seen[0].finished
    assert (seen[-1].done, seen[-1].total, seen[-1].finished) == (9, 9, True)


async def test_a_hundred_thousand_items_are_served_in_bounded_memory(rt, anyio_backend_name):
    """An endless source, left after 100k items; what exists at any time stays near the window."""
    enough = 100_000 if anyio_backend_name == "asyncio" else 20_000  # what is tested is ours

    class Item:
        alive = 0
        most = 0

        def __init__(self, number):
            self.number = number
            Item.alive += 1
            Item.most = max(Item.most, Item.alive)

        def __del__(self):
            Item.alive -= 1

        def __reduce__(self):
            return (int, (self.number,))

    count = 0
    async with ToolPool() as pool:
        items = (Item(number) for number in endless())
        async with aclosing(
            pool.stream(sample_tools.Echo(), items, look_ahead=2000, progress=lambda _: None)
        ) as results:
            async for _ in results:
                count += 1
                if count == enough:
                    break
        # What is on its way to a worker may be held a little longer than until its answer.
        assert Item.most <= 2 * 2000
    gc.collect()
    assert Item.alive == 0


@pytest.mark.parametrize("look_ahead", [0, -1, True, 1.5, "8"])
async def test_a_look_ahead_that_means_nothing_is_refused(rt, look_ahead, new_pool):
    async with new_pool() as pool:
        with pytest.raises(asyncgpu.InvalidRequest, match="look_ahead"):
            await pool.run(sample_tools.Square(), [1], look_ahead=look_ahead)


async def test_many_runs_of_lists_and_sources_share_a_pool(rt):
    chance = random.Random(5)
    answers = {}

    async def run(pool, number):
        items = [chance.randrange(50) for _ in range(100)]
        source = Source(items) if number % 2 else items
        expected = [item * item for item in items]
        answers[number] = await pool.run(sample_tools.Square(), source) == expected

    async with ToolPool() as pool, anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(run, pool, number)
    assert all(answers.values())
    assert len(answers) == 10
