"""Which devices a pool has, and how many workers of a tool fit on them."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InfeasibleRequest, InvalidDevice, InvalidRequest, RequestError
from ..policy.device_spec import parse_device
from .tool import Tool

__all__ = ["GpuChoice", "check_gpus", "choose_gpus", "seats_for"]

GpuChoice = str | int | tuple[int, ...]
"""``"all"``, the first so many, or exactly these."""


def check_gpus(gpus: object) -> GpuChoice:
    """Read the `gpus` parameter of a pool.

    Raises:
        InvalidRequest: it means nothing.
        InvalidDevice: an element of a list does not name one GPU, or names one twice.
    """
    if gpus == "all":
        return "all"
    if isinstance(gpus, int) and not isinstance(gpus, bool) and gpus >= 0:
        return gpus
    if isinstance(gpus, (list, tuple)):
        return _parse_list(gpus)
    raise InvalidRequest(f"gpus: {gpus!r} is not 'all', an int of 0 or more, or a list of 'cuda:I'")


def choose_gpus(gpus: GpuChoice, managed: tuple[int, ...]) -> tuple[int, ...]:
    """Return the logical indices of a pool's devices.

    Raises:
        InfeasibleRequest: more than are managed, or one that is not.
    """
    if isinstance(gpus, str):
        return managed
    if isinstance(gpus, int):
        if gpus > len(managed):
            raise InfeasibleRequest(f"gpus={gpus}, and {len(managed)} are managed")
        return managed[:gpus]
    missing = [index for index in gpus if index not in managed]
    if missing:
        known = ", ".join(f"cuda:{index}" for index in managed) or "none"
        raise InfeasibleRequest(f"gpus: cuda:{missing[0]} is not managed (managed: {known})")
    return gpus


def seats_for(tool: Tool, *, indices: tuple[int, ...], cpus: int) -> int:
    """Return how many workers of `tool` a pool may have: one for each slot of its devices.

    Raises:
        InfeasibleRequest: not even one fits.
        RequestError: the tool names a device that is not the pool's.
    """
    spec = parse_device(tool.device)
    if spec.is_cpu:
        return _cpu_seats(tool, cpus)
    if not indices:
        raise InfeasibleRequest(
            f"{tool.name} needs {tool.device!r} and this pool has no GPUs"
            " (without a GPU, ASYNCGPU_VIRTUAL_DEVICES=2x8GiB makes two out of the CPU)"
        )
    outside = [index for index in spec.indices if index not in indices]
    if outside:
        raise RequestError(f"{tool.name} wants cuda:{outside[0]}, which is not in this pool")
    if spec.count > len(indices):
        raise InfeasibleRequest(
            f"{tool.name} needs {spec.count} GPUs; this pool has {len(indices)}"
        )
    return 1 if spec.indices else len(indices) // spec.count


def _cpu_seats(tool: Tool, cpus: int) -> int:
    if not 1 <= tool.cpus_per_worker <= cpus:
        raise InfeasibleRequest(
            f"{tool.name} needs {tool.cpus_per_worker} CPU threads for each worker;"
            f" this pool has {cpus}"
        )
    return cpus // tool.cpus_per_worker


def _parse_list(gpus: Sequence[object]) -> tuple[int, ...]:
    indices: list[int] = []
    for gpu in gpus:
        spec = parse_device(gpu) if isinstance(gpu, str) else None
        if spec is None or len(spec.indices) != 1:
            raise InvalidDevice(f"gpus: {gpu!r} does not name one GPU; write 'cuda:0'")
        if spec.indices[0] in indices:
            raise InvalidDevice(f"gpus: {gpu!r} is there twice")
        indices.append(spec.indices[0])
    return tuple(indices)
