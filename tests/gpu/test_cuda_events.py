"""Events, streams and adoption on real CUDA.

A stream is held by CUDA itself, so what a test sees while it is held is certain. Kernels are loaded
and memory is allocated before that: CUDA may synchronise the device for either, and would then wait
for the stream that is held.
"""

from __future__ import annotations

import threading
import time
import weakref

import anyio
import pytest
import torch

from asyncgpu import QoSPolicy, Runtime, context_session, get_stream, record_event, wait_event
from asyncgpu.drivers.virtual.driver import VirtualDriver
from asyncgpu.errors import InvalidRequest

from .cuda_rig import opened_rig

pytestmark = [pytest.mark.gpu, pytest.mark.anyio]

# About a fifth of a second on any GPU of this decade.
LONG = 300_000_000


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def rig():
    yield from opened_rig()


@pytest.fixture
async def runtime(rig):
    async with Runtime(driver="cuda") as opened:
        yield opened


@pytest.fixture
async def pair(runtime):
    """A producer and a consumer."""
    return [await runtime.create_context(name) for name in ("producer", "consumer")]


class Exchange:
    """A batch that the producer fills with ones, and what the consumer reads of it."""

    def __init__(self):
        self.batch = torch.zeros(1024, device="cuda")
        self._sum = torch.zeros((), device="cuda")
        self._read = torch.full((), -1.0).pin_memory()
        self.produce()
        self.consume(self.batch)
        torch.cuda.synchronize()
        self.batch.zero_()
        torch.cuda.synchronize()

    def produce(self):
        self.batch.fill_(1)

    def consume(self, batch):
        torch.sum(batch, dim=0, out=self._sum)
        self._read.copy_(self._sum, non_blocking=True)

    @property
    def read(self):
        """What the consumer has read; only once its stream is done."""
        return self._read.item()


# -------------------------------------------------------------------------------- events


async def test_control_without_the_wait_the_consumer_reads_incomplete_data(rig, pair):
    producer, consumer = pair
    exchange = Exchange()
    release = rig.hold(producer.stream.driver_stream)
    async with context_session(producer, synchronize=False):
        exchange.produce()
    async with context_session(consumer):
        exchange.consume(exchange.batch)
    assert exchange.read == 0
    release()
    await producer.synchronize()


async def test_s3_with_the_wait_the_data_is_complete_and_the_host_goes_on(rig, pair):
    producer, consumer = pair
    exchange = Exchange()
    release = rig.hold(producer.stream.driver_stream)
    async with context_session(producer, synchronize=False):
        exchange.produce()
        ready = record_event(producer)
    async with context_session(consumer, synchronize=False):
        exchange.consume(consumer.adopt(exchange.batch, ready))
        done = record_event(consumer)
    assert not ready.done()
    assert not done.done()
    release()
    await done
    assert exchange.read == 1024


async def test_a_long_kernel_shows_the_race_and_the_wait_ends_it(pair):
    """The same without a held stream: a kernel that takes a while is enough."""
    producer, consumer = pair
    exchange = Exchange()
    torch.cuda._sleep(1000)
    read = {}
    for waits in (False, True):
        async with context_session(producer, synchronize=False):
            torch.cuda._sleep(LONG)
            exchange.produce()
            ready = record_event(producer)
        async with context_session(consumer):
            if waits:
                wait_event(consumer, ready)
            exchange.consume(exchange.batch)
        read[waits] = exchange.read
        await ready
        exchange.batch.zero_()
        torch.cuda.synchronize()
    assert read == {False: 0, True: 1024}


async def test_a_chain_over_three_contexts(rig, runtime):
    contexts = [await runtime.create_context(name) for name in "abc"]
    number = torch.zeros((), device="cuda")
    number.mul_(10).add_(1)
    torch.cuda.synchronize()
    number.zero_()
    torch.cuda.synchronize()
    release = rig.hold(contexts[0].stream.driver_stream)
    for digit, ctx in enumerate(contexts, start=1):
        async with context_session(ctx, synchronize=False):
            number.mul_(10).add_(digit)
        if digit < 3:
            wait_event(contexts[digit], record_event(ctx))
    release()
    await contexts[-1].synchronize()
    assert number.item() == 123


async def test_s5_a_reached_event_and_s8_a_pending_one(rig, pair):
    producer, consumer = pair
    reached = record_event(producer)
    await reached
    wait_event(consumer, reached)
    release = rig.hold(producer.stream.driver_stream)
    pending, beats = record_event(producer), 0

    async def beat():
        nonlocal beats
        while beats < 20:
            await anyio.sleep(0.001)
            beats += 1
        release()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(beat)
        await pending
    assert beats == 20
    assert pending.done()


async def test_the_time_between_two_events_is_the_devices(pair):
    producer, _ = pair
    torch.cuda._sleep(1000)
    torch.cuda.synchronize()
    async with context_session(producer, synchronize=False):
        first = record_event(producer)
        began = time.perf_counter()
        torch.cuda._sleep(LONG)
        second = record_event(producer)
    await second
    assert 0.01 < second.elapsed_since(first) <= time.perf_counter() - began + 0.01


