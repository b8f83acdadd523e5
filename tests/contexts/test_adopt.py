"""Adoption: the consumer's data is complete, and its memory lives until its stream has passed.

Virtual streams run Python callables, so a "kernel" here is a function that reads or writes a tensor
when its stream comes to it. Like a real kernel it must not keep a tensor alive, so those that have
to do with lifetimes work on a raw address.
"""

from __future__ import annotations

import ctypes
import gc
import threading
import weakref
from collections import namedtuple
from dataclasses import dataclass

import anyio
import pytest
import torch

from asyncgpu.contexts.session import context_session
from asyncgpu.errors import ContextClosed, InvalidRequest

pytestmark = pytest.mark.anyio

LIMIT = 20


class Memory:
    """Sees whether the memory of a tensor is still there; keeps nothing of it alive."""

    def __init__(self, tensor):
        self._gone = threading.Event()
        self._storage = weakref.ref(tensor.untyped_storage(), lambda _: self._gone.set())

    @property
    def alive(self):
        return self._storage() is not None

    async def gone(self):
        """Wait until it has been given back."""
        assert await anyio.to_thread.run_sync(self._gone.wait, LIMIT), "the memory is still there"


@pytest.fixture
async def producer(registry):
    return await registry.create("producer")


@pytest.fixture
async def consumer(registry):
    return await registry.create("consumer")


def launch(ctx, kernel):
    ctx.stream.driver_stream.enqueue(kernel)


def launch_sum(ctx, tensor, results):
    """Let the stream sum up what is at the tensor's address when it comes to it."""
    address, count = tensor.data_ptr(), tensor.numel()
    launch(ctx, lambda: results.append(sum((ctypes.c_float * count).from_address(address))))


# ------------------------------------------------------------------------------ the wait


async def test_control_without_the_wait_the_consumer_reads_incomplete_data(
    producer, consumer, new_gate
):
    """The producer's kernel is held: what a consumer that does not wait sees is certain."""
    gate, seen = new_gate(), []
    gate.hold(producer)
    batch = torch.zeros(4)
    launch(producer, lambda: batch.fill_(1))
    alias = consumer.adopt(batch)
    launch_sum(consumer, alias, seen)
    await consumer.synchronize()
    assert seen == [0]
    gate.open()
    await producer.synchronize()
    assert alias.sum() == 4


async def test_with_the_wait_the_data_is_complete_and_the_host_goes_on(
    producer, consumer, new_gate
):
    gate, seen = new_gate(), []
    gate.hold(producer)
    async with context_session(producer, synchronize=False):
        batch = torch.zeros(4)
        launch(producer, lambda: batch.fill_(1))
        ready = producer.record_event()
    async with context_session(consumer, synchronize=False):
        alias = consumer.adopt(batch, ready)
        launch_sum(consumer, alias, seen)
    # Here with the producer's work still held: nothing above has blocked.
    assert not ready.done()
    assert seen == []
    gate.open()
    await consumer.synchronize()
    assert seen == [4]


async def test_an_alias_is_the_same_memory_with_the_same_shape(producer, consumer):
    whole = torch.arange(24.0).reshape(4, 6)
    for tensor in (whole, whole[1:, ::2], whole.T, whole[:0], torch.tensor(5), torch.empty(0, 3)):
        alias = consumer.adopt(tensor)
        assert alias is not tensor
        assert torch.equal(alias, tensor)
        assert (alias.data_ptr(), alias.stride()) == (tensor.data_ptr(), tensor.stride())
    consumer.adopt(whole)[0, 0] = 7
    assert whole[0, 0] == 7


async def test_every_type_of_number(consumer):
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float8_e4m3fn):
        tensor = torch.ones(3).to(dtype)
        assert torch.equal(consumer.adopt(tensor).float(), tensor.float())


async def test_lazily_conjugated_and_negated_tensors_stay_so(consumer):
    conjugated = torch.tensor([1 + 2j, 3 - 4j]).conj()
    for tensor in (conjugated, conjugated.imag):
        assert torch.equal(consumer.adopt(tensor), tensor)


