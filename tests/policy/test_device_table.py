"""The device table, one situation at a time."""

from __future__ import annotations

import pytest

from asyncgpu.errors import InvalidRequest, InvalidTransition
from asyncgpu.policy.claims import TRANSITIONS, ClaimState, Step
from asyncgpu.policy.device_actions import Evict, Grant, Reject
from asyncgpu.policy.device_inputs import (
    BecameBusy,
    BecameIdle,
    Cancelled,
    ClaimKind,
    Configured,
    Evicted,
    Pinned,
    Released,
    Requested,
    Shape,
)
from asyncgpu.policy.device_spec import parse_device
from asyncgpu.policy.device_table import DeviceTable
from asyncgpu.policy.offload import OffloadStrategy
from asyncgpu.policy.qos import QoSPolicy

RESTART = OffloadStrategy.RESTART


class Desk:
    """A table, with a clock that ticks at each input and short ways to ask."""

    def __init__(self, devices=2, *, capacity=8, **options):
        capacities = capacity if isinstance(capacity, dict) else dict.fromkeys(range(devices), 8)
        self.table = DeviceTable(capacities, **options)
        self.now = 0.0
        self.claims = 0

    def tell(self, input):
        self.now += 1.0
        actions = self.table.handle(input, self.now)
        self.table.check_invariants()
        return actions

    def ask(self, device, kind=ClaimKind.LEASE, *, qos=QoSPolicy.BURSTABLE, held=(), **wants):
        """Request; return the claim's number and the actions."""
        self.claims += 1
        shape = Shape(kind, parse_device(device), **wants)
        return self.claims, self.tell(Requested(self.claims, shape, qos, frozenset(held), "me"))

    def get(self, device, kind=ClaimKind.LEASE, **wants):
        """Request what is granted at once; return the claim's number."""
        claim, actions = self.ask(device, kind, **wants)
        assert isinstance(actions[0], Grant), actions
        return claim

    def idle(self, device, **wants):
        """Place an idle resident; return the claim's number."""
        claim = self.get(device, ClaimKind.RESIDENT, **wants)
        self.tell(BecameIdle(claim))
        return claim

    def state(self, claim):
        found = self.table.claim(claim)
        return ClaimState.GONE if found is None else found.state

    def devices(self, claim):
        return self.table.claim(claim).devices


# ---------------------------------------------------------------------------------- placement


def test_free_devices_go_in_numeric_order():
    desk = Desk(12)
    assert desk.ask("cudax11")[1][0].devices == tuple(range(11))
    assert desk.ask("cuda")[1] == [Grant(2, (11,), "free")]


def test_packing_spreads_by_free_memory_then_holders_then_index():
    desk = Desk(capacity={0: 8, 1: 10, 2: 8}, packing=True)
    placed = [desk.ask("cuda", vram=vram)[1][0].devices for vram in (3, 1, 1, None, None)]
    assert placed == [(1,), (0,), (2,), (0,), (1,)]


def test_packing_takes_several_devices_with_most_room():
    desk = Desk(capacity={0: 8, 1: 10, 2: 9}, packing=True)
    assert desk.ask("cudax2", vram=1)[1][0].devices == (1, 2)


def test_among_limits_the_choice():
    desk = Desk(4)
    assert desk.ask("cuda", among=frozenset({3, 1}))[1][0].devices == (1,)
    assert desk.ask("cuda:3", among=frozenset({3}))[1][0].devices == (3,)
    assert isinstance(desk.ask("cuda:0", among=frozenset({3}))[1][0], Reject)


def test_an_unknown_device_in_among_is_no_device():
    desk = Desk(2)
    assert desk.ask("cuda", among=frozenset({1, 7}))[1][0].devices == (1,)
    assert (
        "usable by this request: cuda:1" in desk.ask("cudax2", among=frozenset({1, 7}))[1][0].reason
    )


def test_a_group_keeps_its_claims_apart_and_never_evicts_its_own():
    desk = Desk(2, packing=True)
    for index in (0, 1):
        claim = desk.get("cuda", ClaimKind.RESIDENT, group="pool")
        assert desk.devices(claim) == (index,)
        desk.tell(BecameIdle(claim))
    waiter, actions = desk.ask("cuda", ClaimKind.RESIDENT, group="pool")
    assert actions == []
    assert desk.get("cuda", ClaimKind.RESIDENT, group="other")
    assert desk.tell(Released(2)) == [Grant(waiter, (1,), "free")]


