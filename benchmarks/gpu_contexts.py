"""What contexts cost on a real GPU, each figure beside what it is compared with, in one run.

    python -m benchmarks.gpu_contexts [--rounds 9] [--output benchmarks/results]

* a task step in a session, beside a plain step;
* waiting for an event, beside the event itself;
* an inference step in a context's memory with a budget, beside the same step without;
* a copy and a matrix product of two contexts at once, beside one after the other;
* copies of page-locked memory, in GB/s, and blocks of a pool that make room for each other.

Rounds are interleaved and every figure is a median. The goals of the design: an event at most 15 us
late inside the poll window (200 us) and 100 us beyond it, a budget for at most 1 % of a step,
blocks moved at 85 % of the speed of a page-locked copy at least.
Writes a JSON file that names the day, the card and the versions.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import platform
import statistics
import time
from pathlib import Path

import torch

from asyncgpu import MemoryPool, Runtime, context_session
from asyncgpu.drivers.cuda.driver import CudaDriver

GB = 1 << 30
STEPS = 20_000


def median(values):
    return statistics.median(list(values))


# ---------------------------------------------------------------------------------- a task step


async def microseconds_per_step():
    start = time.perf_counter()
    for _ in range(STEPS):
        await asyncio.sleep(0)
    return (time.perf_counter() - start) / STEPS * 1e6


async def step_cost(runtime, rounds):
    """The plain steps run on a loop that no session has been on."""
    plain, hooked, inside = [], [], []
    ctx = await runtime.create_context("steps")
    for _ in range(rounds):
        plain.append(await asyncio.to_thread(asyncio.run, microseconds_per_step()))
        hooked.append(await microseconds_per_step())
        async with context_session(ctx, synchronize=False):
            inside.append(await microseconds_per_step())
    await ctx.aclose()
    return {
        "plain_us": median(plain),
        "without_session_us": median(hooked),
        "in_session_us": median(inside),
        "session_adds_us": median(b - a for a, b in zip(plain, inside, strict=True)),
    }


def apply_cost(rounds):
    """Apply and undo alone, with a stream only and with a memory that has a budget."""
    driver = CudaDriver.open()
    stream = driver.create_stream(0, level=1)
    ledger = driver.native_ledger(0, GB)
    if ledger is None:
        return None
    memory = driver.open_memory(0, ledger, ledger.open())

    def microseconds(memory):
        start = time.perf_counter()
        for _ in range(STEPS):
            driver.undo(driver.apply(stream, memory=memory))
        return (time.perf_counter() - start) / STEPS * 1e6

    pairs = [(microseconds(None), microseconds(memory)) for _ in range(rounds)]
    memory.close()
    driver.close()
    return {"stream_us": median(a for a, _ in pairs), "memory_us": median(b for _, b in pairs)}


# ------------------------------------------------------------------------------------ an event


async def event_latency(runtime, rounds):
    """Late by: from giving the work to the await's return, less the same with a spinning query."""
    ctx = await runtime.create_context("events")
    cycles_per_us = _cycles_per_us()
    figures = {}
    for microseconds in (50, 150, 500, 5000):
        cycles = int(microseconds * cycles_per_us)
        spun, awaited = [], []
        for _ in range(rounds * 20):
            async with context_session(ctx, synchronize=False):
                spun.append(_spin(cycles))
            async with context_session(ctx, synchronize=False):
                start = time.perf_counter()
                torch.cuda._sleep(cycles)
                await ctx.record_event()
                awaited.append(time.perf_counter() - start)
        late = (median(awaited) - median(spun)) * 1e6
        figures[f"{microseconds}_us_of_work"] = {
            "event_us": median(spun) * 1e6,
            "await_us": median(awaited) * 1e6,
            "late_us": late,
        }
    await ctx.aclose()
    return figures


def _spin(cycles):
    start = time.perf_counter()
    torch.cuda._sleep(cycles)
    event = torch.cuda.Event()
    event.record()
    while not event.query():
        pass
    return time.perf_counter() - start


def _cycles_per_us():
    torch.cuda._sleep(1000)
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    torch.cuda._sleep(10_000_000)
    end.record()
    end.synchronize()
    return 10_000_000 / (start.elapsed_time(end) * 1000)


# ----------------------------------------------------------------------------------- a budget


