"""The ``ASYNCGPU_*`` variables."""

from __future__ import annotations

import dataclasses

import pytest

from asyncgpu.errors import InvalidRequest
from asyncgpu.settings import Settings


def test_nothing_set_means_the_defaults():
    assert Settings.from_environ({}) == Settings()
    assert Settings.from_environ({"OTHER": "1", "ASYNCGPU": "2"}) == Settings()


def test_every_field_has_a_variable_of_its_name():
    settings = Settings.from_environ(
        {
            "ASYNCGPU_VIRTUAL_DEVICES": " 2x8GiB ",
            "ASYNCGPU_MANAGED_DEVICES": "0,1",
            "ASYNCGPU_OFFLOAD_STRATEGY": "CPU",
            "ASYNCGPU_ALLOW_MULTI_DEVICE": "true",
            "ASYNCGPU_MAX_CONCURRENT_SESSIONS": "4",
            "ASYNCGPU_AGEING_SECONDS": "2.5",
            "ASYNCGPU_CLOSE_TIMEOUT": "3",
            "ASYNCGPU_WORKER_START_TIMEOUT": "9",
        }
    )
    assert settings == Settings(
        virtual_devices="2x8GiB",
        managed_devices="0,1",
        offload_strategy="cpu",
        allow_multiple_per_device=True,
        max_concurrent_sessions=4,
        ageing_seconds=2.5,
        close_timeout=3.0,
        worker_start_timeout=9.0,
    )


@pytest.mark.parametrize("raw", ["1", "yes", "ON", "True"])
def test_many_words_mean_yes(raw):
    assert Settings.from_environ({"ASYNCGPU_ALLOW_MULTI_DEVICE": raw}).allow_multiple_per_device


@pytest.mark.parametrize(
    ("variable", "raw"),
    [
        ("ASYNCGPU_ALLOW_MULTI_DEVICE", "maybe"),
        ("ASYNCGPU_MAX_CONCURRENT_SESSIONS", "2.5"),
        ("ASYNCGPU_AGEING_SECONDS", "soon"),
        ("ASYNCGPU_CLOSE_TIMEOUT", ""),
    ],
)
def test_a_value_that_cannot_be_read_names_the_variable(variable, raw):
    with pytest.raises(InvalidRequest, match=variable):
        Settings.from_environ({variable: raw})


@pytest.mark.parametrize(
    "values",
    [
        {"offload_strategy": "shred"},
        {"max_concurrent_sessions": 0},
        {"max_concurrent_sessions": True},
        {"ageing_seconds": 0},
        {"ageing_seconds": float("nan")},
        {"worker_start_timeout": -1},
        {"worker_stop_grace": -1},
        {"close_timeout": -1},
        {"close_timeout": float("inf")},
    ],
)
def test_a_value_that_means_nothing_is_refused_by_name(values):
    with pytest.raises(InvalidRequest, match=next(iter(values))):
        Settings(**values)


def test_settings_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().ageing_seconds = 1
