"""The typed errors for an allocation that was refused: ours, and torch's out-of-memory one too.

Code that catches ``torch.OutOfMemoryError`` to try a smaller batch keeps working on them, and so
does code that catches ours. The classes are made late, because `asyncgpu.errors` must not need
torch.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from ..errors import AsyncGPUError, OutOfDeviceMemory, VRAMBudgetExceeded
from ..ports import Refusal

__all__ = ["out_of_memory_error"]

# What says the same without being a `torch.OutOfMemoryError`: the CPU's allocator, and CUDA where
# it needed memory outside torch's allocator. No ledger was asked in either case.
_FULL = ("DefaultCPUAllocator: can't allocate memory", "CUDA error: out of memory")

# torch's words: "Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.72 GiB of which
# 1.50 GiB is free.", and "you tried to allocate 4000000000000 bytes." on the CPU.
_SIZE = r"([0-9.]+) (bytes|[KMG]iB)"
_REQUESTED = re.compile(rf"[Tt]ried to allocate {_SIZE}")
_FREE = re.compile(rf"of which {_SIZE} is free")
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def out_of_memory_error(
    error: Exception, *, context: str, device: int, refusal: Refusal | None
) -> Exception:
    """Return our error for an out-of-memory one of torch, or `error` itself: it is none, or ours.

    It is a `VRAMBudgetExceeded` where the context's own budget refused, else an
    `OutOfDeviceMemory`; in both cases a ``torch.OutOfMemoryError`` too. It refers to nothing of
    `error`, whose frames hold the tensors of the step that failed.

    Args:
        error: what the step raised.
        context: the name of the context it ran in.
        device: logical index.
        refusal: the latest of the context's account; None: the ledger has refused nothing.
    """
    import torch

    if isinstance(error, AsyncGPUError):
        # Translated where it came from, by the context whose budget it was.
        return error
    if not isinstance(error, torch.OutOfMemoryError):
        if not (isinstance(error, RuntimeError) and any(full in str(error) for full in _FULL)):
            return error
        refusal = None
    if refusal is None:
        text = str(error)
        refusal = Refusal(_bytes(_REQUESTED, text), _bytes(_FREE, text), by_device=True)
    if refusal.by_device:
        arguments: tuple[Any, ...] = (f"cuda:{device}", refusal.requested, refusal.available)
        return _rebuilt(OutOfDeviceMemory, arguments)
    return _rebuilt(VRAMBudgetExceeded, (context, refusal.requested, refusal.available))


def _rebuilt(base: type[AsyncGPUError], arguments: tuple[Any, ...]) -> AsyncGPUError:
    return _known_to_torch()[base](*arguments)


@functools.cache
def _known_to_torch() -> dict[type[AsyncGPUError], type[AsyncGPUError]]:
    """Return the classes that are torch's errors too, by what they are of ours."""
    import torch

    def reduce(self: AsyncGPUError) -> object:
        # By its base, because a class made at run time cannot be found by name.
        return _rebuilt, (type(self).__bases__[0], self.args)

    def derived(base: type[AsyncGPUError]) -> type[AsyncGPUError]:
        members = {"__module__": base.__module__, "__doc__": base.__doc__, "__reduce__": reduce}
        return type(base.__name__, (base, torch.OutOfMemoryError), members)

    return {base: derived(base) for base in (VRAMBudgetExceeded, OutOfDeviceMemory)}


def _bytes(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.search(text)
    return int(float(found[1]) * _UNITS[found[2]]) if found else 0
