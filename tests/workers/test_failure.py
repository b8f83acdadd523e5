"""Every exception arrives: as itself where it can, as text always."""

from __future__ import annotations

import threading

import pytest

from asyncgpu.workers.failure import describe_failure, to_tool_failed, unreadable
from asyncgpu.workers.pickling import Pickling

dumps = Pickling().dumps


class TwoArguments(Exception):
    """Cannot be unpickled: its constructor wants more than its args."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} in {where}")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def carried(error: BaseException):
    try:
        raise error
    except BaseException as caught:
        return to_tool_failed("Embed", describe_failure(caught, dumps))


def test_a_plain_exception_is_the_cause():
    failed = carried(ValueError("bad item 3"))
    assert (failed.tool, failed.exception_type, failed.message) == (
        "Embed",
        "ValueError",
        "bad item 3",
    )
    assert "bad item 3" in failed.remote_traceback
    assert "in carried" in failed.remote_traceback
    assert isinstance(failed.__cause__, ValueError)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_exceptions_that_end_programs_are_causes_too(error):
    assert type(carried(error).__cause__) is type(error)


def test_one_that_cannot_be_unpickled_arrives_as_text():
    failed = carried(TwoArguments("hole", "wall"))
    assert failed.__cause__ is None
    assert failed.exception_type.endswith("test_failure.TwoArguments")
    assert failed.message == "hole in wall"
    assert "hole in wall" in failed.remote_traceback


def test_one_that_cannot_be_pickled_arrives_as_text():
    error = ValueError("with a lock")
    error.lock = threading.Lock()
    failed = carried(error)
    assert failed.__cause__ is None
    assert failed.exception_type == "ValueError"


def test_one_that_cannot_be_printed_arrives_all_the_same():
    failed = carried(Unspeakable())
    assert "RuntimeError" in failed.message
    assert failed.exception_type.endswith("Unspeakable")


def test_an_answer_that_cannot_be_read_names_the_reason():
    failed = unreadable("Embed", ModuleNotFoundError("No module named 'theirs'"))
    assert "cannot be read here: No module named 'theirs'" in failed.message
    assert isinstance(failed.__cause__, ModuleNotFoundError)
