"""Programs that end badly: in bounded time, with the right exit code, and without noise.

Starting a program costs an import of torch, so those that can share one do.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

BACKENDS = ["asyncio", "trio"]
CLOSING = "closing the runtime: context 'a'"

PROLOGUE = """
import anyio, asyncio, os, signal, sys, threading, warnings, asyncgpu
from asyncgpu import Runtime
from asyncgpu.testing import busy, gate

def left_behind():
    threads = [t for t in threading.enumerate() if t.name.startswith("asyncgpu")]
    for thread in threads:
        thread.join(10)
    return [thread.name for thread in threads if thread.is_alive()]
"""


def start(body: str) -> subprocess.Popen[str]:
    settings = {"ASYNCGPU_VIRTUAL_DEVICES": "2x8GiB", "ASYNCGPU_CLOSE_TIMEOUT": "0.05"}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROLOGUE + textwrap.dedent(body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | settings,
    )


def outcome(program: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a program; return its exit code, its output and what it complained about."""
    try:
        out, err = program.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        program.kill()
        raise AssertionError(f"it hung: {program.communicate()}") from None
    return program.returncode, out, err


ENDINGS = """
class Where(asyncgpu.Tool):
    def run(self, items):
        return [os.getpid() for item in items]

async def in_flight():
    await asyncgpu.initialize()
    ctx = await asyncgpu.create_context("a")
    held.hold(ctx)
    ctx.record_event()

async def raises():
    async def hold(ctx):
        async with ctx.session():
            busy(ctx, 0.01)
            await anyio.sleep_forever()
    await asyncgpu.initialize()
    ctx = await asyncgpu.create_context("a")
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(hold, ctx)
        await anyio.wait_all_tasks_blocked()
        async with ctx.session():
            sys.exit(3)

async def generator():
    async def batches(ctx):
        async with ctx.session():
            yield 1
            yield 2
    async with Runtime() as rt:
        ctx = await rt.create_context("a")
        kept.append(batches(ctx))
        async for _ in kept[0]:
            break
        if {backend!r} == "trio":
            # trio's own rule: who opens a scope in a generator closes the generator.
            await kept[0].aclose()

async def forks():
    async with Runtime() as rt:
        ctx = await rt.create_context("a")
        worker = await asyncgpu.get_tool(Where())
        (pid,) = await worker.run([0])
        async with ctx.session():
            child = os.fork()
            if child == 0:
                os._exit(await in_the_child(rt, ctx))
            _, status = os.waitpid(child, 0)
        again = await worker.run([0])
        print("forks", os.waitstatus_to_exitcode(status), again == [pid],
              await ctx.run_sync(lambda: "works"))

async def in_the_child(rt, ctx):
    refused = 0
    for call in (rt.contexts, ctx.record_event, asyncgpu.current_runtime):
        try:
            call()
        except asyncgpu.NoRuntime as error:
            refused += "before a fork" in str(error)
    # What the end of the loop would do, had the child not left by `_exit`.
    await rt._teardown()
    return refused

held, kept = gate(), []
for main in (in_flight, raises, generator, forks):
    try:
        anyio.run(main, backend={backend!r})
        print(main.__name__, "returned", left_behind())
    except BaseExceptionGroup as group:
        print(main.__name__, "exits with", group.exceptions[0].code, left_behind())
"""


@pytest.fixture(scope="module", params=BACKENDS)
def endings(request):
    """What each ending printed, and what was complained about meanwhile."""
    code, out, err = outcome(start(ENDINGS.format(backend=request.param)))
    assert code == 0, err
    return out.splitlines(), err


def test_a_loop_that_ends_while_device_work_is_in_flight(endings):
    assert "in_flight returned []" in endings[0]


def test_a_main_that_raises_with_open_sessions(endings):
    assert "raises exits with 3 []" in endings[0]


def test_a_generator_that_is_left_to_the_collector_when_the_loop_ends(endings):
    assert "generator returned []" in endings[0]


def test_a_fork_can_use_nothing_of_it_and_ends_nothing_of_its_parents(endings):
    assert "forks 3 True works" in endings[0]
    assert "forks returned []" in endings[0]


def test_only_what_was_left_running_is_complained_about(endings):
    lines = endings[1].splitlines()
    assert lines[0] == f"{CLOSING} still runs after 0.05 s: work on its stream"
    # The generator's session had leaked into `main`, which then closed the runtime around it.
    leaked = f"{CLOSING}: closing it inside its own session would wait for itself"
    assert lines[1:] in ([leaked], [])


def test_an_uncaught_error_is_the_only_traceback():
    program = start(
        """
        async def main():
            async with Runtime() as rt:
                ctx = await rt.create_context("a")
                async with ctx.session():
                    await anyio.sleep(0)
                    raise KeyError("the program's own")
        asyncio.run(main())
        """
    )
    code, _, err = outcome(program)
    assert code == 1
    assert err.count("Traceback") == 1
    assert err.endswith('KeyError: "the program\'s own"\n')


@pytest.mark.parametrize(
    ("backend", "where"), [("asyncio", "session"), ("trio", "session"), ("asyncio", "run_sync")]
)
def test_an_interrupt_ends_the_program(backend, where):
    """Ctrl-C in the body of a session, and while a function runs in the context's thread."""
    program = start(
        f"""
        ended = threading.Event()

        def function():
            print("inside", flush=True)
            ended.wait()

        async def main():
            async with Runtime() as rt:
                ctx = await rt.create_context("a")
                if {where!r} == "run_sync":
                    await ctx.run_sync(function)
                async with ctx.session():
                    print("inside", flush=True)
                    await anyio.sleep_forever()
        try:
            anyio.run(main, backend={backend!r})
        except KeyboardInterrupt:
            ended.set()
            print("left:", left_behind())
            sys.exit(130)
        """
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "inside\n"
    program.send_signal(signal.SIGINT)
    code, out, err = outcome(program)
    assert (code, out) == (130, "left: []\n")
    left = f"{CLOSING} still runs after 0.05 s: run_sync(function)\n"
    assert err == (left if where == "run_sync" else "")


def test_an_interpreter_that_exits_with_everything_open():
    """No loop runs any more and nobody closed anything: threads do not hold up the exit."""
    program = start(
        """
        warnings.simplefilter("ignore", ResourceWarning)  # the loop that is left open
        held = gate()

        async def main():
            rt = await asyncgpu.initialize()
            ctx = await asyncgpu.create_context("a")
            await ctx.run_sync(int)
            held.hold(ctx)
            session = ctx.session()
            await session.__aenter__()
            return rt, session

        loop = asyncio.new_event_loop()
        kept = loop.run_until_complete(main())
        print(sum(t.name.startswith("asyncgpu") for t in threading.enumerate()) >= 2)
        """
    )
    code, out, err = outcome(program)
    assert (code, out) == (0, "True\n")
    assert "Traceback" not in err


def test_a_blocking_program_that_exits_inside_its_runtime():
    program = start(
        """
        with asyncgpu.blocking_runtime() as rt:
            ctx = rt.create_context("a")
            with ctx.session():
                busy(ctx, 60)
                sys.exit(4)
        """
    )
    code, out, err = outcome(program)
    assert (code, out) == (4, "")
    assert err.startswith(f"{CLOSING} still runs after 0.05 s: session of thread MainThread\n")
    assert "Traceback" not in err
