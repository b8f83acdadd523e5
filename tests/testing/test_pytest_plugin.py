"""The fixtures, in a test suite of somebody else's."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]

SUITE = """
import os, pytest, asyncgpu.testing

kept = []

def test_the_fixtures_are_the_functions(virtual_gpus, gate, faults):
    assert virtual_gpus("3x1GiB") == ("cuda:0", "cuda:1", "cuda:2")
    assert os.environ["ASYNCGPU_VIRTUAL_DEVICES"] == "3x1GiB"
    first, second = gate(), gate()
    assert not first.is_open() and not second.is_open()
    kept.extend([first, second])
    assert isinstance(faults(), asyncgpu.testing.FaultScript)

def test_what_they_made_ended_with_the_test():
    assert "ASYNCGPU_VIRTUAL_DEVICES" not in os.environ
    assert all(gate.is_open() for gate in kept)
"""


def run_suite(folder, *options):
    (folder / "test_suite.py").write_text(SUITE)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ASYNCGPU_")}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", *options, "test_suite.py"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_fixtures_work_in_another_suite(tmp_path):
    done = run_suite(tmp_path, "-p", "asyncgpu.testing.plugin", "-p", "no:asyncio")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_the_plugin_is_registered_under_its_module_name():
    """So that naming it in `pytest_plugins` beside an installed package does not load it twice."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {
        "asyncgpu.testing.plugin": "asyncgpu.testing.plugin"
    }


def test_the_package_itself_does_not_need_pytest():
    program = "import sys, asyncgpu.testing; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert not {"pytest", "torch"} & set(done.stdout.split())