async def test_tensors_that_share_memory_go_on_sharing_it(consumer):
    weight = torch.zeros(4)
    one, other = consumer.adopt((weight, weight[1:]))
    one[1] = 5
    assert other[0] == 5
    assert one.untyped_storage()._cdata == other.untyped_storage()._cdata


# -------------------------------------------------------------------------- the lifetime


async def test_memory_that_the_producer_drops_lives_until_the_consumers_event(
    producer, consumer, new_gate
):
    gate, seen = new_gate(), []
    batch = torch.full((4,), 2.0)
    memory = Memory(batch)
    gate.hold(consumer)
    alias = consumer.adopt(batch, producer.record_event())
    del batch
    assert memory.alive
    launch_sum(consumer, alias, seen)
    del alias
    late = consumer.record_event()
    # The gate is not open, so that the consumer's kernel is still to come.
    assert memory.alive
    gate.open()
    await late
    assert seen == [8]
    await memory.gone()


async def test_control_without_adoption_the_memory_goes_while_the_stream_is_held(
    consumer, new_gate
):
    gate = new_gate()
    gate.hold(consumer)
    batch = torch.zeros(4)
    memory = Memory(batch)
    del batch
    assert not memory.alive


async def test_an_idle_consumer_lets_go_without_being_asked(consumer):
    batch = torch.zeros(4)
    memory = Memory(batch)
    alias = consumer.adopt(batch)
    del batch, alias
    await memory.gone()


async def test_work_that_comes_after_the_last_drop_is_not_waited_for(consumer, new_gate):
    first, second = new_gate(), new_gate()
    batch = torch.zeros(4)
    memory = Memory(batch)
    first.hold(consumer)
    alias = consumer.adopt(batch)
    del batch, alias
    consumer.record_event()  # a decision point, and the next marker
    second.hold(consumer)
    assert memory.alive
    first.open()
    await memory.gone()


async def test_views_of_an_alias_keep_the_memory(consumer):
    batch = torch.arange(8.0)
    memory = Memory(batch)
    alias = consumer.adopt(batch)
    views = [alias[2:], alias.view(2, 4).T, alias.detach(), alias.numpy(), alias.untyped_storage()]
    del batch, alias
    while views:
        await consumer.synchronize()
        assert memory.alive
        views.pop()
    await memory.gone()


async def test_two_consumers_both_have_to_be_done(registry, consumer, new_gate):
    other, gate = await registry.create("other"), new_gate()
    batch = torch.zeros(4)
    memory = Memory(batch)
    gate.hold(other)
    aliases = [consumer.adopt(batch), other.adopt(batch)]
    del batch
    aliases.clear()
    await consumer.synchronize()
    assert memory.alive
    gate.open()
    await memory.gone()


async def test_a_chain_of_adoptions_is_let_go_from_its_end(registry, producer, consumer, new_gate):
    last, gate, seen = await registry.create("last"), new_gate(), []
    batch = torch.ones(4)
    memory = Memory(batch)
    gate.hold(last)
    first_alias = consumer.adopt(batch, producer.record_event())
    second_alias = last.adopt(first_alias, consumer.record_event())
    launch_sum(last, second_alias, seen)
    del batch, first_alias, second_alias
    await consumer.synchronize()
    assert memory.alive
    gate.open()
    await memory.gone()
    assert seen == [4]


async def test_a_last_drop_by_the_garbage_collector_in_another_thread(consumer):
    batch = torch.zeros(4)
    memory = Memory(batch)
    cycle = [consumer.adopt(batch)]
    cycle.append(cycle)
    del batch, cycle
    assert memory.alive
    await anyio.to_thread.run_sync(gc.collect)
    await memory.gone()


async def test_a_last_drop_under_any_of_our_locks(consumer):
    """The garbage collector may run in the middle of recording, in this very thread."""
    waiter, stream = consumer._core.waiter, consumer.stream.driver_stream
    for lock in (waiter._lock, stream._changed, consumer._core.activity._lock):
        batch = torch.zeros(4)
        memory = Memory(batch)
        alias = consumer.adopt(batch)
        del batch
        with lock:
            del alias
        await memory.gone()


