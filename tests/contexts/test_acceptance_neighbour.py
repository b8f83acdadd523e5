"""A context that allocates until it is refused, in every way there is, never hurts its neighbours.

This is what the budgets are for. The controls take the rule out, or replace it by the ones that
everybody writes first, and must see a neighbour fail: else the first test would prove nothing.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import anyio
import anyio.to_thread
import pytest
import torch

from asyncgpu import MB, MemoryPool, QoSPolicy, Runtime, Settings, context_session
from asyncgpu.policy.budget import Budget

pytestmark = pytest.mark.anyio

TOTAL = 512 * MB
PROMISED = {"guaranteed": 192 * MB, "base": 64 * MB}
PIECE = 16 * MB
# More than the device has, so that only a refusal stops a greedy one before.
PIECES = TOTAL // PIECE + 1


@dataclass
class Outcome:
    refused: set = field(default_factory=set)
    hurt: list = field(default_factory=list)
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def good(self):
        return len(self.refused) == 6 and not self.hurt and self.most <= TOTAL


class Contest:
    """Greedy ones in two contexts, which keep what they get; and neighbours with promises."""

    def __init__(self, runtime):
        self.runtime = runtime
        self.outcome = Outcome()
        self.kept = []
        self.full = anyio.Event()

    async def run(self):
        create = self.runtime.create_context
        guaranteed = await create(
            "guaranteed", max_vram=PROMISED["guaranteed"], qos=QoSPolicy.GUARANTEED
        )
        base = await create("base", base_vram=PROMISED["base"])
        self.greedy = await create("greedy", qos=QoSPolicy.BEST_EFFORT)
        self.another = await create("another")
        ways = [self.in_run_sync, self.in_a_session, self.in_a_thread, self.in_the_sync_form]
        ways += [self.backward, self.in_run]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.neighbour, guaranteed)
            tasks.start_soon(self.neighbour, base)
            async with anyio.create_task_group() as all_greedy:
                for way in ways:
                    all_greedy.start_soon(way)
            self.full.set()
        return self.outcome

    async def neighbour(self, ctx):
        """Take all that was promised and let it go, again and again; last when all is full."""
        while True:
            last = self.full.is_set()
            try:
                held = await ctx.run_sync(take, PROMISED[ctx.name])
                self.measure()
                del held
                async with ctx.session():
                    first = take(PROMISED[ctx.name] // 2)
                    await anyio.sleep(0)
                    del first
                async with MemoryPool(PIECE, context=ctx) as pool:
                    await pool.allocate(PIECE)
            except torch.OutOfMemoryError as error:
                self.outcome.hurt.append((ctx.name, repr(error)))
            if last:
                return

    def grab(self, keep, make=lambda: take(PIECE)):
        for _ in range(PIECES):
            keep.append(make())
            self.measure()

    def measure(self):
        # Of all contexts at one moment, which the sum of their usages is not.
        used = self.runtime._memories._opened[0].ledger.used
        with self.outcome.lock:
            self.outcome.most = max(self.outcome.most, used)

    async def until_refused(self, way, grab):
        kept = []
        try:
            await grab(kept)
        except torch.OutOfMemoryError:
            self.outcome.refused.add(way)
        # Kept until the neighbours have seen the device full.
        self.kept.append(kept)

    async def in_run_sync(self):
        await self.until_refused("run_sync", lambda kept: self.greedy.run_sync(self.grab, kept))

    async def in_a_thread(self):
        grab = self.greedy.bind(self.grab)
        await self.until_refused("bound", lambda kept: anyio.to_thread.run_sync(grab, kept))

    async def in_the_sync_form(self):
        def work(kept):
            with context_session(self.another):
                self.grab(kept)

        await self.until_refused("sync", lambda kept: anyio.to_thread.run_sync(work, kept))

    async def backward(self):
        def gradient():
            weights = torch.ones(PIECE // 8, requires_grad=True)
            weights.sin().sum().backward()
            return weights.grad

        await self.until_refused(
            "backward", lambda kept: self.greedy.run_sync(self.grab, kept, gradient)
        )

    async def in_a_session(self):
        async def work(kept):
            async with context_session(self.another):
                for _ in range(PIECES):
                    kept.append(take(PIECE))
                    await anyio.sleep(0)

        await self.until_refused("session", work)

    async def in_run(self):
        async def work(kept):
            for _ in range(PIECES):
                kept.append(take(PIECE))
                await anyio.sleep(0)

        await self.until_refused("run", lambda kept: self.another.run(work, kept))


def take(nbytes):
    return torch.empty(nbytes, dtype=torch.uint8)


async def contest():
    async with Runtime(settings=Settings(virtual_devices=f"1x{TOTAL}")) as runtime:
        with anyio.fail_after(60):
            return await Contest(runtime).run()


async def test_who_allocates_until_refused_never_makes_a_neighbour_fail():
    outcome = await contest()
    assert outcome.hurt == []
    assert outcome.refused == {"run_sync", "bound", "sync", "backward", "session", "run"}
    assert outcome.most <= TOTAL


def always(self, number, nbytes):
    """No rule at all."""
    self._use(self._known(number), nbytes)
    return True


def first_come(self, account):
    """What is there is anybody's: nobody's reservation is looked at."""
    return self.capacity - self.used


def only_what_is_reserved(self, account):
    """Reservations are subtracted, and what others use above theirs is forgotten."""
    return self.capacity - sum(a.reserved for a in self._accounts.values()) - account.used


@pytest.mark.parametrize(
    ("method", "wrong"),
    [("charge", always), ("_shared_room", first_come), ("_shared_room", only_what_is_reserved)],
    ids=["no rule", "first come", "sum of reservations"],
)
@pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {}), id="asyncio")])
async def test_control_without_the_rule_somebody_is_hurt(monkeypatch, method, wrong):
    monkeypatch.setattr(Budget, method, wrong)
    outcome = await contest()
    assert not outcome.good
