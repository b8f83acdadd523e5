"""`ResultCache`: equal items are computed once, whoever asks, and everybody has his own copy.

The scenario names (SC04, ...) are those of the acceptance scenarios for caching.
"""

from __future__ import annotations

import threading
from contextlib import aclosing
from functools import partial

import anyio
import anyio.lowlevel
import pytest
import sample_tools
import torch

import asyncgpu
from asyncgpu import ResultCache, ToolPool
from asyncgpu.tools import parcel as parcels
from asyncgpu.tools import share as shares
from asyncgpu.tools.parcel import SMALL, Packer

pytestmark = pytest.mark.anyio


@pytest.fixture
def cache():
    return ResultCache("64MiB")


async def test_a_second_run_computes_nothing(rt, cache):
    async with ToolPool(cache=cache) as pool:
        first = await pool.run(sample_tools.Square(), range(100))
        assert await pool.run(sample_tools.Square(), range(100)) == first
        stats = pool.stats()
    assert stats.items == 100
    assert (stats.cache.misses, stats.cache.hits, stats.cache.entries) == (100, 100, 100)


async def test_without_a_cache_everything_is_computed_again(rt):
    """The control of the test before: it is the cache that saves the work."""
    async with ToolPool() as pool:
        for _ in range(2):
            await pool.run(sample_tools.Square(), range(100))
        assert pool.stats().items == 200
        assert pool.stats().cache is None


async def test_runs_streams_calls_and_sources_share_answers(rt, cache):
    tool = sample_tools.Square()
    async with ToolPool(cache=cache) as pool:
        await pool.run(tool, [1, 2, 3])
        assert await pool.call(tool, 2) == 4
        results = {r.index: r.value async for r in pool.stream(tool, iter([3, 4]))}
        assert results == {0: 9, 1: 16}
        assert await pool.call(tool, 4) == 16
        assert pool.stats().items == 4


async def test_sc02_another_configuration_or_type_is_another_answer(rt, cache):
    async with ToolPool(cache=cache) as pool:
        assert await pool.call(sample_tools.Square(), 3) == 9
        assert await pool.call(sample_tools.Square(offset=1), 3) == 10
        assert [repr(await pool.call(sample_tools.Square(), x)) for x in (1, True, 1.0)] == [
            "1", "1", "1.0"
        ]  # fmt: skip
        assert cache.stats().hits == 0


async def test_sc04_whoever_changes_his_answer_changes_nobody_else_s(rt, cache):
    async with ToolPool(cache=cache) as pool:
        one, twin = await pool.run(sample_tools.Lists(), ["a", "a"])
        one.append("changed")
        kept = await pool.call(sample_tools.Lists(), "a")
        kept.append("changed too")
        assert twin == ["a"]
        assert await pool.run(sample_tools.Lists(), ["a"]) == [["a"]]
        assert pool.stats().items == 1


@pytest.mark.parametrize("tool", [sample_tools.Ones("numpy"), sample_tools.Ones("torch")])
async def test_sc04_holds_for_large_arrays_which_stay_writable(rt, cache, tool):
    async with ToolPool(cache=cache) as pool:
        first = await pool.call(tool, 4)
        first[:] = 7
        second = await pool.call(tool, 4)
        assert (int(second[0]), int(second[-1])) == (1, 1)
        second[:] = 8
        assert int((await pool.run(tool, [4]))[0].max()) == 1
        assert pool.stats().items == 1
        assert 4 << 20 <= cache.stats().bytes < (4 << 20) + 4096


async def test_sc05_none_is_an_answer_like_any_other(rt, cache):
    async with ToolPool(cache=cache) as pool:
        for _ in range(2):
            assert await pool.run(sample_tools.Nothing(), ["a"]) == [None]
        assert pool.stats().items == 1


async def in_flight(pool, tool, gates, *calls):
    """Start the calls, one after the other, and open the gate when all of them wait."""
    entered, leave = gates
    answers = [None] * len(calls)

    async def run(number, call):
        answers[number] = await call()

    async with anyio.create_task_group() as tasks:
        for number, call in enumerate(calls):
            tasks.start_soon(run, number, call)
            await entered.wait()
        await anyio.wait_all_tasks_blocked()
        leave.open()
    return answers


