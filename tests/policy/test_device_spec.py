"""Device strings are read exactly as documented, and nothing else is."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgpu.errors import InvalidDevice
from asyncgpu.policy.device_spec import (
    DeviceChoice,
    DeviceSpec,
    device_names,
    parse_device,
    parse_managed_devices,
)

ANY, CPU, EXACT = DeviceChoice.ANY, DeviceChoice.CPU, DeviceChoice.EXACT


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("cpu", DeviceSpec(CPU, 0)),
        ("cuda", DeviceSpec(ANY, 1)),
        ("cudax1", DeviceSpec(ANY, 1)),
        ("cudax12", DeviceSpec(ANY, 12)),
        ("cuda:0", DeviceSpec(EXACT, 1, (0,))),
        ("cuda:10", DeviceSpec(EXACT, 1, (10,))),
        ("cuda:0,1", DeviceSpec(EXACT, 2, (0, 1))),
        ("cuda:1,0", DeviceSpec(EXACT, 2, (1, 0))),
        ("cuda:0,cuda:1", DeviceSpec(EXACT, 2, (0, 1))),
        ("cuda:0,cuda:1,2", DeviceSpec(EXACT, 3, (0, 1, 2))),
        ("  cuda\t", DeviceSpec(ANY, 1)),
        ("\ncuda:3 ", DeviceSpec(EXACT, 1, (3,))),
    ],
)
def test_accepted_forms(text, spec):
    assert parse_device(text) == spec


@pytest.mark.parametrize(
    "text",
    [
        *[
            "",
            " ",
            "0",
            "gpu",
            "gpu:0",
            "mps",
            "cloud",
            "CPU",
            "CUDA",
            "Cuda:0",
            "cpu:0",
            "cpu,cuda",
        ],
        *["cudax", "cudax0", "cudax-1", "cudax2.0", "cudax 2", "cudax02", "cudax2,3", "cudaxx2"],
        *["cuda:", "cuda:-1", "cuda:+1", "cuda: 1", "cuda:1_0", "cuda:a", "cuda:0:1", "cuda:0;1"],
        *["cuda0", "cudafoo", "cuda,1", "cuda:0,", "cuda:0,,1", "cuda:0, 1", ",cuda:0", "0,1"],
        *["cuda:0,gpu:1", "cuda:0,cuda", "cuda:0,cudax2", "cuda:0,0", "cuda:0,cuda:0", "cuda:1,01"],
        *["cuda:\u0663", "cudax\u0663", "cuda:0,\u0661", "cuda:1 2", "cuda\x000"],
        *["cuda:" + "9" * 5000, "cudax" + "9" * 5000, "cuda:0,1234567890"],
        *[None, 0, ["cuda"], b"cuda"],
    ],
)
def test_anything_else_is_refused_with_the_string_and_the_forms(text):
    with pytest.raises(InvalidDevice) as caught:
        parse_device(text)
    assert repr(text) in str(caught.value)
    assert "'cudax2'" in str(caught.value)
    assert isinstance(caught.value, ValueError)


@given(st.text(st.sampled_from("cudaxp:,0123 -"), max_size=12))
def test_what_is_accepted_says_itself_again(text):
    try:
        spec = parse_device(text)
    except InvalidDevice:
        return
    assert parse_device(str(spec)) == spec
    assert len(set(spec.indices)) == len(spec.indices)
    assert (spec.count == 0) == spec.is_cpu


def test_a_spec_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse_device("cuda").count = 2


@pytest.mark.parametrize("text", ["cpu", "cuda", "cudax2", "cuda:0", "cuda:1,cuda:0"])
def test_a_spec_says_itself(text):
    assert str(parse_device(text)) == text


def test_devices_are_named_for_people():
    assert device_names(()) == "cpu"
    assert device_names((1, 0)) == "cuda:1,cuda:0"


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("0", (0,)),
        ("0,1", (0, 1)),
        ("1, 0", (0, 1)),
        (" cuda:2 , cuda:0 ", (0, 2)),
        ("cuda:0,1", (0, 1)),
    ],
)
def test_managed_devices_in_ascending_order(text, indices):
    assert parse_managed_devices(text) == indices


@pytest.mark.parametrize(
    "text",
    [
        *["", " ", ",", "0,", ",0", "0,,1", "CUDA:0", "cuda:", "cuda", "-1", "cuda:-1", "0;1", "a"],
        *["0,0", "0,cuda:0", "+1", "1.0", "0x1", "9" * 5000, "\u0661", None, 1],
    ],
)
def test_other_lists_of_managed_devices_are_refused(text):
    with pytest.raises(InvalidDevice, match="not a list of devices"):
        parse_managed_devices(text)
