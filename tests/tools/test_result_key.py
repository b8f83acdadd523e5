"""Keys of answers: equal exactly when the answers are."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass

import pytest
import sample_tools
import torch

import asyncgpu
from asyncgpu.tools.result_key import result_keys


def key_of(item, tool=None):
    return result_keys(tool or sample_tools.Square())(0, item)


@dataclass(frozen=True)
class Point:
    x: float


@pytest.mark.parametrize("item", [1, "a", b"a", None, 2.5, (1, ("a", 2.5)), Point(1), float("nan")])
def test_equal_items_of_equal_tools_have_one_key(item):
    assert key_of(item) == key_of(item, sample_tools.Square(0))
    hash(key_of(item))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True), (1, 1.0), (1, "1"), ("a", b"a"), (0.0, -0.0), ((1,), (1.0,)), ((1,), (True,)),
        (((0.0,),), ((-0.0,),)), (Point(1), Point(1.0)), (Point(1), (1,)),
        (frozenset({1}), frozenset({True})),
    ],
)  # fmt: skip
def test_items_that_python_holds_for_equal_stay_apart(one, other):
    assert key_of(one) != key_of(other)


def test_another_class_or_configuration_has_other_keys():
    keys = [
        key_of(1),
        key_of(1, sample_tools.Square(1)),
        key_of(1, sample_tools.Stingy()),
        key_of(1, sample_tools.Lists()),
    ]
    assert len(set(keys)) == 4


@pytest.mark.parametrize("item", [[1], {"a": 1}, torch.zeros(1), (1, torch.zeros(1)), object()])
def test_what_may_change_or_is_only_itself_has_no_key(item):
    assert key_of(item) is None


def test_a_key_of_the_tool_s_own_decides_for_such_items():
    assert key_of([1, 2], sample_tools.Keyed()) == key_of([1, 2], sample_tools.Keyed())
    assert key_of([1, 2], sample_tools.Keyed()) != key_of([1, 2.0], sample_tools.Keyed())
    assert key_of([1, 2], sample_tools.Keyed()) != key_of((1, 2), sample_tools.Keyed())


def test_a_key_that_cannot_be_hashed_names_the_item():
    class Unhashable(sample_tools.Square):
        def key(self, item):
            return [item]

    with pytest.raises(asyncgpu.InvalidRequest, match="item 7"):
        result_keys(Unhashable())(7, 1)


def test_the_key_of_an_instance_keeps_it_alive_so_that_no_other_one_takes_its_place():
    tool = sample_tools.Labelled(object())
    key = key_of(1, tool)
    assert key == key_of(1, tool)
    assert key != key_of(1, sample_tools.Labelled(tool.label))
    alive = weakref.ref(tool)
    del tool
    gc.collect()
    assert alive() is not None
    del key
    gc.collect()
    assert alive() is None