def budget_overhead(rounds):
    """An encoder's inference step, its stream applied, with and without a budgeted memory."""
    driver = CudaDriver.open()
    ledger = driver.native_ledger(0, 8 * GB)
    if ledger is None:
        return None
    stream = driver.create_stream(0, level=1)
    memory = driver.open_memory(0, ledger, ledger.open())
    layer = torch.nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 6).eval().cuda().half()
    batch = torch.randn(16, 128, 512, device="cuda", dtype=torch.half)
    torch.cuda.synchronize()

    def milliseconds(memory, steps=50):
        start = time.perf_counter()
        for _ in range(steps):
            token = driver.apply(stream, inference=True, memory=memory)
            try:
                model(batch)
            finally:
                driver.undo(token)
        stream.record().synchronize()
        return (time.perf_counter() - start) / steps * 1e3

    for warm in (None, memory):
        milliseconds(warm)
    pairs = [(milliseconds(None), milliseconds(memory)) for _ in range(rounds)]
    enforced = memory.enforced
    memory.close()
    driver.close()
    return {
        "enforced": enforced,
        "without_ms": median(a for a, _ in pairs),
        "with_ms": median(b for _, b in pairs),
        "ratio": median(b / a for a, b in pairs),
    }


# --------------------------------------------------------------------------------- the overlap


async def overlap(runtime, rounds):
    """1: the shorter of the two costs nothing beside the other. 0: as long as both in turn."""
    copying, computing = [await runtime.create_context(name) for name in ("copy", "compute")]
    host = torch.empty(512 << 20, dtype=torch.uint8).pin_memory()
    target = torch.empty_like(host, device="cuda")
    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    torch.cuda.synchronize()

    def copy():
        target.copy_(host, non_blocking=True)

    def compute():
        for _ in range(8):
            matrix @ matrix

    async def seconds(*works):
        start = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for ctx, work in works:
                tasks.create_task(ctx.run_sync(work))
        return time.perf_counter() - start

    await seconds((copying, copy), (computing, compute))
    figures = []
    for _ in range(rounds):
        alone = await seconds((copying, copy)), await seconds((computing, compute))
        both = await seconds((copying, copy), (computing, compute))
        figures.append((*alone, both, (sum(alone) - both) / min(alone)))
    for ctx in (copying, computing):
        await ctx.aclose()
    names = ("copy_s", "compute_s", "both_s", "overlap")
    columns = zip(*figures, strict=True)
    return {name: median(column) for name, column in zip(names, columns, strict=True)}


def page_locked(rounds):
    host = torch.empty(GB, dtype=torch.uint8).pin_memory()
    device = torch.empty(GB, dtype=torch.uint8, device="cuda")

    def rate(target, source):
        start = time.perf_counter()
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize()
        return GB / (time.perf_counter() - start) / 1e9

    rate(device, host)
    return {
        "to_device_gb_per_s": median(rate(device, host) for _ in range(rounds)),
        "to_host_gb_per_s": median(rate(host, device) for _ in range(rounds)),
    }


async def offload(rounds):
    """Two blocks of 1 GiB in a pool of 1 GiB: to use one moves the other out."""
    async with MemoryPool(GB) as pool:
        blocks = [await pool.allocate(GB) for _ in range(2)]

        async def swap(block):
            start = time.perf_counter()
            async with block.use():
                return time.perf_counter() - start

        for block in blocks:
            await swap(block)
        seconds = median([await swap(blocks[number % 2]) for number in range(2 * rounds)])
    return {"out_and_in_s": seconds, "gb_per_s": 2 * GB / seconds / 1e9}


# --------------------------------------------------------------------------------------- main


async def measure(rounds):
    figures = {"apply": apply_cost(rounds), "budget": budget_overhead(rounds)}
    figures["page_locked"] = plain = page_locked(rounds)
    async with Runtime(driver="cuda", device="cuda:0") as runtime:
        figures["offload"] = moved = await offload(rounds)
        both_ways = GB / 1e9 * (1 / plain["to_host_gb_per_s"] + 1 / plain["to_device_gb_per_s"])
        moved["of_page_locked_copy"] = both_ways / moved["out_and_in_s"]
        figures["event"] = await event_latency(runtime, rounds)
        figures["overlap"] = await overlap(runtime, rounds)
        figures["step"] = await step_cost(runtime, rounds)
    return figures


def conditions(rounds):
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "card": torch.cuda.get_device_name(0),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "rounds": rounds,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu_contexts: this machine has no CUDA device; nothing was measured")
        return
    report = conditions(options.rounds) | {"figures": asyncio.run(measure(options.rounds))}
    text = json.dumps(report, indent=2)
    print(text)
    options.output.mkdir(parents=True, exist_ok=True)
    card = report["card"].replace(" ", "-")
    (options.output / f"gpu_contexts-{card}-{report['date']}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
