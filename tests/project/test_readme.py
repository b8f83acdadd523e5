"""The README is true: its commands are the ones that are run, and its program runs."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^```bash\n(.+)\n```$", README, re.MULTILINE)

(PROGRAM,) = re.findall(r"^```python\n(.+?)^```$", README, re.MULTILINE | re.DOTALL)


def sessions() -> set[str]:
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    return {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) if node.decorator_list
    }


def test_there_is_one_command_for_the_demo_and_one_for_the_tests():
    assert [command.rpartition("&& ")[2] for command in COMMANDS] == [
        ".venv/bin/nox -s demo",
        ".venv/bin/nox",
    ]
    assert "demo" in sessions()


def test_continuous_integration_runs_the_readme_s_test_command():
    assert COMMANDS[-1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_both_commands_install_pinned_versions():
    assert all("-c constraints.txt" in command for command in COMMANDS)


def test_every_session_is_explained_to_contributors():
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert {name for name in sessions() if f"`{name}`" not in contributing} == set()


def test_the_program_runs(tmp_path):
    script = tmp_path / "taste.py"
    script.write_text(PROGRAM, encoding="utf-8")
    environment = os.environ | {"ASYNCGPU_VIRTUAL_DEVICES": "2x8GiB", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "[2.0, 4.0, 6.0]" in done.stdout
