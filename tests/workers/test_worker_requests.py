"""Requests and replies of a running worker: values, order, bulk memory, errors."""

from __future__ import annotations

import math
import threading

import anyio
import numpy as np
import pytest
import torch
from worker_tools import (
    Calls,
    Echo,
    FailsToLoad,
    Moves,
    Named,
    TwoArguments,
    UnreadableThere,
    a_lock,
    fail,
)

from asyncgpu.errors import InvalidRequest, ToolFailed

pytestmark = pytest.mark.anyio

MIB = 1 << 20

# What happens to memory does not depend on the event loop.
one_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])


async def send(channel, value):
    with anyio.fail_after(30):
        reply = await channel.submit([value])
    if reply.error is not None:
        raise reply.error
    return reply.value[0]


# ------------------------------------------------------------------------------- values


async def test_values_come_back_as_they_were(echo):
    values = [None, 1, "a\n\x00é", b"\x00\xff" * 1000, {"k": [(1, {2})]}, -0.0, math.inf, 2**100]
    assert (await echo.submit(values)).value == values
    nan = await send(echo, math.nan)
    assert math.isnan(nan)


async def test_many_requests_in_flight_are_answered_in_order(echo):
    order = []
    promises = [echo.submit([index]) for index in range(500)]
    for index, promise in enumerate(promises):
        promise.add_done_callback(lambda _, index=index: order.append(index))
    with anyio.fail_after(30):
        replies = [await promise for promise in promises]
        await echo.statistics()
    assert [reply.value for reply in replies] == [[index] for index in range(500)]
    assert order == [*range(500)]


async def test_order_holds_across_large_and_small_requests(echo):
    sizes = [3 * MIB, 1, 5 * MIB, 2, 100_000, 3]
    promises = [echo.submit([np.full(size, index, np.uint8)]) for index, size in enumerate(sizes)]
    with anyio.fail_after(30):
        for index, (promise, size) in enumerate(zip(promises, sizes, strict=True)):
            (array,) = (await promise).value
            assert array.size == size
            assert (array == index).all()


async def test_ten_thousand_tiny_items_go_in_one_request(echo):
    items = list(range(10_000))
    assert (await echo.submit(items)).value == items


# -------------------------------------------------------------------------- bulk memory


async def test_arrays_go_through_the_arena_both_ways(echo):
    await there_and_back(echo, 2 * MIB)


@one_loop
async def test_large_arrays_go_through_the_arena_both_ways(echo):
    await there_and_back(echo, 64 * MIB)


async def there_and_back(echo, size):
    array = np.random.default_rng(0).integers(0, 255, size, np.uint8)
    back = await send(echo, array)
    assert np.array_equal(back, array)
    assert back.flags.writeable
    # Held by `back`, in the arena of the way home; that of the way there is free again.
    assert echo.exchange.inbound.held == array.nbytes
    assert echo.exchange.outbound.used == 0


@one_loop
async def test_the_arena_is_reused(echo):
    # More than it could hold at once, were anything kept.
    for value in range(40):
        back = await send(echo, np.full(16 * MIB, value, np.uint8))
        assert back[0] == back[-1] == value
    del back
    await send(echo, 0)
    assert echo.exchange.outbound.used == echo.exchange.inbound.held == 0


@one_loop
async def test_read_only_and_strided_arrays_cross_too(echo):
    array = np.arange(4 * MIB, dtype=np.uint8)
    array.flags.writeable = False
    back = await send(echo, array)
    assert np.array_equal(back, array)
    strided = np.arange(6 * MIB).reshape(3, -1)[:, ::2]
    assert np.array_equal(await send(echo, strided), strided)


@one_loop
async def test_results_kept_for_ever_do_not_stop_the_traffic(transport, start):
    transport._arena_bytes = 32 * MIB
    small = await start(Echo())
    kept = [await send(small, np.full(8 * MIB, index, np.uint8)) for index in range(12)]
    assert [int(array[0]) for array in kept] == [*range(12)]
    assert [int(array[-1]) for array in kept] == [*range(12)]
    assert 0 < small.exchange.inbound.held <= 16 * MIB


@one_loop
async def test_more_than_the_arena_holds_goes_through_the_socket(transport, start):
    transport._arena_bytes = MIB
    channel = await start(Echo())
    array = np.random.default_rng(0).integers(0, 255, 3 * MIB, np.uint8)
    assert np.array_equal(await send(channel, array), array)
    text = "x" * (3 * MIB)
    assert await send(channel, text) == text


@one_loop
async def test_a_large_pickle_crosses_without_a_buffer(echo):
    value = [{"index": index, "text": f"line {index}"} for index in range(20_000)]
    assert await send(echo, value) == value
    assert echo.exchange.outbound.used == 0


@one_loop
async def test_a_thousand_arrays_go_in_one_request(echo):
    items = [np.full(40_000, index % 256, np.uint8) for index in range(1000)]
    reply = await echo.submit(items)
    assert [array[-1] for array in reply.value] == [index % 256 for index in range(1000)]
    assert echo.exchange.outbound.used == echo.exchange.inbound.held == 0


