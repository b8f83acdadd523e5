"""The error tree: who must act, and that nothing is lost on the way."""

from __future__ import annotations

import copy
import pickle

import pytest

from asyncgpu import errors

EXAMPLES = [
    errors.VRAMBudgetExceeded("llm", 10, 4),
    errors.AdmissionRejected("full", 1.5),
    errors.OutOfDeviceMemory("cuda:0", 10, 4),
    errors.WorkerDied("Embed[0]", -9, ["last words"]),
    errors.ToolFailed("Embed", "ValueError", "no", "Traceback ..."),
    errors.PartialFailure({0: "a"}, {1: errors.WorkerDied("w")}),
    errors.InvalidTransition("station", "idle", "ready", ["seek"]),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_survive_pickling_and_copying_with_all_they_say(error):
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert vars(other).keys() == vars(error).keys()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (EXAMPLES[0], ["'llm'", "10 bytes", "4 bytes"]),
        (EXAMPLES[1], ["full", "1.5 s"]),
        (EXAMPLES[2], ["cuda:0", "10", "4"]),
        (EXAMPLES[3], ["Embed[0]", "-9", "last words"]),
        (EXAMPLES[4], ["Embed", "ValueError", "Traceback"]),
        (EXAMPLES[5], ["1 of 2", "item 1"]),
        (EXAMPLES[6], ["station", "ready", "idle", "seek"]),
    ],
)
def test_messages_name_the_thing_and_the_number(error, words):
    assert all(word in str(error) for word in words)


def test_bad_values_are_value_errors_too():
    assert issubclass(errors.InvalidDevice, ValueError)
    assert issubclass(errors.InvalidRequest, ValueError)


def test_every_error_stands_in_the_drawn_tree():
    drawn = errors.__doc__
    for name in errors.__all__:
        if name != "ItemError":
            assert name in drawn.split(), name


def test_the_side_that_must_act_is_a_base_class():
    assert issubclass(errors.InfeasibleRequest, errors.RequestError)
    assert issubclass(errors.DeviceLost, errors.DeviceError)
    assert issubclass(errors.ToolFailed, errors.WorkerError)
    assert not issubclass(errors.AdmissionRejected, errors.RequestError)
