"""The people who cannot wait: they ask the index while it is being filled.

Each GPU has a context of this process beside its worker: a stream, a VRAM budget of its own, and a
second, small copy of the model. A question takes a thread of the context, never the event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from time import perf_counter

import anyio

from asyncgpu import ExecutionContext, Timeline, context_session

from .model import Encoder
from .search import Index, Match

QUESTIONS = (
    "How do I read a compressed file?",
    "How do I run something later in another thread?",
    "What day of the week is it?",
    "How long does my code take?",
    "How do I send an email with an attachment?",
    "How do I pick something at random?",
    "How do two texts differ, line by line?",
    "How do I wait until several tasks are done?",
)

# How long a person thinks before the next question.
_PAUSE = 0.4


@dataclass(slots=True)
class Desk:
    """Answers questions on one GPU."""

    context: ExecutionContext
    torch_device: str
    """What torch calls the GPU: ``"cpu"`` for a virtual one."""
    index: Index
    timeline: Timeline
    latencies: list[float] = field(default_factory=list)
    """Seconds from question to answer, one by one."""
    _encoder: Encoder | None = None

    async def open(self) -> None:
        """Load this context's copy of the model, charged to its budget."""
        with self.timeline.measure(self._track, "load", category="load"):
            self._encoder = await self.context.run_sync(self._load)

    async def answer(self, question: str) -> list[Match]:
        """Embed the question and search what is in the index by now."""
        assert self._encoder is not None
        with self.timeline.measure(
            self._track, question, category="session", texts=self.index.filled
        ):
            async with context_session(self.context):
                vectors = await self.context.run_sync(self._encoder, [question])
                return self.index.search(vectors[0])

    async def serve(self, questions: Sequence[str] = QUESTIONS) -> None:
        """Answer the questions over and over, until cancelled."""
        for question in cycle(questions):
            began = perf_counter()
            await self.answer(question)
            self.latencies.append(perf_counter() - began)
            await anyio.sleep(_PAUSE)

    @property
    def _track(self) -> str:
        return f"{self.context.device} questions"

    def _load(self) -> Encoder:
        return Encoder().to(self.torch_device)
