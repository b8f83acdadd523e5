"""How much of each device's memory this program plans with."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

from ..ports import DeviceInfo
from ..units import format_size

__all__ = ["planned"]

log = logging.getLogger("asyncgpu.runtime")


def planned(inventory: Iterable[DeviceInfo], budget: int | None) -> list[DeviceInfo]:
    """Return the devices with the memory that is planned with as their total.

    Args:
        inventory: the devices as they are.
        budget: bytes of each; more than a device has is clamped, with a warning. None: all.
    """
    return [info if budget is None else _within(info, budget) for info in inventory]


def _within(info: DeviceInfo, budget: int) -> DeviceInfo:
    if budget > info.total_memory:
        log.warning(
            "total_vram_budget %s is more than cuda:%d has: clamped to %s",
            format_size(budget),
            info.index,
            format_size(info.total_memory),
        )
        return info
    return replace(info, total_memory=budget)
