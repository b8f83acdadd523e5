"""pytest fixtures: each is the function of `asyncgpu.testing` whose name it has.

What the function makes lasts until the end of the test::

    async def test_it(virtual_gpus, gate):
        virtual_gpus("2x8GiB")
        entered = gate()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from ..drivers.virtual.faults import FaultScript
from . import devices, failures, gates

__all__ = ["faults", "gate", "virtual_gpus"]


@pytest.fixture
def virtual_gpus() -> Iterator[Callable[..., tuple[str, ...]]]:
    """``virtual_gpus("2x8GiB")``: runtimes opened in this test have these devices."""
    with ExitStack() as stack:

        def enter(spec: str = "2x8GiB") -> tuple[str, ...]:
            return stack.enter_context(devices.virtual_gpus(spec))

        yield enter


@pytest.fixture
def faults() -> Iterator[Callable[[], FaultScript]]:
    """``faults()``: the script of faults that runtimes opened afterwards play."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(failures.faults())


@pytest.fixture
def gate() -> Iterator[Callable[[], gates.Gate]]:
    """``gate()``: a new closed gate; all are opened at the end of the test."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(gates.gate())
