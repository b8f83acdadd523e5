"""The meaning of `max_vram`, `base_vram` and the class together."""

from __future__ import annotations

import pytest

from asyncgpu.errors import InvalidRequest
from asyncgpu.policy.context_limits import context_limits
from asyncgpu.policy.qos import QoSPolicy
from asyncgpu.units import GB

G, B, E = QoSPolicy.GUARANTEED, QoSPolicy.BURSTABLE, QoSPolicy.BEST_EFFORT


@pytest.mark.parametrize(
    ("qos", "most", "base", "read", "reserved"),
    [
        (G, "2GiB", None, (2 * GB, 2 * GB), 2 * GB),
        (G, "2GiB", "1GiB", (2 * GB, GB), 2 * GB),
        (B, None, None, (None, 0), 0),
        (B, None, "1GiB", (None, GB), GB),
        (B, 2 * GB, GB, (2 * GB, GB), GB),
        (B, "1GiB", "1GiB", (GB, GB), GB),
        (B, "1GiB", 0, (GB, 0), 0),
        (E, None, None, (None, 0), 0),
        (E, "1GiB", None, (GB, 0), 0),
        (E, None, 0, (None, 0), 0),
    ],
)
def test_what_is_read_and_what_is_reserved(qos, most, base, read, reserved):
    limits = context_limits(qos, max_vram=most, base_vram=base)
    assert (limits.max_vram, limits.base_vram) == read
    assert limits.reservation == reserved


@pytest.mark.parametrize(
    ("qos", "most", "base", "named"),
    [
        (B, 0, None, "max_vram"),
        (B, "0", None, "max_vram"),
        (B, -1, None, "max_vram"),
        (B, "much", None, "max_vram"),
        (B, True, None, "max_vram"),
        (B, None, -1, "base_vram"),
        (B, "1GiB", "2GiB", "base_vram"),
        (G, None, None, "GUARANTEED"),
        (G, None, "1GiB", "GUARANTEED"),
        (G, "1GiB", "2GiB", "base_vram"),
        (E, None, 1, "BEST_EFFORT"),
        ("guaranteed", None, None, "qos"),
    ],
)
def test_what_does_not_fit_together_is_refused(qos, most, base, named):
    with pytest.raises(InvalidRequest, match=named):
        context_limits(qos, max_vram=most, base_vram=base)
    assert issubclass(InvalidRequest, ValueError)