async def test_sc06_equal_calls_in_flight_are_one_computation(rt, cache, gates):
    tool = sample_tools.GatedLists(*gates)
    async with ToolPool(cache=cache) as pool:
        answers = await in_flight(
            pool,
            tool,
            gates,
            partial(pool.call, tool, "x"),
            partial(pool.call, tool, "x"),
            partial(pool.run, tool, ["x"]),
            partial(pool.run, tool, iter(["x"])),
        )
        assert answers == [["x"], ["x"], [["x"]], [["x"]]]
        assert len({id(answer) for answer in answers}) == 4
        assert pool.stats().items == 1
        assert (pool.stats().cache.misses, pool.stats().cache.shared) == (1, 3)


async def test_sc06_control_without_a_cache_each_of_them_is_computed(rt, gates):
    tool = sample_tools.GatedLists(*gates)
    async with ToolPool() as pool:
        calls = [partial(pool.call, tool, "x"), partial(pool.run, tool, ["x"])]
        assert await in_flight(pool, tool, gates, *calls) == [["x"], [["x"]]]
        assert pool.stats().items == 2


async def test_a_cache_of_no_bytes_still_joins_what_is_in_flight(rt, gates):
    cache = ResultCache(0)
    tool = sample_tools.GatedLists(*gates)
    async with ToolPool(cache=cache) as pool:
        calls = [partial(pool.call, tool, "x")] * 3
        assert await in_flight(pool, tool, gates, *calls) == [["x"]] * 3
        assert pool.stats().items == 1
        await pool.call(tool, "x")
        assert pool.stats().items == 2
        assert cache.stats().entries == cache.stats().bytes == 0


@pytest.mark.parametrize(
    ("leader", "follower"), [("call", "run"), ("run", "call"), ("stream", "run")]
)
async def test_sc06_a_cancelled_leader_hands_the_work_to_a_follower(
    rt, cache, gates, leader, follower
):
    entered, leave = gates
    tool = sample_tools.GatedLists(entered, leave)
    answers = []

    async def lead(pool):
        if leader == "call":
            await pool.call(tool, "x", priority=1)
        elif leader == "run":
            await pool.run(tool, ["x"])
        else:
            async with aclosing(pool.stream(tool, ["x"])) as results:
                await anext(results)

    async def follow(pool):
        if follower == "call":
            answers.append(await pool.call(tool, "x"))
        else:
            answers.extend(await pool.run(tool, ["x"]))

    async with ToolPool(cache=cache) as pool, anyio.create_task_group() as tasks:
        leading = anyio.CancelScope()

        async def scoped():
            with leading:
                await lead(pool)

        tasks.start_soon(scoped)
        await entered.wait()
        tasks.start_soon(follow, pool)
        await anyio.wait_all_tasks_blocked()
        leading.cancel()
        await anyio.wait_all_tasks_blocked()
        leave.open()
    assert answers == [["x"]]
    assert cache.answers.in_flight == 0


async def test_a_failed_leader_does_not_fail_its_followers(rt, cache, gates, tmp_path):
    entered, leave = gates
    tool = sample_tools.FailsOnce(entered, leave, str(tmp_path / "mark"))
    outcomes = []

    async def call(pool):
        try:
            outcomes.append(await pool.call(tool, "x"))
        except asyncgpu.ToolFailed:
            outcomes.append("failed")

    async with ToolPool(cache=cache) as pool, anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(call, pool)
        await entered.wait()
        await anyio.wait_all_tasks_blocked()
        leave.open()
    assert sorted(outcomes) == ["failed", "x", "x"]


async def test_errors_are_not_kept(rt, cache):
    async with ToolPool(cache=cache) as pool:
        for _ in range(2):
            with pytest.raises(asyncgpu.ToolFailed):
                await pool.call(sample_tools.Poison(), "bad")
        assert cache.stats().entries == 0
        assert cache.stats().misses == 2


async def test_sp22_after_a_failure_only_what_failed_is_computed_again(rt, cache):
    items = ["j", "k", "b", "b", "bad", "c", "d"]
    async with ToolPool(cache=cache) as pool:
        await pool.run(sample_tools.Poison(), ["j", "k"])
        before = cache.stats().misses
        with pytest.raises(asyncgpu.PartialFailure) as caught:
            await pool.run(sample_tools.Poison(), items)
        assert list(caught.value.errors) == [4]
        assert cache.stats().misses == before + 4  # b, bad, c, d
        answers = await pool.run(sample_tools.Poison(), items, on_error="collect")
        assert cache.stats().misses == before + 5
        assert [a for a in answers if isinstance(a, str)] == ["j!", "k!", "b!", "b!", "c!", "d!"]