def test_the_cpu_needs_no_device():
    desk = Desk(0)
    claim, actions = desk.ask("cpu", ClaimKind.RESIDENT)
    assert actions == [Grant(claim, (), "needs no device")]
    assert desk.tell(BecameIdle(claim)) == []
    assert desk.tell(BecameBusy(claim)) == []
    assert desk.table.explain(claim) == "busy on cpu"
    assert desk.tell(Released(claim)) == []


# ------------------------------------------------------------------------------------ eviction


def test_the_plan_takes_as_few_as_it_can_and_the_oldest_of_them():
    desk = Desk(3)
    oldest, _, newest = (desk.idle("cuda") for _ in range(3))
    claim, actions = desk.ask("cudax2")
    assert [action.claim for action in actions] == [oldest, 2]
    assert all(action.cause == claim and not action.running for action in actions)
    assert "least recently used" in actions[0].reason
    assert desk.state(newest) is ClaimState.IDLE
    assert desk.tell(Evicted(2)) == []
    assert desk.tell(Evicted(oldest)) == [Grant(claim, (0, 1), "its evictions are over")]


def test_the_end_of_the_last_call_counts_even_if_the_clock_stands_still():
    desk = Desk(2)
    first, second = (desk.get("cuda", ClaimKind.RESIDENT) for _ in range(2))
    for claim in (second, first):
        desk.table.handle(BecameIdle(claim), 5.0)
    [action] = desk.table.handle(Requested(9, Shape(ClaimKind.LEASE, parse_device("cuda"))), 5.0)
    assert action.claim == second


def test_a_victim_on_two_devices_frees_both():
    desk = Desk(2)
    victim = desk.idle("cudax2")
    first, [evict] = desk.ask("cuda")
    assert evict.claim == victim
    second, actions = desk.ask("cuda")
    assert actions == []
    assert desk.state(second) is ClaimState.PROMISED
    assert desk.tell(Evicted(victim)) == [
        Grant(first, (0,), "its evictions are over"),
        Grant(second, (1,), "its evictions are over"),
    ]


def test_packing_evicts_only_whom_it_must():
    desk = Desk(1, packing=True)
    small, big = desk.idle("cuda", vram=1), desk.idle("cuda", vram=6)
    claim, actions = desk.ask("cuda", vram=6)
    assert [action.claim for action in actions] == [big]
    assert desk.state(small) is ClaimState.IDLE
    assert desk.tell(Evicted(big)) == [Grant(claim, (0,), "its evictions are over")]


def test_two_promises_on_one_device_are_kept_one_by_one_and_never_overbook_it():
    desk = Desk(1, packing=True)
    first, second = desk.idle("cuda", vram=4), desk.idle("cuda", vram=4)
    one, [evict] = desk.ask("cuda", vram=3)
    assert evict.claim == first
    two, [evict] = desk.ask("cuda", vram=4)
    assert evict.claim == second
    # One is kept while the second victim still stands: 3 + 4 of 8 bytes.
    assert desk.tell(Evicted(first)) == [Grant(one, (0,), "its evictions are over")]
    device = next(desk.table.devices())
    assert (device.present, device.peak) == (7, 7)
    assert desk.ask("cuda", vram=2)[1] == []
    assert desk.tell(Evicted(second)) == [Grant(two, (0,), "its evictions are over")]


def test_a_promise_waits_for_all_who_leave_its_device_whoever_they_leave_for():
    desk = Desk(1, packing=True)
    first, second = desk.idle("cuda", vram=4), desk.idle("cuda", vram=4)
    small, _ = desk.ask("cuda", vram=2)
    large, [evict] = desk.ask("cuda", vram=6)
    assert evict.claim == second
    # There is room for the small one now; the large one needs both victims gone.
    [grant] = desk.tell(Evicted(second))
    assert grant == Grant(small, (0,), "free before its evictions are over")
    assert desk.tell(Evicted(first)) == [Grant(large, (0,), "its evictions are over")]


