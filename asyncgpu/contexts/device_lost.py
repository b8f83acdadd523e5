"""Turns whatever a driver raised into a `DeviceLost` of one's own."""

from __future__ import annotations

from ..errors import DeviceLost

__all__ = ["device_lost"]


def device_lost(error: BaseException, what: str) -> DeviceLost:
    """Return a new `DeviceLost` that says what was being done when `error` was raised.

    It is a new object for each caller: one exception raised in many tasks collects the frames, and
    so the tensors, of all of them.
    """
    lost = DeviceLost(f"{what}: {error}")
    lost.__cause__ = error
    return lost