async def test_sp26_what_was_computed_before_a_cancel_is_kept(rt, cache):
    tool = sample_tools.Square()
    async with ToolPool(1, cache=cache) as pool:
        async with aclosing(pool.stream(tool, range(8), ordered=True)) as results:
            await anext(results)
            await anext(results)
        kept = cache.stats().entries
        assert kept >= 2
        await pool.run(tool, range(8))
        assert cache.stats().hits >= kept


async def test_tools_that_are_not_deterministic_and_seeded_runs_are_never_kept(rt, cache):
    async with ToolPool(cache=cache) as pool:
        for _ in range(2):
            await pool.run(sample_tools.Echo(), [1, 2])
            await pool.call(sample_tools.Echo(), 1)
            await pool.run(sample_tools.Seeded(), ["x"], seed=1)
        assert cache.stats() == ResultCache("64MiB").stats()


async def test_items_that_may_change_are_not_kept_unless_the_tool_has_a_key(rt, cache):
    tensor = torch.zeros(1)
    async with ToolPool(cache=cache) as pool:
        assert (await pool.call(sample_tools.Lists(), tensor))[0].item() == 0
        tensor += 1
        assert (await pool.call(sample_tools.Lists(), tensor))[0].item() == 1
        assert cache.stats().misses == 0
        for _ in range(2):
            await pool.call(sample_tools.Keyed(), [3])
        assert (cache.stats().misses, cache.stats().hits) == (1, 1)


async def test_the_least_recently_used_answers_make_room(rt):
    cache = ResultCache("9MiB")
    async with ToolPool(cache=cache) as pool:
        await pool.run(sample_tools.Blobs(), [2, 3])
        await pool.call(sample_tools.Blobs(), 2)  # used again, so that 3 is the older one
        await pool.call(sample_tools.Blobs(), 4)
        assert cache.stats().evictions == 1
        before = cache.stats().misses
        await pool.run(sample_tools.Blobs(), [2, 4])
        assert cache.stats().misses == before
        await pool.call(sample_tools.Blobs(), 3)
        assert cache.stats().misses == before + 1
        assert cache.stats().bytes <= 9 << 20


async def test_an_answer_larger_than_the_cache_is_given_and_not_kept(rt):
    cache = ResultCache("1MiB")
    async with ToolPool(cache=cache) as pool:
        await pool.call(sample_tools.Square(), 1)
        assert len(await pool.call(sample_tools.Blobs(), 2)) == 2 << 20
        assert (cache.stats().entries, cache.stats().unkept) == (1, 1)


async def test_large_answers_are_packed_and_opened_beside_the_loop(rt, cache, monkeypatch):
    loop = threading.get_ident()
    in_loop, elsewhere = [], []

    def spy(parcel):
        (in_loop if threading.get_ident() == loop else elsewhere).append(parcel.nbytes)
        return parcel

    pack, unpack = Packer._pack, parcels.unpack
    monkeypatch.setattr(Packer, "_pack", lambda *args: (parcel := pack(*args)) and spy(parcel))
    for module in (parcels, shares):
        monkeypatch.setattr(module, "unpack", lambda parcel: unpack(spy(parcel)))
    async with ToolPool(cache=cache) as pool:
        for _ in range(2):
            assert len(await pool.call(sample_tools.Blobs(), 2)) == 2 << 20
            assert len((await pool.run(sample_tools.Blobs(), [3]))[0]) == 3 << 20
        await pool.run(sample_tools.Lists(), ["a"])
        await pool.run(sample_tools.Lists(), ["a"])
    assert len(elsewhere) == 4
    assert len(in_loop) == 2
    assert max(in_loop) <= SMALL < min(elsewhere)