def test_a_preempting_request_takes_running_residents_lowest_class_first():
    desk = Desk(3)
    for qos in QoSPolicy:
        desk.tell(BecameBusy(desk.get("cuda", ClaimKind.RESIDENT, qos=qos)))
    claim, [evict] = desk.ask("cuda", preempts=QoSPolicy.BURSTABLE)
    assert evict == Evict(3, RESTART, claim, True, evict.reason)
    assert evict.reason.startswith("preempted while busy")
    _, [evict] = desk.ask("cuda", preempts=QoSPolicy.BURSTABLE)
    assert evict.claim == 2
    assert desk.ask("cuda", preempts=QoSPolicy.BURSTABLE)[1] == []


def test_what_began_later_is_not_preempted_for_who_waits_already():
    desk = Desk(1)
    lease = desk.get("cuda")
    desk.ask("cuda", ClaimKind.RESIDENT, qos=QoSPolicy.GUARANTEED)
    waiter, _ = desk.ask("cuda", preempts=QoSPolicy.GUARANTEED)
    assert desk.tell(Released(lease)) == [Grant(2, (0,), "free")]
    assert desk.state(waiter) is ClaimState.WAITING


def test_a_pinned_resident_is_no_victim_not_even_of_preemption():
    desk = Desk(1)
    claim = desk.idle("cuda")
    desk.tell(Pinned(claim, True))
    assert desk.ask("cuda", preempts=QoSPolicy.GUARANTEED)[1] == []
    [evict] = desk.tell(Pinned(claim, False))
    assert evict.claim == claim


# ------------------------------------------------------------------------------------ fairness


def test_a_request_for_two_is_not_starved():
    desk = Desk(2)
    first, second = desk.get("cuda"), desk.get("cuda")
    pair, _ = desk.ask("cudax2")
    desk.ask("cuda")
    assert desk.tell(Released(first)) == []
    assert desk.tell(Released(second)) == [Grant(pair, (0, 1), "free")]


def test_a_waiter_for_one_device_does_not_block_another():
    desk = Desk(2)
    desk.get("cuda:0")
    desk.ask("cuda:0")
    assert desk.ask("cuda")[1] == [Grant(3, (1,), "free")]


def test_with_packing_a_large_request_is_not_starved_by_small_ones():
    desk = Desk(2, packing=True)
    held = [desk.get("cuda", vram=5) for _ in range(2)]
    large, _ = desk.ask("cuda", vram=7)
    # One device is kept for the large one; the other takes small ones.
    assert desk.ask("cuda", vram=2)[1][0].devices == (1,)
    assert desk.ask("cuda", vram=2)[1] == []
    assert desk.tell(Released(held[0])) == [Grant(large, (0,), "free")]


def test_an_earlier_key_takes_over_what_a_later_one_kept():
    desk = Desk(2)
    first, second = desk.get("cuda:0"), desk.get("cuda:1")
    pair, _ = desk.ask("cudax2", qos=QoSPolicy.BEST_EFFORT)
    desk.tell(Released(first))
    assert desk.table.claim(pair).hands == (0,)
    assert desk.ask("cuda", qos=QoSPolicy.GUARANTEED)[1] == [Grant(4, (0,), "free")]
    assert desk.table.claim(pair).hands == ()
    desk.tell(Released(second))
    assert desk.tell(Released(4)) == [Grant(pair, (0, 1), "free")]


def test_an_earlier_key_of_the_same_shape_takes_over_too():
    desk = Desk(2)
    desk.get("cuda:0")
    first, second = (desk.ask("cudax2", qos=qos)[0] for qos in list(QoSPolicy)[1:])
    assert desk.table.claim(first).hands == (1,)
    third, _ = desk.ask("cudax2", qos=QoSPolicy.GUARANTEED)
    assert [desk.table.claim(c).hands for c in (first, second, third)] == [(), (), (1,)]


def test_a_head_that_is_overtaken_in_its_line_keeps_nothing():
    desk = Desk(2, packing=True)
    desk.get("cuda:0", vram=5)
    desk.get("cuda:1", vram=4)
    named, _ = desk.ask("cuda:1", vram=7)
    before, _ = desk.ask("cuda", vram=6, qos=QoSPolicy.BEST_EFFORT)
    assert [desk.table.claim(c).hands for c in (named, before)] == [(1,), (0,)]
    ahead, _ = desk.ask("cuda", vram=6, qos=QoSPolicy.GUARANTEED)
    assert [desk.table.claim(c).hands for c in (ahead, named, before)] == [(1,), (), ()]


