"""What a program and its worker tell each other first."""

from __future__ import annotations

from typing import NamedTuple

from .imports import ImportState
from .wire import VERSION

__all__ = ["GREETING", "Descriptors", "Setup"]

GREETING = f"asyncgpu {VERSION}".encode()
"""The body of HELLO. Its form is for ever, so that any two versions can tell each other apart."""


class Descriptors(NamedTuple):
    """What the program leaves open for its worker, seen from the worker."""

    work: int
    control: int
    lifeline: int
    inbound: int
    outbound: int


class Setup(NamedTuple):
    """The first thing a worker is told; the body of SETUP."""

    name: str
    imports: ImportState
    same_interpreter: bool
    codecs: tuple[str, ...]
    """Import paths of codec classes."""
