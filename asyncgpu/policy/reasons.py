"""Why somebody waits, in words, for errors and the status."""

from __future__ import annotations

from collections.abc import Iterable

from ..units import format_size
from .claims import Claim, ClaimState
from .device_spec import DeviceChoice
from .occupancy import Device, Occupancy
from .placement import eligible

__all__ = ["why_waiting"]

# A machine may have many devices and a message has one line.
_MOST_DEVICES = 4


def why_waiting(claim: Claim, occupancy: Occupancy) -> str:
    """Return what stands between a claim and its devices."""
    if claim.state is ClaimState.PROMISED:
        return f"waits for {_listed(map(repr, claim.awaiting.values()))} to leave"
    devices = [device for device in occupancy.devices.values() if eligible(device, claim.shape)]
    situation = _listed(_situation(device, claim) for device in devices)
    if claim.shape.spec.kind is DeviceChoice.EXACT:
        return f"waits for {claim.shape.spec}: {situation}"
    return f"waits for {claim.shape.spec} of {len(devices)} devices: {situation}"


def _situation(device: Device, claim: Claim) -> str:
    here = list(map(repr, device.claims.values()))
    state = f"held by {_listed(here)}" if here else "free"
    first = device.earmark
    if first is not None and first is not claim and first.order < claim.order:
        state += f", kept for {first!r}"
    if claim.shape.vram:
        state += f", {format_size(device.free)} not reserved"
    return f"cuda:{device.index} is {state}"


def _listed(parts: Iterable[str]) -> str:
    everything = list(parts)
    more = len(everything) - _MOST_DEVICES
    return ", ".join(everything[:_MOST_DEVICES]) + (f" and {more} more" if more > 0 else "")
