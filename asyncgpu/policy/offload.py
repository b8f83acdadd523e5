"""What becomes of the model of an evicted resident."""

from __future__ import annotations

from enum import Enum

__all__ = ["OffloadStrategy"]


class OffloadStrategy(Enum):
    """How an evicted resident gives its devices back."""

    RESTART = "restart"
    """Its process ends: the only sure way to free everything that CUDA holds for it."""
    CPU = "cpu"
    """Its model moves to host memory and the process stays; what cannot move is restarted."""