def test_whoever_let_a_nested_claim_pass_looks_again_at_what_is_left():
    desk = Desk(1, packing=True)
    own = desk.get("cuda", vram=8)
    waiter, _ = desk.ask("cuda", vram=3, group="g")
    assert desk.table.claim(waiter).hands == (0,)
    desk.get("cuda:0", vram=3, group="g", held=[own])
    assert desk.table.claim(waiter).hands == ()


def test_a_device_goes_straight_to_the_first_of_all_who_want_it():
    desk = Desk(3)
    held = [desk.get("cuda") for _ in range(3)]
    pair, _ = desk.ask("cudax2")
    one, _ = desk.ask("cuda")
    named, _ = desk.ask("cuda:2")
    assert desk.tell(Released(held[0])) == []
    assert desk.table.claim(pair).hands == (0,)
    assert desk.tell(Cancelled(pair)) == [Grant(one, (0,), "free")]
    assert desk.tell(Released(held[2])) == [Grant(named, (2,), "free")]
    assert desk.ask("cuda", vram=8)[1] == []
    assert isinstance(desk.tell(Released(held[1]))[0], Grant)


def test_a_device_no_longer_managed_goes_to_nobody():
    desk = Desk(2)
    held = [desk.get("cuda") for _ in range(2)]
    waiter, _ = desk.ask("cuda")
    desk.tell(Configured((0,), False, RESTART))
    assert desk.tell(Released(held[1])) == []
    assert desk.tell(Released(held[0])) == [Grant(waiter, (0,), "free")]


def test_a_context_that_reserves_nothing_passes_those_that_wait_for_memory_but_no_lease():
    desk = Desk(1)
    desk.get("cuda:0", ClaimKind.CONTEXT, vram=6)
    large, _ = desk.ask("cuda:0", ClaimKind.CONTEXT, vram=6)
    desk.get("cuda:0", ClaimKind.CONTEXT, vram=0)
    desk.tell(Cancelled(large))
    desk.ask("cuda:0")
    assert desk.ask("cuda:0", ClaimKind.CONTEXT, vram=0)[1] == []


def test_cancelling_gives_back_what_was_kept():
    desk = Desk(2)
    first = desk.get("cuda")
    desk.get("cuda")
    pair, _ = desk.ask("cudax2")
    one, _ = desk.ask("cuda")
    desk.tell(Released(first))
    assert desk.tell(Cancelled(pair)) == [Grant(one, (0,), "free")]


def test_the_next_in_line_steps_up_when_the_first_gives_up():
    desk = Desk(2)
    desk.get("cuda:0")
    first, second = (desk.ask("cudax2")[0] for _ in range(2))
    one, _ = desk.ask("cuda:1")
    assert desk.tell(Cancelled(first)) == []
    assert desk.table.claim(second).hands == (1,)
    assert desk.tell(Cancelled(second)) == [Grant(one, (1,), "free")]


def test_who_waits_for_an_eviction_takes_other_devices_that_are_free_before():
    desk = Desk(2)
    victim, held = desk.idle("cuda:0"), desk.get("cuda:1")
    first, [evict] = desk.ask("cuda")
    second, _ = desk.ask("cuda")
    assert evict.claim == victim
    assert desk.tell(Released(held)) == [Grant(first, (1,), "free before its evictions are over")]
    assert desk.tell(Evicted(victim)) == [Grant(second, (0,), "its evictions are over")]


def test_who_waits_for_a_named_device_to_be_vacated_waits_for_that_one():
    desk = Desk(2)
    victim, held = desk.idle("cuda:0"), desk.get("cuda:1")
    first, _ = desk.ask("cuda:0")
    assert desk.tell(Released(held)) == []
    assert desk.tell(Evicted(victim)) == [Grant(first, (0,), "its evictions are over")]


# --------------------------------------------------------------------------- waiting for oneself


