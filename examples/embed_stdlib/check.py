"""The check: the same vectors as a plain run of the model, one text at a time, no asyncgpu."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .model import Encoder
from .texts import Docstring, evenly

TOLERANCE = 1e-5
_SAMPLE = 40


def largest_difference(docstrings: Sequence[Docstring], vectors: torch.Tensor) -> float:
    """Return how far the vectors of a sample are from those of a plain run, at most.

    The sample holds the shortest and the longest text and others spread over all lengths. Blocks
    for the seconds that the model takes.
    """
    by_length = sorted(range(len(docstrings)), key=lambda row: len(docstrings[row].text))
    sample = [*evenly(by_length, _SAMPLE), by_length[-1]]
    plain = Encoder()
    expected = torch.cat([plain([docstrings[row].text]) for row in sample])
    return float((vectors[sample] - expected).abs().max())
