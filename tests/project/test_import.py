"""``import asyncgpu`` is cheap: a program pays for torch when it opens a runtime, not before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

LATE = {"cloudpickle", "cuda", "numpy", "pynvml", "rich", "torch", "tqdm", "trio", "uvloop"}

# Processor time, not the clock: other work on the machine must not decide this test.
MEASURE = """
import time
start = time.process_time_ns()
import {modules}
print(time.process_time_ns() - start)
"""


def python(program: str) -> str:
    """Run `program` in a fresh interpreter, which may keep bytecode; return its output."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    return done.stdout


def loaded_after(statement: str) -> set[str]:
    return set(python(f"{statement}; import sys; print(*sys.modules)").split())


def test_importing_asyncgpu_loads_no_library_that_may_come_late():
    assert loaded_after("import asyncgpu") & LATE == set()


def test_not_even_every_public_name_together_loads_one():
    assert loaded_after("from asyncgpu import *") & LATE == set()


def test_the_import_costs_at_most_half_more_than_its_event_loop():
    """The fastest of several runs each, taken in turns, so that a slow spell hits both."""
    ours, bare = [], []
    for _ in range(7):
        ours.append(int(python(MEASURE.format(modules="asyncgpu"))))
        bare.append(int(python(MEASURE.format(modules="anyio, asyncio"))))
    assert min(ours) <= 1.5 * min(bare)
