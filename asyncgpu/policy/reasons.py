"""Why somebody waits, in words, for errors and the status."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from ..units import format_size
from .claims import Claim, ClaimState
from .device_inputs import ClaimKind
from .device_spec import DeviceChoice
from .occupancy import Device, Occupancy
from .placement import eligible

__all__ = ["why_waiting"]

# A machine may have many devices and a message has one line.
_MOST = 4

T = TypeVar("T")


def why_waiting(claim: Claim, occupancy: Occupancy) -> str:
    """Return what stands between a claim and its devices."""
    if claim.state is ClaimState.PROMISED:
        return f"waits for {_listed(list(claim.awaiting.values()), repr)} to leave"
    devices = [device for device in occupancy.devices.values() if eligible(device, claim.shape)]
    situations = _listed(devices, lambda device: _situation(device, claim))
    if claim.shape.spec.kind is DeviceChoice.EXACT:
        return f"waits for {claim.shape.spec}: {situations}"
    return f"waits for {claim.shape.spec} of {len(devices)} devices: {situations}"


def _situation(device: Device, claim: Claim) -> str:
    here = list(device.claims.values())
    state = f"held by {_listed(here, repr)}" if here else "free"
    if device.taken is not None:
        state = f"used by another program ({device.taken})"
    first = device.earmark
    if first is not None and first is not claim and first.order < claim.order:
        state += f", kept for {first!r}"
    if claim.shape.vram:
        state += f", {format_size(device.free)} not reserved"
        if device.others and claim.shape.kind is not ClaimKind.CONTEXT:
            state += f", of which other programs use {format_size(device.others)}"
    return f"cuda:{device.index} is {state}"


def _listed(things: Sequence[T], describe: Callable[[T], str]) -> str:
    more = len(things) - _MOST
    return ", ".join(map(describe, things[:_MOST])) + (f" and {more} more" if more > 0 else "")
