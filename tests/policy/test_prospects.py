"""What could become of a request that nobody has made yet."""

from __future__ import annotations

import pytest

from asyncgpu.policy.device_inputs import BecameBusy, ClaimKind, Pinned, Requested, Shape
from asyncgpu.policy.device_spec import parse_device
from asyncgpu.policy.device_table import DeviceTable
from asyncgpu.policy.prospects import could_meet, has_room

GIB = 1 << 30


def shape(device="cuda", *, vram=None, kind=ClaimKind.RESIDENT, group=None):
    return Shape(kind, parse_device(device), vram=vram, group=group)


@pytest.fixture
def table(request):
    packing = getattr(request, "param", False)
    return DeviceTable({0: 8 * GIB, 1: 8 * GIB}, packing=packing)


def busy(table, claim, wanted):
    table.handle(Requested(claim, wanted), 0.0)
    table.handle(BecameBusy(claim), 0.0)


def test_a_device_of_somebody_who_ends_will_do(table):
    busy(table, 1, shape("cuda:0"))
    busy(table, 2, shape("cuda:1"))
    assert could_meet(shape(), table, [1], [1], reuse=False)
    assert not could_meet(shape(), table, [1], [1, 2], reuse=False)
    assert not could_meet(shape("cuda:0"), table, [1], [1], reuse=False)


def test_who_is_pinned_does_not_leave(table):
    busy(table, 1, shape("cuda:0"))
    table.handle(Requested(2, shape("cuda:1")), 0.0)
    assert could_meet(shape(), table, [1], [1], reuse=False)
    table.handle(Pinned(2, True), 0.0)
    assert not could_meet(shape(), table, [1], [1], reuse=False)


def test_a_lease_of_ones_own_is_reused_only_where_that_is_asked(table):
    table.handle(Requested(1, shape("cudax2", kind=ClaimKind.LEASE)), 0.0)
    assert could_meet(shape(), table, [1], [], reuse=True)
    assert not could_meet(shape(), table, [1], [], reuse=False)


def test_what_is_infeasible_is_not_refused_here(table):
    assert could_meet(shape("cuda:7"), table, [], [], reuse=False)


def test_asking_changes_nothing(table):
    busy(table, 1, shape("cuda:0"))
    could_meet(shape(), table, [1], [1], reuse=True)
    has_room(shape("cuda:1"), table)
    assert not table.waiting()
    assert len(table.history()) == 2
    table.check_invariants()


@pytest.mark.parametrize("table", [True], indirect=True)
def test_room_is_what_is_not_declared_by_others(table):
    busy(table, 1, shape("cuda:0", vram=3 * GIB, group="a"))
    assert has_room(shape("cuda:0", vram=5 * GIB), table)
    assert not has_room(shape("cuda:0", vram=6 * GIB), table)


def test_without_packing_there_is_no_room_beside_anybody(table):
    busy(table, 1, shape("cuda:0", vram=GIB))
    assert not has_room(shape("cuda:0", vram=GIB), table)
    assert has_room(shape("cuda:1", vram=GIB), table)
