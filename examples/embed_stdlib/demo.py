"""The demo: a batch job on every GPU, and people who ask it questions, on one event loop."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter

import anyio
from rich.console import Console

from asyncgpu import QoSPolicy, Runtime, Settings, ToolPool

from .bar import progress_bar
from .check import largest_difference
from .heartbeat import Heartbeat
from .model import Embed
from .questions import QUESTIONS, Desk
from .report import Report, write_report
from .search import Index
from .texts import Docstring, collect


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for."""

    limit: int | None
    """How many texts; None: all of them."""
    out: Path
    """The folder for the timeline and the numbers."""
    gpus: str
    """Virtual GPUs to make, such as ``"2x8GiB"``, or ``"real"``."""


async def demo(options: Options, console: Console) -> Report:
    """Do everything and return what came out."""
    heartbeat = Heartbeat()
    async with (
        meanwhile(heartbeat.run),
        Runtime(settings=settings(options.gpus)) as runtime,
        ToolPool() as pool,
    ):
        console.print("Reading the standard library ...")
        docstrings = await collect(pool, limit=options.limit)
        index = Index(docstrings)
        console.print("Opening a desk for questions on each GPU ...")
        desks = await open_desks(runtime, index)
        async with meanwhile(*(desk.serve for desk in desks)):
            seconds = await embed(pool, docstrings, index, console)
        answers = {question: await desks[0].answer(question) for question in QUESTIONS[:3]}
        console.print("Comparing with a plain run ...")
        latencies = [latency for desk in desks for latency in desk.latencies]
        report = Report(
            texts=len(docstrings),
            distinct=len({docstring.text for docstring in docstrings}),
            seconds=seconds,
            stats=pool.stats(),
            worst_lag=heartbeat.worst,
            usual_lag=heartbeat.percentile(99),
            longest_work=heartbeat.longest_work,
            questions=len(latencies),
            question_seconds=median(latencies) if latencies else 0.0,
            difference=await anyio.to_thread.run_sync(
                largest_difference, docstrings, index.vectors
            ),
            answers=answers,
        )
        await anyio.to_thread.run_sync(write_report, options.out, report, runtime.timeline.spans)
    return report


async def embed(
    pool: ToolPool, docstrings: Sequence[Docstring], index: Index, console: Console
) -> float:
    """Fill the index, in the order in which the workers finish; return the seconds it took."""
    began = perf_counter()
    texts = [docstring.text for docstring in docstrings]
    with progress_bar("Embedding", console) as show:
        async with aclosing(pool.stream(Embed(), texts, progress=show)) as results:
            async for result in results:
                if result.error is not None:
                    raise result.error
                index.put(result.index, result.value)
    return perf_counter() - began


async def open_desks(runtime: Runtime, index: Index) -> list[Desk]:
    """Give each GPU a context, with a guaranteed share of its memory, that answers questions."""
    desks = [
        Desk(
            await runtime.create_context(
                f"questions-{gpu}", device=f"cuda:{gpu}", max_vram="1GiB", qos=QoSPolicy.GUARANTEED
            ),
            runtime.driver.torch_device(gpu),
            index,
            runtime.timeline,
        )
        for gpu in runtime.devices.managed
    ]
    async with anyio.create_task_group() as group:
        for desk in desks:
            group.start_soon(desk.open)
    return desks


def settings(gpus: str) -> Settings:
    """Read the environment; workers and contexts share each GPU, so packing is on."""
    return replace(
        Settings.from_environ(os.environ),
        virtual_devices=None if gpus == "real" else gpus,
        allow_multiple_per_device=True,
    )


@asynccontextmanager
async def meanwhile(*jobs: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run endless jobs beside the block, and end them with it."""
    async with anyio.create_task_group() as group:
        for job in jobs:
            group.start_soon(job)
        yield
        group.cancel_scope.cancel()