async def test_a_run_ends_when_its_last_large_answer_is_there(rt, cache):
    """The last micro-batch is back some time before its answers are packed."""
    async with ToolPool(cache=cache) as pool:
        answers = await pool.run(sample_tools.Blobs(), [1, 2, 3, 4])
        assert [len(answer) for answer in answers] == [n << 20 for n in (1, 2, 3, 4)]
        assert (cache.answers.in_flight, cache.stats().entries) == (0, 4)


async def test_clear_forgets_all_or_one_tool_s_answers(rt, cache):
    one, other = sample_tools.Square(), sample_tools.Square(offset=1)
    async with ToolPool(cache=cache) as pool:
        for tool in (one, other):
            await pool.run(tool, range(5))
        cache.clear(sample_tools.Square())
        assert cache.stats().entries == 5
        await pool.run(other, range(5))
        assert cache.stats().hits == 5
        cache.clear()
        assert (cache.stats().entries, cache.stats().bytes) == (0, 0)


async def test_a_tool_without_lasting_identity_has_answers_of_its_own(rt, cache):
    one, other = sample_tools.Labelled(object()), sample_tools.Labelled(object())
    async with ToolPool(cache=cache) as pool:
        for tool in (one, other, one):
            await pool.call(tool, 1)
        assert (cache.stats().misses, cache.stats().hits) == (2, 1)
        cache.clear(one)
        assert cache.stats().entries == 1


async def test_two_pools_share_one_cache_and_it_outlives_them(rt, cache):
    async with ToolPool(1, cache=cache) as one:
        await one.run(sample_tools.Square(), range(10))
    async with ToolPool(1, cache=cache) as one, ToolPool(1, cache=cache) as other:
        await one.run(sample_tools.Square(), range(10))
        await other.run(sample_tools.Square(), range(10))
        assert one.stats().items == other.stats().items == 0
        assert cache.stats().hits == 20


async def test_a_follower_goes_on_when_the_leader_s_pool_is_closed(rt, cache, gates):
    entered, leave = gates
    tool = sample_tools.GatedLists(entered, leave)
    answers = []

    async def lead(pool):
        with pytest.raises(asyncgpu.RequestError):
            await pool.call(tool, "x")

    async def follow(pool):
        answers.append(await pool.call(tool, "x"))

    async with ToolPool(1, cache=cache) as lasting, anyio.create_task_group() as tasks:
        async with ToolPool(1, cache=cache) as closing:
            tasks.start_soon(lead, closing)
            await entered.wait()
            tasks.start_soon(follow, lasting)
            await anyio.wait_all_tasks_blocked()
        leave.open()
    assert answers == [["x"]]


async def test_progress_counts_items_from_the_cache(rt, cache):
    seen = []
    async with ToolPool(cache=cache) as pool:
        await pool.run(sample_tools.Square(), range(5))
        await pool.run(sample_tools.Square(), range(10), progress=seen.append)
    assert (seen[-1].done, seen[-1].total) == (10, 10)


async def test_a_full_hit_starts_no_worker(rt, cache):
    async with ToolPool(cache=cache) as pool:
        await pool.run(sample_tools.Square(), range(5))
    async with ToolPool(cache=cache) as pool:
        assert await pool.run(sample_tools.Square(), range(5)) == [0, 1, 4, 9, 16]
        assert all(slot.pid is None for slot in pool.stats().slots)


async def test_bad_input_is_refused_before_anything_is_started(rt, cache):
    async with ToolPool(cache=cache) as pool:
        with pytest.raises(asyncgpu.InvalidRequest, match="cost of item 1"):
            await pool.run(sample_tools.Stingy(), [1, -1, 2])
        assert cache.stats().misses == 0
        assert pool.stats().items == 0
    with pytest.raises(asyncgpu.InvalidRequest, match="not a ResultCache"):
        ToolPool(cache=True)
    with pytest.raises(asyncgpu.InvalidRequest, match="max_bytes"):
        ResultCache("much")


async def test_many_runs_with_one_cache_each_get_what_they_asked_for(rt, cache):
    async def run(pool, number):
        items = [(item * 7 + number) % 60 for item in range(60)]
        source = items if number % 2 else iter(items)
        answers = await pool.run(sample_tools.Square(), source)
        assert answers == [item * item for item in items]

    async with ToolPool(cache=cache) as pool, anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(run, pool, number)
    assert cache.stats().misses == 60
    assert cache.stats().hits + cache.stats().shared == 7 * 60
