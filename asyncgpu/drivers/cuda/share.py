"""In a worker process: no more of a device than its tool has declared."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["LIMIT_MEMORY", "limit_memory"]

LIMIT_MEMORY = "asyncgpu.drivers.cuda.share:limit_memory"
"""The import path of `limit_memory`, for `Preparation`."""


def limit_memory(devices: Sequence[str], nbytes: int) -> None:
    """Have torch refuse this process more than `nbytes` on each of `devices`.

    It counts what torch's allocator takes, all its pools together, as of torch 2.8; the CUDA
    context itself and the workspaces of libraries come on top. A refusal is a
    ``torch.OutOfMemoryError``, like any other.

    Args:
        devices: as torch calls them here.
        nbytes: more than a device has means all of it.
    """
    try:
        import torch
    except ImportError:
        return  # the tool computes with something else, whose memory nobody here can limit
    if not torch.cuda.is_available():
        return
    for device in devices:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, nbytes / total), device)