async def test_an_event_of_another_runtime_is_refused(pair):
    async with Runtime(driver=VirtualDriver.from_spec("1GiB")) as other:
        foreign = record_event(await other.create_context("elsewhere"))
        with pytest.raises(InvalidRequest, match="another runtime"):
            wait_event(pair[0], foreign)
        await foreign


# ------------------------------------------------------------------------------ adoption


async def test_control_without_adoption_the_producer_gets_its_memory_back_at_once(pair):
    """What `adopt` is for: the consumer's kernel could still be reading this."""
    producer, _ = pair
    async with context_session(producer, synchronize=False):
        keep, batch = (torch.empty(4096, device="cuda") for _ in range(2))
        address = batch.data_ptr()
        del batch
        assert torch.empty(4096, device="cuda").data_ptr() == address
        del keep


async def test_adopted_memory_is_not_given_out_again_before_the_consumer_is_done(rig, pair):
    producer, consumer = pair
    gone = threading.Event()
    async with context_session(producer, synchronize=False):
        keep, batch = (torch.empty(4096, device="cuda") for _ in range(2))
        ready = record_event(producer)
    await ready
    address = batch.data_ptr()
    weakref.finalize(batch.untyped_storage(), gone.set)
    release = rig.hold(consumer.stream.driver_stream)
    alias = consumer.adopt(batch, ready)
    view = alias.view(64, 64).T
    del batch, alias, view
    async with context_session(producer, synchronize=False):
        assert torch.empty(4096, device="cuda").data_ptr() != address
    assert not gone.is_set()
    release()
    assert await anyio.to_thread.run_sync(gone.wait, 20)
    async with context_session(producer, synchronize=False):
        assert torch.empty(4096, device="cuda").data_ptr() == address
    del keep


async def test_a_thousand_adoptions_give_all_memory_back(pair):
    producer, consumer = pair
    ends = []
    for _ in range(1000):
        async with context_session(producer, synchronize=False):
            batch = torch.ones(1 << 16, device="cuda")
            ready = record_event(producer)
        end = threading.Event()
        weakref.finalize(batch.untyped_storage(), end.set)
        ends.append(end)
        async with context_session(consumer, synchronize=False):
            total = consumer.adopt([batch], ready)[0].sum()
    await consumer.synchronize()
    assert total.item() == 1 << 16
    del batch
    for end in ends:
        assert await anyio.to_thread.run_sync(end.wait, 20)


async def test_a_tensor_that_is_not_on_the_device_is_refused(pair):
    with pytest.raises(InvalidRequest, match=r"tensors\[1\] is on cpu, not on cuda:0"):
        pair[1].adopt([torch.ones(1, device="cuda"), torch.ones(1)])


# ------------------------------------------------------------------------------- streams


async def test_two_hundred_contexts_have_two_hundred_streams(runtime):
    contexts = [await runtime.create_context(f"c{number}") for number in range(200)]
    assert len({get_stream(ctx).id for ctx in contexts}) == 200
    assert 0 not in {get_stream(ctx).id for ctx in contexts}


async def test_the_class_decides_the_priority(runtime):
    classes = (QoSPolicy.GUARANTEED, QoSPolicy.BURSTABLE, QoSPolicy.BEST_EFFORT)
    contexts = [
        await runtime.create_context(qos.name, qos=qos, max_vram="64MiB") for qos in classes
    ]
    priorities = [get_stream(ctx).priority for ctx in contexts]
    # Hardware with two priorities gives the middle class the upper one.
    assert priorities == sorted(priorities)
    assert priorities[0] < priorities[2]
    for ctx in contexts:
        async with context_session(ctx):
            assert torch.cuda.current_stream().priority == get_stream(ctx).priority


async def test_b13_b14_interleaved_sessions_launch_on_their_own_streams(rig, pair):
    seen = {ctx.name: set() for ctx in pair}

    async def launch(ctx):
        async with context_session(ctx):
            for _ in range(100):
                seen[ctx.name].add(torch.cuda.current_stream().cuda_stream)
                await anyio.sleep(0)

    async with anyio.create_task_group() as tasks:
        for ctx in pair:
            tasks.start_soon(launch, ctx)
    assert seen == {ctx.name: {get_stream(ctx).id} for ctx in pair}
    assert torch.cuda.current_stream() == torch.cuda.default_stream()

    # And the work goes where torch says: one stream is held, the other one is not.
    held, free = pair
    exchange = Exchange()
    release = rig.hold(held.stream.driver_stream)
    async with context_session(held, synchronize=False):
        exchange.produce()
        behind = record_event(held)
    async with context_session(free):
        exchange.consume(exchange.batch)
    assert exchange.read == 0
    assert not behind.done()
    release()
    await behind


async def test_synchronize_blocks_its_thread_without_the_gil(rig, pair):
    """If it held it, nobody could release the stream."""
    release = rig.hold(pair[0].stream.driver_stream)
    entered = threading.Event()

    def synchronize():
        entered.set()
        get_stream(pair[0]).synchronize()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, synchronize)
        await anyio.to_thread.run_sync(entered.wait)
        release()
