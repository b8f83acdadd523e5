"""``CUDA_VISIBLE_DEVICES``, read as CUDA reads it. Pure: text and devices in, UUIDs out.

The rules are those of the CUDA programming guide, "CUDA environment variables"; where it is silent
(repeated entries, text after a number) they are those of torch's own count, so that both agree.
The MIG rules are those of the MIG user guide, "device enumeration".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Gpu", "MigInstance", "visible_devices"]

_LEADING_INTEGER = re.compile(r"\s*([+-]?[0-9]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class MigInstance:
    """One compute instance of a GPU in MIG mode."""

    uuid: str
    """``"MIG-..."``."""
    legacy_name: str = ""
    """``"MIG-GPU-<uuid>/<GPU instance>/<compute instance>"``, as drivers before 470 wrote it."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One physical GPU, as NVML lists it."""

    uuid: str
    """``"GPU-..."``."""
    mig_mode: bool = False
    instances: tuple[MigInstance, ...] = ()


def visible_devices(value: str | None, gpus: Sequence[Gpu]) -> tuple[str, ...]:
    """Return the UUIDs of the devices that CUDA shows, in logical order.

    Args:
        value: what ``CUDA_VISIBLE_DEVICES`` is set to; None: it is not set.
        gpus: all of the machine's GPUs, in the order that indices in `value` count.
    """
    if value is not None and value.startswith("MIG-"):
        return _instance(value, gpus)
    chosen = list(gpus) if value is None else _chosen(value, gpus)
    for gpu in chosen:
        # A program sees one MIG instance, the first, and then no other device beside it.
        if gpu.instances:
            return (gpu.instances[0].uuid,)
    return tuple(gpu.uuid for gpu in chosen if not gpu.mig_mode)


def _chosen(value: str, gpus: Sequence[Gpu]) -> list[Gpu]:
    if value.startswith("GPU-"):
        return _by_uuid(value.split(","), gpus)
    return _by_index(value.split(","), gpus)


def _by_index(entries: Sequence[str], gpus: Sequence[Gpu]) -> list[Gpu]:
    indices: list[int] = []
    for entry in entries:
        match = _LEADING_INTEGER.match(entry)
        index = -1 if match is None else int(match[1])
        if index < 0:
            break
        if index in indices:
            return []
        indices.append(index)
    chosen: list[Gpu] = []
    for index in indices:
        if index >= len(gpus):
            break
        chosen.append(gpus[index])
    return chosen


def _by_uuid(entries: Sequence[str], gpus: Sequence[Gpu]) -> list[Gpu]:
    chosen: list[Gpu] = []
    for entry in entries:
        if not entry.startswith("GPU-"):
            break
        matching = [gpu for gpu in gpus if gpu.uuid.startswith(entry)]
        # An abbreviation that fits no GPU, or several, is an invalid entry and ends the list.
        if len(matching) != 1:
            break
        if matching[0] in chosen:
            return []
        chosen += matching
    return chosen


def _instance(value: str, gpus: Sequence[Gpu]) -> tuple[str, ...]:
    # Later entries change nothing: only one instance is ever shown.
    first = value.split(",")[0]
    names = [(instance, gpu) for gpu in gpus for instance in gpu.instances]
    matching = [i.uuid for i, _ in names if i.uuid.startswith(first) or i.legacy_name == first]
    return tuple(matching) if len(matching) == 1 else ()
