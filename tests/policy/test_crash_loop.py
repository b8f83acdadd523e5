"""Starts that fail again and again, in virtual time."""

from __future__ import annotations

import pytest

from asyncgpu.policy.crash_loop import (
    BACK_OFF,
    FAILURES,
    LONGEST,
    CrashLoop,
    CrashLoops,
    LoopState,
)


def crash(loop, now, times):
    return [loop.failed(now) for _ in range(times)]


def test_a_death_or_two_may_be_chance():
    loop = CrashLoop()
    assert crash(loop, 0.0, FAILURES) == [True] * (FAILURES - 1) + [False]
    assert loop.state(0.0) is LoopState.OPEN


def test_while_it_is_open_nothing_starts():
    loop = CrashLoop()
    crash(loop, 10.0, FAILURES)
    assert loop.may_start(8, 0, 10.0) == 0
    assert loop.retry_after(10.25) == BACK_OFF - 0.25


def test_after_the_back_off_one_start_at_a_time_is_on_trial():
    loop = CrashLoop()
    crash(loop, 0.0, FAILURES)
    assert loop.state(BACK_OFF) is LoopState.TRIAL
    assert loop.may_start(8, 0, BACK_OFF) == 1
    assert loop.may_start(8, 1, BACK_OFF) == 0
    assert loop.retry_after(BACK_OFF) == 0.0


def test_each_failed_trial_doubles_the_back_off_up_to_a_limit():
    loop, now, waits = CrashLoop(), 0.0, []
    crash(loop, now, FAILURES)
    for _ in range(9):
        waits.append(loop.retry_after(now))
        now += waits[-1]
        assert not loop.failed(now)
    assert waits == [min(BACK_OFF * 2**n, LONGEST) for n in range(9)]


def test_starts_that_were_under_way_when_it_opened_do_not_lengthen_it():
    loop = CrashLoop()
    crash(loop, 0.0, FAILURES + 5)
    assert loop.retry_after(0.0) == BACK_OFF


def test_closed_any_number_may_start():
    assert CrashLoop().may_start(8, 3, 0.0) == 8


class TestLoops:
    """Of all tools of a runtime."""

    def test_one_success_closes_it(self):
        loops = CrashLoops()
        for _ in range(FAILURES):
            loops.failed("a", 0.0, "exit code 7")
        assert loops.may_start("a", 2, 0, 0.0) == 0
        assert loops.find("a").why == "exit code 7"
        loops.succeeded("a")
        assert loops.may_start("a", 2, 0, 0.0) == 2
        assert loops.find("a") is None

    def test_tools_do_not_answer_for_each_other(self):
        loops = CrashLoops()
        for _ in range(FAILURES):
            loops.failed("a", 0.0, "")
        assert loops.may_start("b", 2, 0, 0.0) == 2

    @pytest.mark.parametrize("failures", [1, FAILURES])
    def test_what_is_long_over_is_forgotten(self, failures):
        loops = CrashLoops()
        for _ in range(failures):
            loops.failed("a", 0.0, "")
        loops.failed("b", LONGEST + BACK_OFF + 1, "")
        assert loops.find("a") is None
