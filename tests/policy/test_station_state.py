"""The life of a station."""

from __future__ import annotations

import itertools

import pytest

from asyncgpu.errors import InvalidTransition
from asyncgpu.policy.station_state import TRANSITIONS, StationState, next_state

EVENTS = sorted({event for _, event in TRANSITIONS})


def walk(*events: str) -> StationState:
    state = StationState.ABSENT
    for event in events:
        state = next_state(state, event)
    return state


def test_a_usual_life():
    assert walk("seek", "granted", "ready", "feed", "answered", "evict", "stopped") is (
        StationState.ABSENT
    )


def test_an_offloaded_worker_waits_for_a_device_like_any_other():
    offloaded = ("seek", "granted", "ready", "evict", "offloaded")
    assert walk(*offloaded) is StationState.OFFLOADED
    assert walk(*offloaded, "seek", "kept") is StationState.OFFLOADED
    assert walk(*offloaded, "seek", "granted", "ready") is StationState.IDLE


@pytest.mark.parametrize(("state", "event"), list(itertools.product(StationState, EVENTS)))
def test_what_the_table_lacks_is_impossible(state, event):
    if (state, event) in TRANSITIONS:
        assert isinstance(next_state(state, event), StationState)
    else:
        with pytest.raises(InvalidTransition, match=state.value):
            next_state(state, event)


def test_a_busy_worker_is_never_asked_to_leave():
    with pytest.raises(InvalidTransition):
        walk("seek", "granted", "ready", "feed", "evict")


def test_every_state_can_be_reached_and_left():
    reached = {StationState.ABSENT, *TRANSITIONS.values()}
    left = {state for state, _ in TRANSITIONS}
    assert reached == left == set(StationState)
