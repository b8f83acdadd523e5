"""Everything at once, with budgets on: what one context does never breaks what another relies on.

Tasks open contexts of every class and do at random whatever can be done with them, are cancelled in
the middle of it, and prove now and then that what they were promised is theirs: a GUARANTEED
context takes all of its memory, and a reservation all of what was reserved. At the end every number
is back where it began, and nothing is left.

The seed decides what each task does; how the tasks interleave is the loop's and the threads'
business. ``ASYNCGPU_STRESS_SEEDS=1000:1040`` runs other seeds than the few of every run, and one
seed again: ``ASYNCGPU_STRESS_SEEDS=1007:1008``.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
from contextlib import asynccontextmanager, contextmanager

import anyio
import anyio.to_thread
import pytest
import torch

from asyncgpu import MB, MemoryPool, QoSPolicy, Runtime, Settings, current_context
from asyncgpu.errors import (
    ContextClosed,
    InfeasibleRequest,
    OutOfDeviceMemory,
    VRAMBudgetExceeded,
)
from asyncgpu.testing import busy

pytestmark = pytest.mark.anyio

TASKS = 8
STEPS = 40
DEVICES = 2
TOTAL = 2048 * MB
UNIT = 32 * MB
# What rounding to segments may cost on top of allocations of whole units.
SLACK = 24 * MB

_first, _, _end = os.environ.get("ASYNCGPU_STRESS_SEEDS", "1:3").partition(":")
SEEDS = range(int(_first), int(_end))

# Refusals that are part of the game: somebody else has the memory, the turn or the time.
REFUSALS = (VRAMBudgetExceeded, OutOfDeviceMemory, TimeoutError, ContextClosed, InfeasibleRequest)


def take(units):
    return torch.empty(units * UNIT, dtype=torch.uint8)


def take_all(sizes):
    return [take(size) for size in sizes]


def train(units):
    weights = torch.ones(units * UNIT // 16, requires_grad=True)
    weights.sin().sin().sum().backward()
    return weights.grad


@asynccontextmanager
async def scoped(patience):
    with anyio.move_on_after(patience):
        yield


@asynccontextmanager
async def native(patience):
    """As scoped, by asyncio's own cancellation, which goes through every shield."""
    if asyncio._get_running_loop() is None:
        async with scoped(patience):
            yield
    else:
        async with asyncio.timeout(patience):
            yield


class Member:
    """One task with contexts of its own, which nobody else allocates in or closes."""

    def __init__(self, crowd, number, seed):
        self.crowd = crowd
        self.runtime = crowd.runtime
        self.random = random.Random(f"{seed}:{number}")
        self.name = f"m{number}"
        self.opened = 0
        self.contexts = []
        self.held = []

    async def live(self):
        actions = [self.open] * 3 + [self.close, self.drop, self.drop, self.prove, self.prove]
        actions += [self.call, self.call, self.retry, self.session, self.nested, self.bound]
        actions += [self.sync_form, self.reserve, self.reserve, self.backward, self.pool]
        actions += [self.pool_within, self.adopt, self.events, self.ask]
        for _ in range(STEPS):
            action = self.random.choice(actions)
            patience = self.random.choice([None, None, None, 0.0, 0.001, 0.01])
            if action != self.open and not self.contexts:
                action = self.open
            try:
                async with self.random.choice([scoped, native])(patience):
                    await action()
            except REFUSALS:
                self.crowd.refused += 1
            self.crowd.look()
        self.held.clear()

    def context(self):
        return self.random.choice(self.contexts)

    def keep(self, tensors):
        if self.random.random() < 0.5:
            self.held.append(tensors)

    def units(self, most=12):
        return self.random.randrange(1, most)

    # ------------------------------------------------------------------------------- actions

    async def open(self):
        if len(self.contexts) > 3:
            await self.close()
            return
        qos = self.random.choice(list(QoSPolicy))
        most = self.units() * UNIT + SLACK
        options = {
            QoSPolicy.GUARANTEED: {"max_vram": most},
            QoSPolicy.BURSTABLE: {"max_vram": 2 * most, "base_vram": most},
            QoSPolicy.BEST_EFFORT: {"max_vram": self.random.choice([None, most])},
        }[qos]
        self.opened += 1
        self.contexts.append(
            await self.runtime.create_context(
                f"{self.name}.{self.opened}",
                qos=qos,
                device=f"cuda:{self.random.randrange(DEVICES)}",
                max_concurrent_sessions=self.random.choice([None, None, 1, 2]),
                timeout=self.random.choice([0.0, 0.02, 0.2]),
                **options,
            )
        )

    async def close(self):
        ctx = self.context()
        if self.random.random() < 0.3:
            async with ctx.session(synchronize=False):
                busy(ctx, 0.002)
        self.contexts.remove(ctx)
        self.crowd.closing.append(ctx)
        await ctx.aclose(timeout=self.random.choice([None, 0.0, 0.01]))

    async def drop(self):
        if self.held:
            self.held.pop(self.random.randrange(len(self.held)))

    async def call(self):
        self.keep(await self.context().run_sync(take_all, [self.units(5), self.units(5)]))

    async def retry(self):
        self.keep(await self.context().run_sync(take, self.units(), retries=2))

    async def backward(self):
        self.keep(await self.context().run_sync(train, self.units(6)))

    async def session(self):
        ctx = self.context()
        async with ctx.session(timeout=0.5, inference=self.random.random() < 0.3):
            assert current_context() is ctx
            tensors = take(self.units(5))
            await anyio.sleep(self.random.choice([0, 0.001]))
            assert current_context() is ctx
            self.keep([tensors, take(self.units(5))])
            if self.random.random() < 0.3:
                busy(ctx, 0.002)

    async def nested(self):
        outer, inner = self.context(), self.context()
        async with outer.session(timeout=0.5):
            tensors = take(1)
            async with inner.session(timeout=0.5):
                await anyio.sleep(0)
                self.keep(take(self.units(4)))
            assert current_context() is outer
            self.keep(tensors)

    async def bound(self):
        self.keep(await anyio.to_thread.run_sync(self.context().bind(take), self.units(6)))

    async def sync_form(self):
        ctx, units = self.context(), self.units(6)

        def work():
            with ctx.session(timeout=0.5):
                return take(units)

        self.keep(await anyio.to_thread.run_sync(work))

    async def reserve(self):
        ctx, units = self.context(), self.units(8)
        size = units * UNIT + SLACK
        async with ctx.reserve(size, timeout=self.random.choice([0.0, 0.05, 0.3])):
            await anyio.sleep(self.random.choice([0, 0.001]))
            try:
                self.keep(await ctx.run_sync(take, units))
            except (VRAMBudgetExceeded, OutOfDeviceMemory) as error:
                self.crowd.broken.append((ctx.name, "reserve", size, error))

    async def prove(self):
        guaranteed = [ctx for ctx in self.contexts if ctx.qos is QoSPolicy.GUARANTEED]
        for ctx in guaranteed[:1]:
            left = (ctx.max_vram - SLACK - ctx.usage().used) // UNIT
            try:
                await ctx.run_sync(take, max(0, left))
            except (VRAMBudgetExceeded, OutOfDeviceMemory) as error:
                self.crowd.broken.append((ctx.name, "guaranteed", left * UNIT, error))

    async def pool(self):
        device = f"cuda:{self.random.randrange(DEVICES)}"
        with anyio.move_on_after(0.3):
            async with MemoryPool(6 * MB, device=device) as pool:
                await self.in_pool(pool)

    async def pool_within(self):
        with anyio.move_on_after(0.3):
            async with MemoryPool(6 * MB, context=self.context()) as pool:
                await self.in_pool(pool)

    async def in_pool(self, pool):
        blocks = []
        for number in range(4):
            blocks.append(await pool.allocate(2 * MB, timeout=0.5))
            async with blocks[-1].use() as tensor:
                tensor.fill_(number)
        for number, block in enumerate(blocks):
            async with block.use(timeout=0.5) as tensor:
                assert tensor[0] == tensor[-1] == number
        pool.free(blocks[0])
        stats = pool.stats()
        assert stats.allocated_bytes + stats.cached_bytes <= stats.quota

    async def adopt(self):
        producer, consumer = self.context(), self.context()
        if producer.device != consumer.device:
            return
        async with producer.session(synchronize=False, timeout=0.5):
            batch = {"x": take(1), "y": [take(1), 3]}
            busy(producer, 0.001)
            ready = producer.record_event()
        async with consumer.session(timeout=0.5):
            self.keep(consumer.adopt(batch, ready))
            del batch
            await anyio.sleep(0)

    async def events(self):
        one, other = self.context(), self.context()
        event = one.record_event()
        other.wait_event(event)
        await event
        await other.synchronize()

    async def ask(self):
        for number in range(DEVICES):
            assert 0 <= self.runtime.available_vram(f"cuda:{number}") <= TOTAL


