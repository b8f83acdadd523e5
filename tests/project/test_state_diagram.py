"""The picture of a context's states in the guide is drawn from the table that decides them."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from xml.etree import ElementTree

import pytest

from asyncgpu.policy.context_state import TRANSITIONS, ContextState

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def drawing():
    spec = spec_from_file_location("state_diagram", DOCS / "state_diagram.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_up_to_date(drawing):
    text = drawing.TARGET.read_text(encoding="utf-8")
    assert text == drawing.context_states(), "run `python docs/state_diagram.py`"


def test_it_shows_every_state_and_every_transition(drawing):
    root = ElementTree.fromstring(drawing.context_states())
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert sorted(texts) == sorted(
        [state.name for state in ContextState] + [given.value for _, given in TRANSITIONS]
    )


def test_it_changes_with_the_table(drawing):
    fewer = dict(list(TRANSITIONS.items())[1:])
    title = "The states of an execution context"
    assert drawing.draw(title, TRANSITIONS) == drawing.context_states()
    assert drawing.draw(title, fewer) != drawing.context_states()


def test_it_is_written_by_a_command(tmp_path):
    (tmp_path / "docs" / "guide").mkdir(parents=True)
    script = tmp_path / "docs" / "state_diagram.py"
    script.write_bytes((DOCS / "state_diagram.py").read_bytes())
    (tmp_path / "asyncgpu").symlink_to(DOCS.parent / "asyncgpu")
    subprocess.run([sys.executable, str(script)], check=True, cwd=tmp_path, timeout=60)
    written = tmp_path / "docs" / "guide" / "context-states.svg"
    assert written.read_bytes() == (DOCS / "guide" / "context-states.svg").read_bytes()