async def test_a_thousand_adoptions_leave_nothing_behind(producer, consumer, new_gate):
    consumer.adopt(torch.zeros(1))
    finalisers = len(weakref.finalize._registry)
    memories, gate = [], new_gate()
    gate.hold(consumer)
    for _ in range(1000):
        batch = torch.zeros(4)
        memories.append(Memory(batch))
        alias = consumer.adopt({"x": batch}, producer.record_event())
    del batch, alias
    assert all(memory.alive for memory in memories)
    gate.open()
    for memory in memories:
        await memory.gone()
    await consumer.synchronize()
    assert len(weakref.finalize._registry) <= finalisers
    waiters = [thread.name for thread in threading.enumerate() if "waiter" in thread.name]
    assert waiters == ["asyncgpu consumer waiter"]
    assert len(consumer._core.waiter._unreached) <= 1
    assert consumer._core.waiter._asked_for == 0


# ------------------------------------------------- exceptions, cancellation, closing, faults


async def test_an_exception_keeps_the_memory_only_while_it_is_kept(consumer):
    batch = torch.zeros(4)
    memory = Memory(batch)

    async def use(lent):
        async with context_session(consumer):
            alias = consumer.adopt(lent)
            raise KeyError(alias.shape)

    with pytest.raises(KeyError) as caught:
        await use(batch)
    del batch
    assert memory.alive  # through the frames of the traceback
    del caught
    await memory.gone()


async def test_a_cancelled_consumer_lets_go_when_its_stream_is_done(consumer, new_gate):
    gate = new_gate()
    batch = torch.zeros(4)
    memory = Memory(batch)
    inside = anyio.Event()

    async def use(lent):
        async with context_session(consumer):
            alias = consumer.adopt(lent)
            gate.hold(consumer)
            inside.set()
            await anyio.sleep_forever()
            del alias

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(use, batch)
        await inside.wait()
        tasks.cancel_scope.cancel()
    del batch
    assert memory.alive
    gate.open()
    gc.collect()  # a cancellation may refer to the frames that it has passed
    await memory.gone()


async def test_closing_the_producer_takes_nothing_from_the_consumer(producer, consumer, new_gate):
    gate, seen = new_gate(), []
    batch = torch.ones(4)
    memory = Memory(batch)
    gate.hold(consumer)
    alias = consumer.adopt(batch, producer.record_event())
    del batch
    await producer.aclose()
    launch_sum(consumer, alias, seen)
    del alias
    assert memory.alive
    gate.open()
    await memory.gone()
    assert seen == [4]


async def test_closing_the_consumer_drains_what_was_let_go(consumer, new_gate):
    gate = new_gate()
    batch = torch.zeros(4)
    memory = Memory(batch)
    gate.hold(consumer)
    alias = consumer.adopt(batch)
    del batch, alias
    with pytest.raises(TimeoutError):
        await consumer.aclose(timeout=0)
    assert memory.alive
    gate.open()
    await consumer.aclose()
    assert not memory.alive


async def test_an_alias_outlives_its_context_and_is_then_let_go_at_once(producer, consumer):
    batch = torch.ones(4)
    memory = Memory(batch)
    alias = consumer.adopt(batch)
    del batch
    await consumer.aclose()
    await producer.aclose()
    assert alias.sum() == 4
    del alias
    assert not memory.alive


async def test_on_a_lost_device_closing_lets_go(driver, consumer):
    batch = torch.zeros(4)
    memory = Memory(batch)
    alias = consumer.adopt(batch)
    del batch
    driver.script.lose_device(0)
    del alias
    await consumer.aclose()
    assert not memory.alive


# -------------------------------------------------------------------------------- budget


