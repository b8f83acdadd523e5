"""Every program in the guides runs as it stands, and prints what its comments say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = re.compile(r"^```python\n(.+?)^```$", re.MULTILINE | re.DOTALL)
# Only where a comment repeats all that its line prints.
PRINTED = re.compile(r"print\(.+\)  # (.+)$", re.MULTILINE)


def programs():
    for page in sorted((ROOT / "docs" / "guide").glob("*.md")):
        for number, program in enumerate(PROGRAM.findall(page.read_text(encoding="utf-8")), 1):
            yield pytest.param(program, id=f"{page.stem}-{number}")


@pytest.mark.parametrize("program", list(programs()))
def test_a_program_of_the_guides_runs(program, tmp_path):
    script = tmp_path / "guide.py"
    script.write_text(program, encoding="utf-8")
    environment = os.environ | {"ASYNCGPU_VIRTUAL_DEVICES": "2x8GiB", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    printed = done.stdout.splitlines()
    for comment in PRINTED.findall(program):
        assert any(comment == line or comment.startswith(f"{line}:") for line in printed), comment