def test_a_nested_claim_lives_in_its_askers_lease():
    desk = Desk(2)
    outer = desk.get("cuda:1,0")
    inner, actions = desk.ask("cuda:0", held=[outer])
    assert actions == [Grant(inner, (0,), "reuses its asker's lease")]
    resident = desk.get("cuda", ClaimKind.RESIDENT, held=[outer, inner])
    assert desk.devices(resident) == (0,)
    waiter, _ = desk.ask("cuda:0")
    desk.tell(Released(outer))
    desk.tell(Released(inner))
    assert desk.tell(Released(resident)) == [Grant(waiter, (0,), "free")]


def test_reserved_bytes_pass_on_to_whoever_outlives_a_lease():
    desk = Desk(1, packing=True)
    outer = desk.get("cuda", vram=6)
    middle = desk.get("cuda", vram=5, held=[outer])
    inner = desk.get("cuda", vram=4, held=[middle])
    device = next(desk.table.devices())
    assert device.present == 6
    assert isinstance(desk.ask("cuda", vram=4, held=[middle, outer])[1][0], Reject)
    desk.tell(Released(middle))
    assert device.present == 6
    assert desk.get("cuda", vram=2, held=[outer])
    assert device.present == 8, "beside the lease there was room for two more"
    desk.tell(Released(outer))
    assert device.present == 6
    desk.tell(Released(inner))
    assert device.present == 2


def test_a_lease_that_declares_nothing_lends_what_is_free():
    desk = Desk(1, packing=True)
    outer = desk.get("cuda:0")
    desk.get("cuda:0", vram=7)
    desk.get("cuda:0", vram=1, group="g", held=[outer])
    assert desk.ask("cuda:0", vram=1)[1] == []
    assert desk.ask("cuda:0", vram=1, group="g", held=[outer])[1] == []


def test_a_lease_that_declares_nothing_lends_only_what_is_free():
    desk = Desk(1, packing=True)
    outer = desk.get("cuda:0")
    desk.get("cuda:0", ClaimKind.RESIDENT, vram=5)
    inner = desk.get("cuda:0", ClaimKind.CONTEXT, vram=3, held=[outer])
    assert desk.devices(inner) == (0,)
    _, [reject] = desk.ask("cuda:0", ClaimKind.CONTEXT, vram=1, held=[outer])
    assert "would wait for itself" in reject.reason


def test_nobody_is_let_in_beside_a_stranger_that_declares_nothing():
    desk = Desk(1, packing=True)
    outer = desk.get("cuda:0", vram=6)
    desk.get("cuda:0")
    _, [reject] = desk.ask("cuda:0", ClaimKind.CONTEXT, vram=3, held=[outer])
    assert "would wait for itself" in reject.reason


def test_who_lives_in_a_lease_does_not_wait_for_it_either():
    desk = Desk(1)
    outer = desk.get("cuda")
    inner = desk.get("cuda", ClaimKind.RESIDENT, held=[outer])
    desk.tell(BecameBusy(inner))
    assert desk.get("cuda", held=[inner])


def test_nobody_is_let_in_beside_strangers_who_could_not_bear_him():
    desk = Desk(1, packing=True)
    outer = desk.get("cuda:0", vram=2)
    desk.get("cuda:0", ClaimKind.CONTEXT, vram=2)
    _, [reject] = desk.ask("cuda:0", ClaimKind.CONTEXT, vram=7, held=[outer])
    assert "would wait for itself" in reject.reason
    assert desk.ask("cuda:0", ClaimKind.RESIDENT, held=[outer])[1] == []


def test_an_idle_resident_of_ones_own_can_be_evicted_and_a_busy_one_not():
    desk = Desk(1)
    own = desk.idle("cuda")
    _, [evict] = desk.ask("cuda", held=[own])
    assert evict.claim == own
    assert desk.ask("cuda", held=[own])[1] == []
    desk = Desk(1)
    own = desk.get("cuda", ClaimKind.RESIDENT)
    desk.tell(BecameBusy(own))
    _, [reject] = desk.ask("cuda", held=[own])
    assert reject.reason == "cuda: it would wait for itself; its asker holds resident on cuda:0"


def test_claims_held_no_longer_do_not_count():
    desk = Desk(1)
    desk.get("cuda")
    assert desk.ask("cuda", held=[77])[1] == []


# --------------------------------------------------------------------------------- feasibility


