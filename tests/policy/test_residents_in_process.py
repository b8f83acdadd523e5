"""Residents that are contexts: what they have declared is set aside once, where contexts count."""

from __future__ import annotations

from asyncgpu.policy.device_inputs import ClaimKind, Requested, Shape
from asyncgpu.policy.device_spec import parse_device
from asyncgpu.policy.device_table import DeviceTable


def request(claim, kind, vram, *, in_process=False, held=()):
    shape = Shape(kind, parse_device("cuda:0"), vram=vram, in_process=in_process)
    return Requested(claim, shape, held=frozenset(held))


def test_a_worker_in_this_process_keeps_nothing_from_contexts_because_it_is_one():
    table = DeviceTable({0: 8}, packing=True)
    table.handle(request(1, ClaimKind.RESIDENT, 5, in_process=True), 0.0)
    assert table.kept_from_contexts(0) == 0
    table.handle(request(2, ClaimKind.RESIDENT, 3), 0.0)
    assert table.kept_from_contexts(0) == 3
    table.handle(request(3, ClaimKind.RESIDENT, 1), 0.0)
    assert table.kept_from_contexts(0) == 3, "the device is full"


def test_inside_a_lease_contexts_have_what_it_has_taken_from_the_lease():
    table = DeviceTable({0: 8}, packing=True)
    table.handle(request(1, ClaimKind.LEASE, 6), 0.0)
    assert table.kept_from_contexts(0) == 6
    table.handle(request(2, ClaimKind.RESIDENT, 5, in_process=True, held=[1]), 0.0)
    assert table.kept_from_contexts(0) == 1
