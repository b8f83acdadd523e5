"""What must hold of the device table after every input. Tests call it; it looks at everything."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from .claims import Claim, ClaimState
from .device_inputs import ClaimKind
from .device_spec import DeviceChoice
from .occupancy import Device, Occupancy
from .placement import eligible, may_coexist
from .serving import Serving

__all__ = ["check_table"]


def check_table(claims: Mapping[int, Claim], occupancy: Occupancy, serving: Serving) -> None:
    """Raise `AssertionError` for the first contradiction."""
    for claim in claims.values():
        _check_claim(claim, occupancy)
    for device in occupancy.devices.values():
        assert all(claims.get(claim.id) is claim for claim in device.claims.values()), device.index
        _check_bytes(device)
        _check_neighbours(device, packing=occupancy.packing)
    _check_queue(claims, occupancy, serving)
    _check_victims(claims, occupancy, serving)


def _check_claim(claim: Claim, occupancy: Occupancy) -> None:
    """A claim stands on as many devices as it asked for, or on none while it waits."""
    for device in occupancy.devices.values():
        assert (device.index in claim.devices) == (claim.id in device.claims), claim
    expected = 0 if claim.state is ClaimState.WAITING else claim.shape.spec.count
    assert len(claim.devices) == expected, claim
    if claim.shape.spec.kind is DeviceChoice.EXACT and expected:
        assert claim.devices == claim.shape.spec.indices, claim
    assert bool(claim.awaiting) == (claim.state is ClaimState.PROMISED), claim
    assert all(victim.state is ClaimState.EVICTING for victim in claim.awaiting.values()), claim
    assert claim.state is not ClaimState.GONE, claim
    assert not claim.on_agenda, claim
    for index, lease in claim.covers.items():
        assert lease.id in occupancy.devices[index].claims, claim
        assert lease.shape.kind is ClaimKind.LEASE, claim
        assert lease.shape.vram is not None, claim


def _check_bytes(device: Device) -> None:
    """Nothing is reserved twice, neither now nor once every eviction is over."""
    here = device.claims.values()
    present = sum(c.charge(device.index) for c in here if c.state is not ClaimState.PROMISED)
    settled = sum(c.charge(device.index) for c in here if c.state is not ClaimState.EVICTING)
    assert device.present == present, device.index
    assert max(present, settled) <= device.peak <= device.capacity, device.index
    for lease in here:
        lent = [c for c in here if c.covers.get(device.index) is lease]
        assert sum(c.shape.vram or 0 for c in lent) <= (lease.shape.vram or 0), lease


def _check_neighbours(device: Device, *, packing: bool) -> None:
    """No two share a device that may not, but for families, victims and a change of packing."""
    staying = [c for c in device.claims.values() if c.state is not ClaimState.EVICTING]
    for one, other in combinations(staying, 2):
        if not device.crowded and not one.is_kin(other):
            assert may_coexist(one.shape, other.shape, packing=packing), (device.index, one, other)


def _check_queue(claims: Mapping[int, Claim], occupancy: Occupancy, serving: Serving) -> None:
    """Lines hold exactly those without devices; only heads lay hands on devices."""
    waiting = set()
    for line in serving.room.lines():
        assert line.waiting or line.promised, line.shape
        assert all(claim.state is ClaimState.WAITING for claim in line.waiting), line.shape
        assert all(claim.state is ClaimState.PROMISED for claim in line.promised), line.shape
        waiting |= {claim.id for queue in line.queues for claim in queue}
        for claim in line.waiting:
            assert not claim.hands or claim is line.waiting.head, claim
    assert waiting == {claim.id for claim in claims.values() if not claim.state.granted}
    for device in occupancy.devices.values():
        first = device.earmark
        holders = [claim for claim in claims.values() if device.index in claim.hands]
        assert holders == ([] if first is None else [first]), device.index
        assert first is None or eligible(device, first.shape), device.index


def _check_victims(claims: Mapping[int, Claim], occupancy: Occupancy, serving: Serving) -> None:
    """Idle residents are listed by use; none stays where nothing is managed any more."""
    idle = [claim for claim in claims.values() if claim.evictable and claim.devices]
    assert serving.victims.idle == sorted(idle, key=lambda claim: claim.recency)
    devices = occupancy.devices
    for claim in idle:
        assert all(devices[index].managed for index in claim.devices), claim
    unspoken = {
        claim.id
        for claim in claims.values()
        if claim.state is ClaimState.EVICTING
        for index in claim.devices
        if occupancy.packing or not _promised_to_one(devices[index])
    }
    assert {claim.id for claim in serving.victims.leaving} == unspoken


def _promised_to_one(device: Device) -> bool:
    return any(
        claim.state is ClaimState.PROMISED and claim.shape.kind is not ClaimKind.CONTEXT
        for claim in device.claims.values()
    )