@pytest.mark.parametrize(
    ("device", "vram", "reason"),
    [
        ("cudax3", None, "cudax3: 3 devices asked (managed: cuda:0,cuda:1)"),
        ("cuda:0,2", None, "cuda:0,cuda:2: cuda:2 cannot be had (managed: cuda:0,cuda:1)"),
        (
            "cuda",
            11,
            "cuda: 11 B asked on each of 1 devices; the largest of cuda:0,cuda:1 has 10 B",
        ),
        ("cuda:0", 9, "cuda:0: 9 B asked on each of 1 devices; the largest of cuda:0 has 8 B"),
        (
            "cudax2",
            9,
            "cudax2: 9 B asked on each of 2 devices; the largest of cuda:0,cuda:1 has 10 B",
        ),
    ],
)
def test_what_can_never_be_met_is_rejected_at_once(device, vram, reason):
    desk = Desk(capacity={0: 8, 1: 10})
    desk.idle("cuda")
    claim, actions = desk.ask(device, vram=vram)
    assert actions == [Reject(claim, reason)]
    assert desk.table.claim(claim) is None


def test_without_devices_the_reason_names_the_variable():
    _, [reject] = Desk(0).ask("cuda")
    assert "ASYNCGPU_VIRTUAL_DEVICES" in reject.reason


def test_a_waiter_that_can_never_be_met_any_more_is_rejected():
    desk = Desk(2)
    desk.get("cuda")
    pair, _ = desk.ask("cudax2")
    one, _ = desk.ask("cuda:0")
    actions = desk.tell(Configured((0,), False, RESTART))
    assert actions == [Reject(pair, "cudax2: 2 devices asked (managed: cuda:0)")]
    assert desk.state(one) is ClaimState.WAITING


def test_a_shrunk_machine_lets_an_asker_reuse_its_lease_or_rejects_it():
    desk = Desk(2)
    own = desk.get("cuda:0")
    desk.get("cuda:1")
    lease, _ = desk.ask("cuda", held=[own])
    assert desk.tell(Configured((0,), False, RESTART)) == [
        Grant(lease, (0,), "reuses its asker's lease")
    ]


def test_a_promise_is_made_anew_when_the_configuration_changes():
    desk = Desk(2)
    victim = desk.idle("cuda:0")
    desk.get("cuda:1")
    claim, [evict] = desk.ask("cuda")
    assert evict.claim == victim
    assert desk.tell(Configured((1,), False, RESTART)) == []
    assert desk.state(claim) is ClaimState.WAITING
    assert desk.tell(Configured((0, 1), False, RESTART)) == []
    assert desk.tell(Evicted(victim)) == [Grant(claim, (0,), "its evictions are over")]


@pytest.mark.parametrize(
    ("managed", "message"),
    [((), "at least one"), ((0, 0), "twice"), ((0, 7), "cannot manage cuda:7; .* cuda:0,cuda:1")],
)
def test_a_configuration_that_cannot_be_changes_nothing(managed, message):
    desk = Desk(2)
    with pytest.raises(InvalidRequest, match=message):
        desk.tell(Configured(managed, True, OffloadStrategy.CPU))
    assert desk.table.occupancy.managed == (0, 1)
    assert (desk.table.packing, desk.table.strategy) == (False, RESTART)


def test_without_devices_there_is_nothing_to_manage():
    assert DeviceTable({}).occupancy.managed == ()
    with pytest.raises(InvalidRequest, match="this machine has none"):
        DeviceTable({}, managed=(0,))


# ----------------------------------------------------------------------------------- its life


def test_an_impossible_step_raises_with_the_story_and_changes_nothing():
    desk = Desk(1)
    claim = desk.idle("cuda")
    with pytest.raises(InvalidTransition) as caught:
        desk.tell(BecameIdle(claim))
    assert caught.value.machine == "device table"
    assert caught.value.history == ("1.000 claim 1 grant (free)", "2.000 claim 1 idle")
    assert "idle is impossible in claim 1 idle" in str(caught.value)
    desk.table.check_invariants()
    assert desk.state(claim) is ClaimState.IDLE
    for impossible in (Evicted(claim), Cancelled(claim)):
        with pytest.raises(InvalidTransition):
            desk.tell(impossible)
    waiter = desk.ask("cuda:0", group="g")[0]
    for impossible in (Released(waiter), BecameBusy(waiter), Pinned(waiter, True)):
        with pytest.raises(InvalidTransition):
            desk.tell(impossible)


