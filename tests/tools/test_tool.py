"""`Tool` and `@tool`, before any worker."""

from __future__ import annotations

import pickle

import pytest
import sample_tools

from asyncgpu import InvalidDevice, InvalidRequest, NoRuntime, Tool, tool
from asyncgpu.tools.items import check_tool, costs_of, keys_of, list_items
from asyncgpu.tools.seeds import derive_seed

pytestmark = pytest.mark.anyio


def test_a_function_becomes_a_tool_with_its_own_name():
    assert sample_tools.shout.name == "shout"
    assert sample_tools.shout.device == "cpu"
    assert sample_tools.shout.run(["a"]) == ["A"]


def test_a_decorated_function_crosses_by_its_name():
    assert pickle.loads(pickle.dumps(sample_tools.shout)) is sample_tools.shout


def test_an_unknown_option_is_refused_by_name():
    with pytest.raises(InvalidRequest, match="'devise'"):
        tool(devise="cpu")


def test_on_gives_the_same_tool_placed_elsewhere():
    square = sample_tools.Square(3)
    moved = square.on("cuda:1", vram="1GiB")
    assert (moved.device, moved.vram, square.device) == ("cuda:1", "1GiB", "cuda")
    assert moved.identity == square.identity
    with pytest.raises(InvalidDevice, match="'gpu0'"):
        square.on("gpu0")


def test_the_default_move_moves_whatever_can_move():
    class Movable:
        def __init__(self):
            self.at = "here"

        def to(self, device):
            self.at = device
            return self

    made = sample_tools.Square()
    made.model = Movable()
    made.to("cpu")
    assert made.model.at == "cpu"
    assert made.offset == 0


def test_a_tool_without_run_says_so():
    with pytest.raises(NotImplementedError, match="Tool defines no run"):
        Tool().run([])


async def test_calling_a_tool_without_a_runtime_says_how_to_open_one():
    with pytest.raises(NoRuntime, match=r"asyncgpu\.Runtime"):
        await sample_tools.Square()([1])


def test_a_class_in_place_of_an_instance_is_explained():
    with pytest.raises(InvalidRequest, match=r"pass an instance: Square\(\)"):
        check_tool(sample_tools.Square)
    with pytest.raises(InvalidRequest, match="is not a Tool"):
        check_tool(len)


@pytest.mark.parametrize("items", ["text", b"bytes", {"a": 1}, 3])
def test_what_is_not_a_list_of_items_is_refused(items):
    with pytest.raises(InvalidRequest, match="items"):
        list_items(items)


def test_any_iterable_is_a_list_of_items():
    assert list_items(x for x in "ab") == ["a", "b"]


def test_uniform_costs_are_not_asked_for():
    assert costs_of(sample_tools.Square(), [1, 2]) is None
    assert costs_of(sample_tools.Priced(), [1, 2]) == [1.0, 2.0]
    assert costs_of(sample_tools.shout, ["ab", "c"]) == [2, 1]


def test_a_cost_that_raises_names_the_item():
    with pytest.raises(InvalidRequest, match=r"shout.cost raised for item 1"):
        costs_of(sample_tools.shout, ["a", 3])


def test_items_of_different_types_are_never_equal():
    keys = keys_of(sample_tools.Square(), [1, True, 1.0, "1", [1]])
    assert len(set(keys[:4])) == 4
    assert keys[4] is None


def test_items_of_one_plain_type_are_their_own_keys():
    assert keys_of(sample_tools.Square(), [1, 2, 1]) == [1, 2, 1]


def test_a_key_that_cannot_be_hashed_names_the_item():
    @tool(key=lambda item: [item])
    def listed(items):
        return items

    with pytest.raises(InvalidRequest, match=r"listed.key failed for item 0"):
        keys_of(listed, [1])


def test_seeds_depend_on_seed_and_index_alone():
    assert derive_seed(1, 0) == derive_seed(1, 0)
    assert len({derive_seed(seed, index) for seed in range(10) for index in range(10)}) == 100
    assert all(0 <= derive_seed(-5, index) < 2**63 for index in range(100))
