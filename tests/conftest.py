"""Fixtures for every test: the event loops they run on."""

from __future__ import annotations

import pytest

# An installed package brings them by its entry point; a source tree does not.
pytest_plugins = ["asyncgpu.testing.plugin"]

BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]


@pytest.fixture(params=BACKENDS)
def anyio_backend(request):
    """Every async test runs on asyncio, uvloop and trio."""
    return request.param
