"""A thousand tasks that do everything tasks do, checked after every await; and its power.

The control runs the same program with the form everybody writes first (set the stream on entering,
restore it on leaving) and must find wrong streams: otherwise the first test would prove nothing.
"""

from __future__ import annotations

import asyncio
import random
import sys
from contextlib import asynccontextmanager, suppress

import anyio
import anyio.to_thread
import pytest

from asyncgpu.contexts.session import context_session

pytestmark = pytest.mark.anyio

TASKS = 1000
MOST_NESTED = 4


class Boom(Exception):
    """What a body raises on purpose."""


class Program:
    """Tasks that wait, nest, spawn, fail and cancel at random; each knows what it should see.

    Args:
        seed: makes the tasks' choices repeatable; their interleaving is the loop's own.
        contexts: whose sessions they enter.
        where: says what the thread's stream is now.
        session: the form under test.
    """

    def __init__(self, seed, contexts, where, session):
        self.random = random.Random(seed)
        self.contexts = contexts
        self.where = where
        self.session = session
        self.checks = 0
        self.wrong = []
        self.on_asyncio = False

    async def main(self, tasks=TASKS):
        self.on_asyncio = asyncio._get_running_loop() is not None
        done = anyio.Event()
        async with anyio.create_task_group() as sentinels:
            for seed in range(5):
                sentinels.start_soon(self.sentinel, random.Random(seed), done)
            await self.crowd(tasks)
            done.set()
        self.check(None, "the end")

    async def crowd(self, tasks):
        scopes = [anyio.CancelScope() for _ in range(tasks)]
        async with anyio.create_task_group() as crowd:
            for scope in scopes:
                crowd.start_soon(self.member, scope, random.Random(self.random.random()))
            for scope in self.random.sample(scopes, tasks // 20):
                await anyio.sleep(0.0005)
                scope.cancel()

    async def member(self, scope, choices):
        with scope:
            await self.body(choices, None, 0)

    async def sentinel(self, choices, done):
        while not done.is_set():
            self.check(None, "sentinel")
            await self.pause(choices, None)
            await anyio.sleep(choices.random() * 0.002)

    def check(self, expected, place):
        self.checks += 1
        seen = self.where()
        if seen != expected:
            self.wrong.append((place, expected, seen))

    async def pause(self, choices, expected):
        """Wait in one of the ways there are."""
        kind = choices.randrange(7 if self.on_asyncio else 4)
        if kind == 0:
            await anyio.sleep(0)
        elif kind == 1:
            await anyio.sleep(choices.random() * 0.003)
        elif kind == 2:
            with anyio.move_on_after(choices.random() * 0.001):
                await anyio.sleep(0.01)
        elif kind == 3:
            await anyio.lowlevel.cancel_shielded_checkpoint()
        else:
            await self.pause_on_asyncio(choices, kind)
        self.check(expected, f"pause {kind}")

    async def pause_on_asyncio(self, choices, kind):
        loop = asyncio.get_running_loop()
        if kind == 4:
            future = loop.create_future()
            resolve = future.set_result
            loop.call_later(choices.random() * 0.002, lambda: future.done() or resolve(None))
            await future
        elif kind == 5:
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.sleep(0.01), choices.random() * 0.002)
        else:
            await asyncio.shield(asyncio.sleep(0))

    async def body(self, choices, expected, depth):
        actions = [self.nested, self.ran, self.children, self.failing_group, self.victim]
        actions += [self.threads, self.generator, self.sync_form]
        if self.on_asyncio:
            actions.append(self.gathered)
        for _ in range(choices.randrange(1, 3)):
            await self.pause(choices, expected)
            action = choices.choice(actions)
            if depth < MOST_NESTED:
                await action(choices, expected, depth)
                self.check(expected, f"after {action.__name__}")
                await self.pause(choices, expected)

    async def nested(self, choices, expected, depth):
        ctx = choices.choice(self.contexts)
        with suppress(Boom):
            async with self.session(ctx):
                self.check(ctx.stream.id, "entered")
                await self.pause(choices, ctx.stream.id)
                await self.body(choices, ctx.stream.id, depth + 1)
                if choices.random() < 0.3:
                    raise Boom

    async def ran(self, choices, expected, depth):
        if self.session is not context_session:
            return
        ctx = choices.choice(self.contexts)

        async def fn():
            await self.body(choices, ctx.stream.id, depth + 1)
            if choices.random() < 0.3:
                raise Boom

        with suppress(Boom):
            await ctx.run(fn)

    async def children(self, choices, expected, depth):
        async with anyio.create_task_group() as group:
            for _ in range(2):
                own = random.Random(choices.random())
                group.start_soon(self.body, own, expected, depth + 2)

    async def gathered(self, choices, expected, depth):
        own = [random.Random(choices.random()) for _ in range(2)]
        await asyncio.gather(*(self.body(each, expected, depth + 2) for each in own))

    async def failing_group(self, choices, expected, depth):
        async def fail():
            await self.pause(choices, expected)
            raise Boom

        with suppress(BaseExceptionGroup):
            async with anyio.create_task_group() as group:
                group.start_soon(self.body, random.Random(choices.random()), expected, depth + 2)
                group.start_soon(fail)

    async def victim(self, choices, expected, depth):
        """A child in a session of its own, cancelled in the middle of anything."""
        ctx = choices.choice(self.contexts)
        own = random.Random(choices.random())

        async def child():
            async with self.session(ctx):
                while True:
                    await self.pause(own, ctx.stream.id)

        async with anyio.create_task_group() as group:
            group.start_soon(child)
            await self.pause(choices, expected)
            group.cancel_scope.cancel()

    async def threads(self, choices, expected, depth):
        if choices.random() < 0.5 or self.session is not context_session:
            return
        ctx = choices.choice(self.contexts)
        if choices.random() < 0.5:
            seen = await anyio.to_thread.run_sync(ctx.bind(self.where))
        else:
            seen = await ctx.run_sync(self.where)
        if seen != ctx.stream.id:
            self.wrong.append(("thread", ctx.stream.id, seen))

    async def generator(self, choices, expected, depth):
        async def generate():
            for index in range(2):
                await self.pause(choices, expected)
                yield index

        async for _ in generate():
            self.check(expected, "consumer")

    async def sync_form(self, choices, expected, depth):
        if self.session is not context_session:
            return
        ctx = choices.choice(self.contexts)
        with suppress(Boom), self.session(ctx, synchronize=False):
            self.check(ctx.stream.id, "sync form")
            if choices.random() < 0.3:
                raise Boom


