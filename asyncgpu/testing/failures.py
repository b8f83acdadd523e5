"""Scripted faults for the length of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..drivers.virtual.faults import FaultScript

__all__ = ["faults"]


@contextmanager
def faults() -> Iterator[FaultScript]:
    """Yield the script that the virtual devices of every `Runtime` opened inside play.

    It may be written before the runtime opens and while it runs.
    """
    with FaultScript().active() as script:
        yield script