@pytest.mark.parametrize(
    "input",
    [Cancelled(5), Released(5), Evicted(5), BecameIdle(5), BecameBusy(5), Pinned(5, True)],
)
def test_an_unknown_claim_is_an_impossible_step(input):
    with pytest.raises(InvalidTransition, match="claim 5 unknown"):
        Desk(1).tell(input)


def test_a_number_is_used_once():
    desk = Desk(1)
    desk.get("cuda")
    with pytest.raises(InvalidTransition, match="request is impossible in claim 1 held"):
        desk.tell(Requested(1, Shape(ClaimKind.LEASE, parse_device("cuda"))))


def test_every_state_but_the_last_can_be_left_and_the_last_cannot():
    for life in TRANSITIONS.values():
        reached = {ClaimState.WAITING}
        for state, steps in life.items():
            assert bool(steps) == (state is not ClaimState.GONE)
            reached |= set(steps.values())
        assert reached == set(life)


def test_the_history_is_bounded_and_tells_why():
    desk = Desk(1)
    victim = desk.idle("cuda")
    desk.ask("cuda")
    desk.tell(Evicted(victim))
    story = [(entry.claim, entry.step) for entry in desk.table.history()]
    assert story == [
        (1, Step.GRANT),
        (1, Step.IDLE),
        (2, Step.PROMISE),
        (1, Step.EVICT),
        (1, Step.EVICTED),
        (2, Step.GRANT),
    ]
    assert "for lease 2 'me' (promised)" in str(desk.table.history(victim)[2])
    desk.tell(Released(2))
    for _ in range(600):
        desk.tell(Released(desk.get("cuda")))
    assert len(desk.table.history()) == 512


def test_explain_says_what_a_claim_waits_for():
    desk = Desk(6, capacity=8, packing=True)
    assert desk.table.explain(1) == "gone"
    big = desk.get("cudax6", vram=8)
    one, _ = desk.ask("cuda:0", vram=2)
    assert desk.table.explain(big).startswith("held on cuda:0,cuda:1")
    reason = "waits for cuda:0: cuda:0 is held by lease 1 'me' (held), 0 B not reserved"
    assert desk.table.explain(one) == reason
    other, _ = desk.ask("cuda:0", vram=3)
    assert desk.table.explain(other) == (
        "waits for cuda:0: cuda:0 is held by lease 1 'me' (held), "
        "kept for lease 2 'me' (waiting), 0 B not reserved"
    )
    many, _ = desk.ask("cudax2", vram=1)
    assert desk.table.explain(many).startswith("waits for cudax2 of 6 devices: cuda:0 is held by")
    assert desk.table.explain(many).endswith("and 2 more")
    desk.tell(Released(big))
    assert desk.table.explain(many) == "held on cuda:1,cuda:2"


def test_explain_says_who_must_leave_first():
    desk = Desk(2)
    desk.idle("cuda")
    desk.get("cuda")
    claim, _ = desk.ask("cuda")
    assert desk.table.explain(claim) == "waits for resident 1 'me' (evicting) to leave"
    pair, _ = desk.ask("cuda:1,0")
    assert "cuda:0 is held by resident 1 'me' (evicting), lease 3" in desk.table.explain(pair)


def test_a_free_device_is_told_as_free():
    desk = Desk(2)
    desk.get("cuda:0")
    pair, _ = desk.ask("cudax2")
    assert desk.table.explain(pair).endswith("cuda:1 is free")


# ------------------------------------------------------------------------- without dependence


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_order_in_which_devices_are_given_does_not_matter(order):
    desk = Desk(capacity=dict.fromkeys(order, 8))
    assert desk.ask("cudax2")[1][0].devices == (0, 1)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_order_of_releases_does_not_matter_to_who_is_served(order):
    desk = Desk(3)
    held = [desk.get(f"cuda:{index}") for index in range(3)]
    waiting = [desk.ask(device)[0] for device in ("cuda:2", "cudax2", "cuda")]
    for index in order:
        desk.tell(Released(held[index]))
    assert [desk.devices(claim) for claim in waiting] == [(2,), (0, 1), ()]