@pytest.fixture
async def contexts(registry):
    return [await registry.create(f"c{index}") for index in range(6)]


@pytest.fixture
def quick_switches():
    """Threads change places as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(interval)


async def test_no_step_ever_sees_a_wrong_stream(contexts, where, quick_switches):
    program = Program(7, contexts, where, context_session)
    await program.main()
    assert program.wrong == []
    assert program.checks > 10 * TASKS
    for ctx in contexts:
        with anyio.fail_after(10):
            await ctx.aclose()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
@pytest.mark.parametrize(
    "anyio_backend",
    [
        pytest.param(("asyncio", {}), id="asyncio"),
        pytest.param(
            ("asyncio", {"use_uvloop": True}),
            id="uvloop",
            marks=pytest.mark.skipif(
                sys.version_info >= (3, 13), reason="uvloop breaks asyncio's eager factory there"
            ),
        ),
    ],
)
async def test_no_eager_step_ever_sees_a_wrong_stream(contexts, where, quick_switches):
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    program = Program(8, contexts, where, context_session)
    await program.main()
    assert program.wrong == []
    assert program.checks > 10 * TASKS


async def test_control_the_naive_form_shows_wrong_streams(contexts):
    current = None

    @asynccontextmanager
    async def naive(ctx):
        nonlocal current
        before, current = current, ctx.stream.id
        try:
            yield
        finally:
            current = before

    program = Program(7, contexts, lambda: current, naive)
    await program.main(TASKS // 10)
    assert len(program.wrong) > program.checks // 10
