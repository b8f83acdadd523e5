"""Reads the `timeout` parameters of contexts and sessions."""

from __future__ import annotations

import math

from ..errors import InvalidRequest

__all__ = ["checked_timeout"]

# Threads cannot wait much longer than that at a time; nobody can.
_A_LIFE = 3e9


def checked_timeout(timeout: float | None) -> float | None:
    """Return `timeout` in seconds; None: no limit.

    Raises:
        InvalidRequest: negative, NaN, or not a number.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise InvalidRequest(f"timeout: {timeout!r} is not a number of seconds")
    if math.isnan(timeout) or timeout < 0:
        raise InvalidRequest(f"timeout: {timeout} seconds; it must be 0 or more")
    return None if timeout > _A_LIFE else timeout
