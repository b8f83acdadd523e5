"""The tool's life in its worker, and what is asked of its answers."""

from __future__ import annotations

import pytest

from asyncgpu.workers.hosting import ToolHost


class Recorder:
    def __init__(self, answer=None) -> None:
        self.calls = []
        self.answer = answer

    def load(self, device):
        self.calls.append(("load", device, self.devices))

    def run(self, items):
        return items if self.answer is None else self.answer

    def to(self, device):
        self.calls.append(("to", device))

    def close(self):
        self.calls.append("close")


class Seeded(Recorder):
    def run(self, items, seeds=None):
        return [seeds] * len(items)


def hosted(tool):
    host = ToolHost()
    host.load(tool, ["cuda:0", "cuda:1"])
    return host


def test_all_devices_are_known_before_load():
    tool = Recorder()
    hosted(tool)
    assert tool.calls == [("load", "cuda:0", ("cuda:0", "cuda:1"))]


def test_move_runs_to_and_renames_the_devices():
    tool = Recorder()
    hosted(tool).move(["cpu"])
    assert tool.calls[1:] == [("to", "cpu")]
    assert tool.devices == ("cpu",)


def test_seeds_go_to_tools_that_take_them():
    assert hosted(Seeded()).run(["a", "b"], [1, 2]) == [[1, 2], [1, 2]]
    assert hosted(Seeded()).run(["a"], None) == [None]
    assert hosted(Recorder()).run(["a"], [1]) == ["a"]


def test_a_wrong_number_of_results_names_both_numbers():
    with pytest.raises(ValueError, match="returned 1 results for 3 items"):
        hosted(Recorder([0])).run([1, 2, 3], None)


def test_a_tool_cannot_hide_it_by_changing_its_items():
    class Eater(Recorder):
        def run(self, items):
            items.pop()
            return items

    with pytest.raises(ValueError, match="returned 2 results for 3 items"):
        hosted(Eater()).run([1, 2, 3], None)


@pytest.mark.parametrize("answer", [(1,), "a", (x for x in [1])])
def test_results_are_a_list(answer):
    with pytest.raises(TypeError, match=f"must return a list, not {type(answer).__name__}"):
        hosted(Recorder(answer)).run([1], None)


def test_nothing_runs_before_a_tool_is_loaded():
    with pytest.raises(RuntimeError, match="no tool is loaded"):
        ToolHost().run([1], None)


def test_a_tool_whose_load_failed_is_not_used():
    class Broken(Recorder):
        def load(self, device):
            raise OSError("no weights")

    host = ToolHost()
    with pytest.raises(OSError, match="no weights"):
        host.load(Broken(), ["cpu"])
    with pytest.raises(RuntimeError, match="no tool is loaded"):
        host.run([1], None)


def test_close_closes_once():
    tool = Recorder()
    host = hosted(tool)
    host.close()
    host.close()
    assert tool.calls[1:] == ["close"]
