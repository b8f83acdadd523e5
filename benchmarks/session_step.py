"""What a session costs per task step, beside a plain step of the same loop in the same run.

    python benchmarks/session_step.py [--steps 100000] [--rounds 7]

Three kinds of step, interleaved round by round: on an untouched loop, without a session on a loop
that is hooked because somebody else has one, and inside a session. The driver is a thread-local
that costs next to nothing (what the hook itself adds), and then the virtual driver, which meters
what torch allocates. Times are CPU
times of the loop's thread: a step never waits, and what else the machine does should not count.
The goals of the design, over a plain step: 2 us inside a session; without one 0.5 us, on trio 1.2.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import threading
import time
import types
from contextlib import asynccontextmanager

import anyio

from asyncgpu import Runtime
from asyncgpu.drivers.virtual.driver import VirtualDriver

LOOPS = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}
KINDS = ("plain", "hooked", "session")


class ThreadLocalDriver(VirtualDriver):
    """Applies by one attribute of a thread-local."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._here = threading.local()

    def apply(self, stream, *, inference=False, memory=None):
        before = getattr(self._here, "stream", None)
        self._here.stream = stream
        return before

    def undo(self, token):
        self._here.stream = token


@types.coroutine
def one_asyncio_step():
    yield


async def steps(count):
    """Return the seconds that one step of this task takes."""
    if asyncio._get_running_loop() is None:
        import trio

        one_step = trio.lowlevel.cancel_shielded_checkpoint
    else:
        one_step = one_asyncio_step
    started = time.thread_time()
    for _ in range(count):
        await one_step()
    return (time.thread_time() - started) / count


async def measure(kind, driver_class, count):
    if kind == "plain":
        return await steps(count)
    async with opened(driver_class) as ctx:
        async with ctx.session():
            inside = await steps(count) if kind == "session" else 0.0
        return inside or await steps(count)


async def cycle(driver_class, count):
    """Return the seconds that entering and leaving a session takes, its drain included."""
    async with opened(driver_class) as ctx:
        started = time.thread_time()
        for _ in range(count):
            async with ctx.session():
                pass
        return (time.thread_time() - started) / count


@asynccontextmanager
async def opened(driver_class):
    driver = driver_class.from_spec("1x1GiB")
    async with Runtime(driver=driver) as rt, await rt.create_context("bench") as ctx:
        yield ctx


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print("us per step, medians; in brackets the ratio to a plain step")
    print(
        f"{'loop':8} {'driver':18} {'plain':>7} {'hooked, no session':>20} {'in a session':>16}"
        f" {'enter + leave':>14}"
    )
    for driver_class in (ThreadLocalDriver, VirtualDriver):
        for loop, choice in LOOPS.items():
            rounds = [
                {
                    kind: anyio.run(measure, kind, driver_class, options.steps, **choice)
                    for kind in KINDS
                }
                for _ in range(options.rounds)
            ]
            plain, hooked, session = (
                1e6 * statistics.median(each[kind] for each in rounds) for kind in KINDS
            )
            whole = 1e6 * anyio.run(cycle, driver_class, options.steps // 20, **choice)
            print(
                f"{loop:8} {driver_class.__name__:18} {plain:7.2f}"
                f" {hooked:7.2f} +{hooked - plain:4.2f} (x{hooked / plain:4.2f})"
                f" {session:7.2f} +{session - plain:4.2f} (x{session / plain:4.2f})"
                f" {whole:10.1f}"
            )


if __name__ == "__main__":
    main()