async def test_a_caller_who_leaves_frees_the_memory(echo):
    with anyio.move_on_after(0):
        await echo.submit([np.zeros(8 * MIB, np.uint8)])
    assert await send(echo, 1) == 1
    await send(echo, 2)
    assert echo.exchange.inbound.held == 0


@one_loop
async def test_tensors_cross_out_of_band(echo):
    for dtype in (torch.float32, torch.bfloat16, torch.bool, torch.complex64):
        tensor = torch.randn(300, 2000).to(dtype)
        back = await send(echo, tensor)
        assert back.dtype is dtype
        assert torch.equal(back, tensor)
        assert echo.exchange.inbound.held >= tensor.nbytes
    # Bit for bit, which a comparison of NaNs cannot tell.
    bits = torch.tensor([0x7FC00001, 0x7F800001, -1], dtype=torch.int32)
    assert torch.equal((await send(echo, bits.view(torch.float32))).view(torch.int32), bits)
    value = {"t": [torch.arange(3.0), (np.arange(4), b"x")], "n": {"deep": torch.zeros(0, 2)}}
    back = await send(echo, value)
    assert torch.equal(back["t"][0], value["t"][0])
    assert back["t"][1][0].tolist() == [0, 1, 2, 3]
    assert back["n"]["deep"].shape == (0, 2)


# -------------------------------------------------------------------- load, move, seeds


async def test_load_and_move_name_the_devices(start):
    channel = await start(Moves(), devices=["cuda:0", "cuda:1"])
    assert (await channel.move(["cpu"])).error is None
    ((places, devices),) = (await channel.submit([0])).value
    assert places == [
        ("cuda:0", ("cuda:0", "cuda:1")),
        ("cpu", ("cuda:0", "cuda:1")),
    ]
    assert devices == ("cpu",)


async def test_a_load_that_fails_is_a_reply_and_may_be_tried_again(start):
    channel = await start()
    reply = await channel.load(FailsToLoad(), ["cuda:0"])
    assert isinstance(reply.error, ToolFailed)
    assert "no weights for cuda:0" in str(reply.error)
    assert (await channel.load(Echo(), ["cpu"])).error is None
    assert await send(channel, 1) == 1


async def test_the_time_spent_in_the_tool_is_told(echo):
    reply = await echo.submit([1])
    assert 0 < reply.seconds < 10


# ------------------------------------------------------------------------------- errors


async def test_an_exception_arrives_with_its_traceback_and_itself(start):
    channel = await start(Calls())
    error = (await channel.submit([[fail, ValueError, "bad item"]])).error
    assert isinstance(error, ToolFailed)
    assert error.tool == "Calls"
    assert error.exception_type == "ValueError"
    assert error.message == "bad item"
    assert "in fail" in error.remote_traceback
    assert isinstance(error.__cause__, ValueError)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
async def test_exceptions_that_end_programs_do_not_end_a_worker(start, kind):
    channel = await start(Calls())
    error = (await channel.submit([[fail, kind, 3]])).error
    assert isinstance(error, ToolFailed)
    assert error.exception_type == kind.__name__
    assert (await channel.submit([[len, "ab"]])).value == [2]


async def test_an_exception_that_cannot_be_unpickled_arrives_as_text(start):
    channel = await start(Calls())
    error = (await channel.submit([[fail, TwoArguments, "hole", "wall"]])).error
    assert isinstance(error, ToolFailed)
    assert error.message == "hole in wall"
    assert error.__cause__ is None


async def test_a_result_that_cannot_be_sent_names_its_type_and_spares_the_worker(start):
    channel = await start(Calls())
    error = (await channel.submit([[len, "ab"], [a_lock]])).error
    assert isinstance(error, ToolFailed)
    assert "result of type lock cannot be sent" in error.message
    assert (await channel.submit([[len, "ab"]])).value == [2]


async def test_items_that_cannot_be_sent_are_refused_here(echo):
    error = (await echo.submit([threading.Lock()])).error
    assert isinstance(error, InvalidRequest)
    assert "lock" in str(error)
    assert await send(echo, 1) == 1


async def test_items_that_cannot_be_read_there_are_an_error_of_the_request(echo):
    error = (await echo.submit([UnreadableThere()])).error
    assert isinstance(error, ToolFailed)
    assert "not in a worker" in error.message
    assert await send(echo, 1) == 1


async def test_a_wrong_number_of_results_names_both_numbers(start):
    class Miscounts(Echo):
        def run(self, items):
            return items[1:]

    channel = await start(Miscounts())
    error = (await channel.submit([1, 2, 3])).error
    assert isinstance(error, ToolFailed)
    assert "2 results for 3 items" in error.message


async def test_errors_name_the_tool_as_it_names_itself(start):
    channel = await start(Named())
    error = (await channel.submit([UnreadableThere()])).error
    assert error.tool == "the named one"


@one_loop
async def test_a_failed_request_frees_its_memory(start):
    channel = await start(Calls())
    bulk = np.zeros(8 * MIB, np.uint8)
    for _ in range(3):
        assert (await channel.submit([[fail, ValueError, bulk]])).error is not None
    await channel.submit([[len, "ab"]])
    assert channel.exchange.outbound.used == 0