async def test_adopted_memory_stays_charged_to_the_producer_until_it_is_released(
    producer, consumer, new_gate
):
    size, gate = 4 << 20, new_gate()
    before = producer.usage().used
    async with context_session(producer):
        batch = torch.zeros(size // 4)
    charged = producer.usage().used - before
    assert charged >= size
    memory = Memory(batch)
    gate.hold(consumer)
    async with context_session(consumer, synchronize=False):
        alias = consumer.adopt(batch)
        view = alias[1:].view(-1)
        assert consumer.usage().used == 0
    del batch, alias, view
    assert producer.usage().used - before == charged
    gate.open()
    await memory.gone()
    assert (producer.usage().used, consumer.usage().used) == (before, 0)


async def test_a_tensor_of_another_virtual_device_is_refused(registry, consumer):
    """torch calls both of them the CPU."""
    other = await registry.create("other", device="cuda:1")
    async with context_session(other):
        batch = torch.zeros(4)
    with pytest.raises(InvalidRequest, match="tensors is on cuda:1"):
        consumer.adopt(batch)


# --------------------------------------------------------------------------------- trees


Pair = namedtuple("Pair", ["left", "right"])


@dataclass(frozen=True, slots=True)
class Batch:
    tokens: torch.Tensor
    lengths: list
    label: str = "a"


async def test_trees_are_adopted_leaf_by_leaf(consumer):
    untouched = object()
    tree = {
        "batch": Batch(torch.ones(1), [torch.ones(2), 3]),
        "pair": Pair(torch.ones(3), None),
        "rest": (torch.ones(4), [untouched, "text", ()], {"plain": [1, 2]}),
    }
    adopted = consumer.adopt(tree)
    pairs = [
        (tree["batch"].tokens, adopted["batch"].tokens),
        (tree["batch"].lengths[0], adopted["batch"].lengths[0]),
        (tree["pair"].left, adopted["pair"].left),
        (tree["rest"][0], adopted["rest"][0]),
    ]
    for original, alias in pairs:
        assert alias is not original
        assert alias.data_ptr() == original.data_ptr()
    assert (type(adopted["batch"]), type(adopted["pair"])) == (Batch, Pair)
    assert (adopted["batch"].label, adopted["batch"].lengths[1]) == ("a", 3)
    assert adopted["rest"][1] is tree["rest"][1]
    assert adopted["rest"][2] is tree["rest"][2]


async def test_what_is_no_tensor_passes_untouched(consumer):
    for value in (None, 3, "text", [1, {"a": ()}], Batch("no tensor", [])):
        assert consumer.adopt(value) is value


async def test_what_cannot_be_adopted_is_named_and_nothing_is_touched(producer, consumer, new_gate):
    gate = new_gate()
    gate.hold(producer)
    held = producer.record_event()
    grown = torch.ones(2, requires_grad=True)
    for bad, words in (
        (grown, "requires grad"),
        (grown * 2, "requires grad"),
        (torch.ones(2, device="meta"), "is on meta, not on cpu"),
        (torch.eye(2).to_sparse(), "no plain memory"),
    ):
        batch = torch.zeros(4)
        memory = Memory(batch)
        tree = {"good": batch, "nested": [1, Batch(bad, [])]}
        with pytest.raises(InvalidRequest, match=words) as caught:
            consumer.adopt(tree, held)
        assert "tensors['nested'][1].tokens" in str(caught.value)
        await consumer.synchronize()  # it does not wait for the producer's event
        del batch, tree, caught
        assert not memory.alive


async def test_a_closed_consumer_refuses(producer, consumer):
    await consumer.aclose()
    for event in (None, producer.record_event()):
        with pytest.raises(ContextClosed):
            consumer.adopt(torch.ones(1), event)


async def test_what_is_no_event_is_refused_before_anything_is_touched(consumer, new_gate):
    gate = new_gate()
    gate.hold(consumer)
    batch = torch.zeros(4)
    memory = Memory(batch)
    with pytest.raises(InvalidRequest, match="'ready' is not an event"):
        consumer.adopt(batch, "ready")
    del batch
    assert not memory.alive
