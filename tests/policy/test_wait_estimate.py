"""How long holders keep their devices, and what that means for those who wait."""

from __future__ import annotations

import pytest

from asyncgpu.policy.device_inputs import (
    BecameBusy,
    BecameIdle,
    ClaimKind,
    Evicted,
    LocksTried,
    Released,
    Requested,
    Shape,
)
from asyncgpu.policy.device_spec import parse_device
from asyncgpu.policy.device_table import DeviceTable
from asyncgpu.policy.hold_times import HoldTimes
from asyncgpu.policy.wait_estimate import estimate_waits

LEASE, RESIDENT = ClaimKind.LEASE, ClaimKind.RESIDENT


class Desk:
    """A table whose holders are timed, as the shell does it."""

    def __init__(self, devices, **options):
        self.table = DeviceTable(dict.fromkeys(range(devices), 8), **options)
        self.holds = HoldTimes()
        self.claims = 0

    def tell(self, input, now):
        claim = self.table.claim(input.claim)
        self.holds.observe(input, claim, now)
        return self.table.handle(input, now)

    def ask(self, device, now, kind=LEASE, **wants):
        self.claims += 1
        shape = Shape(kind, parse_device(device), **wants)
        self.tell(Requested(self.claims, shape), now)
        return self.claims

    def lease_of(self, seconds):
        self.tell(Released(self.ask("cuda", 0.0)), seconds)

    def waits(self, now):
        waiting = self.table.waiting()
        found = estimate_waits(waiting, self.table.occupancy, self.holds, now)
        return [found[claim.id] for claim in waiting]


def test_before_anything_has_ended_nothing_is_known():
    desk = Desk(1)
    desk.ask("cuda", 0.0)
    desk.ask("cuda", 1.0)
    assert desk.waits(2.0) == [None]


def test_the_queue_is_played_forward():
    desk = Desk(2)
    desk.lease_of(10.0)
    desk.ask("cuda", 100.0)
    desk.ask("cuda", 104.0)
    for _ in range(3):
        desk.ask("cuda", 105.0)
    # The devices come free at 110 and 114, and the first of them at 120 again.
    assert desk.waits(105.0) == [5.0, 9.0, 15.0]


def test_who_needs_several_waits_for_the_last_of_them():
    desk = Desk(2)
    desk.lease_of(10.0)
    desk.ask("cuda", 100.0)
    desk.ask("cuda", 104.0)
    desk.ask("cudax2", 105.0)
    desk.ask("cuda:1", 105.0)
    assert desk.waits(105.0) == [9.0, 19.0]


def test_one_that_takes_longer_than_usual_may_end_at_any_moment():
    desk = Desk(1)
    desk.lease_of(10.0)
    desk.ask("cuda", 100.0)
    desk.ask("cuda", 101.0)
    assert desk.waits(150.0) == [0.0]


def test_a_resident_is_timed_by_its_calls():
    desk = Desk(1)
    resident = desk.ask("cuda", 0.0, RESIDENT)
    desk.ask("cuda", 1.0)
    assert desk.waits(1.0) == [None], "it starts, and that may take any time"
    desk.tell(BecameBusy(resident), 5.0)
    assert desk.waits(5.0) == [None]
    desk.tell(BecameIdle(resident), 8.0)
    desk.tell(Evicted(resident), 8.0)
    [lease] = [claim for device in desk.table.devices() for claim in device.claims.values()]
    desk.tell(Released(lease.id), 9.0)

    again = desk.ask("cuda", 10.0, RESIDENT)
    desk.tell(BecameBusy(again), 10.0)
    desk.ask("cuda", 11.0)
    assert desk.waits(11.0) == [2.0]


def test_what_another_program_has_is_unknown():
    desk = Desk(2, locks=True)
    desk.table.handle(LocksTried((), {0: "another", 1: "another"}), 0.0)
    desk.claims += 1
    desk.table.handle(Requested(desk.claims, Shape(LEASE, parse_device("cuda"))), 0.0)
    assert desk.waits(1.0) == [None]


def test_with_packing_the_first_to_leave_makes_room():
    desk = Desk(1, packing=True)
    desk.lease_of(10.0)
    desk.ask("cuda", 100.0, vram=4)
    desk.ask("cuda", 104.0, vram=4)
    desk.ask("cuda", 105.0, vram=4)
    assert desk.waits(105.0) == [5.0]


@pytest.mark.parametrize("seconds", [1.0, 4.0])
def test_the_mean_follows_the_latest(seconds):
    desk = Desk(1)
    desk.lease_of(2.0)
    for _ in range(60):
        desk.lease_of(seconds)
    assert desk.holds.expected(LEASE) == pytest.approx(seconds, rel=0.05)
