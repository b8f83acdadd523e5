"""Equal items are merged, and their answers expanded again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgpu.errors import InvalidRequest
from asyncgpu.policy.dedup import merge

key_lists = st.lists(st.none() | st.integers(0, 6) | st.sampled_from(["a", "b"]), max_size=30)


def test_the_first_of_equal_keys_answers_for_all():
    merged = merge(["b", "a", "b", "c", "a", "b"])
    assert merged.firsts == [0, 1, 3]
    assert merged.owners == [0, 1, 0, 2, 1, 0]
    assert merged.expand(["B", "A", "C"]) == ["B", "A", "B", "C", "A", "B"]
    assert [list(merged.places(unique)) for unique in range(3)] == [[0, 2, 5], [1, 4], [3]]


def test_none_is_like_no_other():
    merged = merge([None, "a", None, "a", None])
    assert merged.firsts == [0, 1, 2, 4]
    assert merged.expand([0, 1, 2, 4]) == [0, 1, 2, 1, 4]


@pytest.mark.parametrize("keys", [[], [None] * 4, list(range(4)), [None, 1, 2], [None, None, 1]])
def test_with_nothing_to_merge_every_item_stands_for_itself(keys):
    merged = merge(keys)
    assert merged.firsts == merged.owners == range(len(keys))
    answers = list("abcd")[: len(keys)]
    assert merged.expand(answers) == answers
    assert merged.expand(answers) is not answers
    assert [tuple(merged.places(index)) for index in range(len(keys))] == [
        (index,) for index in range(len(keys))
    ]


@given(key_lists)
def test_places_are_a_partition_and_agree_with_the_owners(keys):
    merged = merge(keys)
    places = {unique: list(merged.places(unique)) for unique in range(len(merged.firsts))}
    assert sorted(index for each in places.values() for index in each) == list(range(len(keys)))
    for unique, indices in places.items():
        assert indices == sorted(indices)
        assert indices[0] == merged.firsts[unique]
        assert {merged.owners[index] for index in indices} == {unique}
        assert len({keys[index] for index in indices}) == 1
        assert len(indices) == 1 or keys[indices[0]] is not None
    assert list(merged.firsts) == sorted(merged.firsts)


@given(key_lists)
def test_expanding_what_was_computed_for_the_firsts_answers_every_item(keys):
    merged = merge(keys)
    assert merged.expand([keys[index] for index in merged.firsts]) == keys
    named = [key for key in keys if key is not None]
    assert len(merged.firsts) == len(set(named)) + keys.count(None)


def test_a_key_that_cannot_be_hashed_is_named():
    with pytest.raises(InvalidRequest, match=r"item 1: unhashable type: 'list'"):
        merge(["a", ["b"]])


@pytest.mark.parametrize("keys", [["a", "b"], ["a", "a"]])
def test_there_must_be_one_answer_for_each_unique_item(keys):
    with pytest.raises(InvalidRequest, match="3 answers"):
        merge(keys).expand([1, 2, 3])
