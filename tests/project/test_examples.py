"""Every example runs, on two virtual GPUs, and says something."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def run(name, *arguments):
    """Run an example as a script; return what it printed."""
    environment = os.environ | {"ASYNCGPU_VIRTUAL_DEVICES": "2x8GiB", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / name, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_as_a_script(name):
    assert run(name).strip()


def test_the_assistant_s_models_work_side_by_side_and_its_timeline_shows_it(tmp_path):
    page = tmp_path / "timeline.html"
    printed = run("llm_vision_tts.py", page)
    (milliseconds,) = re.findall(r"under way together for ([\d.]+) ms", printed)
    assert float(milliseconds) > 0
    begun = [line.split("|")[0].split()[1] for line in printed.splitlines() if "session of" in line]
    assert begun == ["llm", "vision", "tts"]
    drawn = page.read_text(encoding="utf-8")
    assert all(f"cuda:0 {name}" in drawn for name in begun)
    assert "run_sync(generate)" in drawn
