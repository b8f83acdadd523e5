"""Which tools share warm workers."""

from __future__ import annotations

import copy
import enum
import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest

from asyncgpu.tools.identity import encode
from asyncgpu.tools.tool import Tool


class Model(Tool):
    def __init__(self, name: str, size: object = 1, *, options: object = None) -> None:
        self.name_ = name


class Other(Model):
    pass


class Colour(enum.Enum):
    RED = 1


@dataclass(frozen=True)
class Options:
    depth: int
    path: Path


def test_equal_class_and_arguments_are_one_identity_however_they_are_written():
    assert Model("a").identity == Model(name="a", size=1, options=None).identity


@pytest.mark.parametrize(
    "other",
    [Model("b"), Model("a", 2), Model("a", True), Model("a", 1.0), Model("a", "1"), Other("a")],
)
def test_another_class_or_argument_is_another_identity(other):
    assert Model("a").identity != other.identity


def test_mappings_and_sets_are_compared_whatever_their_order():
    one = Model("a", options={"x": {1, 2, 3}, "y": [1]})
    two = Model("a", options={"y": [1], "x": {3, 2, 1}})
    assert one.identity == two.identity


@pytest.mark.parametrize(
    "value",
    [None, b"x", 1j, ..., float("nan"), Colour.RED, Options(1, Path("a")), int, len, (1, [2])],
)
def test_values_of_many_kinds_have_one_canonical_form(value):
    assert encode(value) == encode(copy.deepcopy(value))
    hash(encode(value))


@pytest.mark.parametrize(
    ("one", "two"), [(0.0, -0.0), ([1], (1,)), ({1}, frozenset({1})), (1, True)]
)
def test_values_that_python_or_a_hasty_encoding_would_mix_up_stay_apart(one, two):
    assert encode(one) != encode(two)


def test_an_argument_that_cannot_be_encoded_makes_the_instance_its_own_identity():
    secret = object()
    one, two = Model("a", secret), Model("a", secret)
    assert one.identity == one.identity
    assert one.identity != two.identity


def test_a_structure_that_contains_itself_does_not_hang():
    loop: list[object] = []
    loop.append(loop)
    tool = Model("a", loop)
    assert tool.identity == tool.identity


def test_copies_and_pickles_keep_the_identity():
    tool = Model("a", options={"k": 1})
    assert copy.copy(tool).identity == tool.identity
    assert pickle.loads(pickle.dumps(tool)).identity == tool.identity


def test_wrong_arguments_are_reported_in_the_words_of_the_constructor():
    with pytest.raises(TypeError, match="name"):
        Model()