class Crowd:
    """All members, and what they have seen.

    Args:
        runtime: open.
        seed: makes the members' choices repeatable.
    """

    def __init__(self, runtime, seed):
        self.runtime = runtime
        self.seed = seed
        self.refused = 0
        self.broken = []
        self.closing = []

    async def live(self):
        members = [Member(self, number, self.seed) for number in range(TASKS)]
        async with anyio.create_task_group() as tasks:
            for member in members:
                tasks.start_soon(member.live)
        self.closing += [ctx for member in members for ctx in member.contexts]
        for ctx in self.closing:
            await ctx.aclose()

    def look(self):
        """Nobody uses more than he may, and no more is promised than there is."""
        for ctx in self.runtime.contexts():
            usage = ctx.usage()
            if usage.used > (usage.max or TOTAL) or usage.used > usage.peak:
                self.broken.append((ctx.name, "more than its max", usage.used, usage))
        # Of all at one moment, which `usage` of one after the other is not.
        for memory in self.runtime._memories._opened.values():
            memory.ledger.check_invariants()
            assert memory.ledger.committed <= TOTAL


@contextmanager
def nothing_left():
    """Nothing of ours is in this thread, on this loop or beside it afterwards."""
    threads, tasks = set(threading.enumerate()), all_tasks()
    yield
    assert current_context() is None
    assert torch._C._len_torch_dispatch_stack() == 0
    assert not torch.is_inference_mode_enabled()
    ours = {thread.name for thread in set(threading.enumerate()) - threads}
    assert {name for name in ours if name.startswith("asyncgpu")} == set()
    if (loop := asyncio._get_running_loop()) is not None:
        assert "call_soon" not in vars(loop), "the hook was left in"
        assert all_tasks() == tasks


def all_tasks():
    return set() if asyncio._get_running_loop() is None else asyncio.all_tasks()


@pytest.mark.parametrize("seed", SEEDS)
async def test_nobody_breaks_what_another_was_promised(seed):
    settings = Settings(virtual_devices=f"{DEVICES}x{TOTAL}", max_concurrent_sessions=6)
    with nothing_left():
        async with Runtime(settings=settings) as runtime:
            crowd = Crowd(runtime, seed)
            with anyio.fail_after(120):
                await crowd.live()
            assert crowd.broken == [], f"seed {seed}"
            assert crowd.refused, "nothing was ever scarce: this has proved nothing"
            assert runtime.contexts() == []
            gc.collect()
            for number in range(DEVICES):
                assert runtime.available_vram(f"cuda:{number}") == TOTAL, f"seed {seed}"
