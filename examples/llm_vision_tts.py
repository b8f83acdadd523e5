"""An assistant: a language and a vision model work side by side on one GPU, then a voice answers.

Each of the three has a context, with a share of the memory and a class of its own. The voice takes
over what the other two have made, without a copy and without waiting for them on the host. At the
end the program draws what happened when; give it a file name to have that as a page.

    ASYNCGPU_VIRTUAL_DEVICES=8GiB python examples/llm_vision_tts.py [timeline.html]
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

import asyncgpu
from asyncgpu import DeviceEvent, ExecutionContext, QoSPolicy, Span, context_session, record_event
from asyncgpu.integrations.picture import write_picture

WIDTH = 256


class Language(nn.Module):
    """Reads a prompt and goes on with it, one token after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, WIDTH)
        self.step = nn.GRUCell(WIDTH, WIDTH)
        self.choose = nn.Linear(WIDTH, 1000)

    @torch.inference_mode()
    def generate(self, prompt: Tensor, count: int) -> Tensor:
        state = torch.zeros(1, WIDTH, device=prompt.device)
        for token in prompt:
            state = self.step(self.embed(token)[None], state)
        states = []
        for _ in range(count):
            token = self.choose(state).argmax(-1)
            state = self.step(self.embed(token), state)
            states.append(state)
        return torch.cat(states)


class Vision(nn.Module):
    """Turns a picture into features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 7, stride=2), nn.ReLU(), nn.Conv2d(32, WIDTH, 5, stride=2), nn.ReLU()
        )

    @torch.inference_mode()
    def forward(self, picture: Tensor) -> Tensor:
        return self.layers(picture).mean((2, 3))


class Voice(nn.Module):
    """Speaks a text with a picture in mind: 200 samples for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(2 * WIDTH, WIDTH)
        self.sound = nn.Linear(WIDTH, 200)

    @torch.inference_mode()
    def forward(self, text: Tensor, picture: Tensor) -> Tensor:
        both = torch.cat([text, picture.expand(len(text), -1)], dim=1)
        return self.sound(torch.relu(self.mix(both))).tanh().flatten()


async def write(
    llm: ExecutionContext, model: Language, prompt: Tensor
) -> tuple[Tensor, DeviceEvent]:
    async with context_session(llm, synchronize=False):
        states = await llm.run_sync(model.generate, prompt, count=40)
        text = nn.functional.normalize(states)  # queued on the stream; nobody waits for it here
        return text, record_event(llm)


async def look(
    vision: ExecutionContext, model: Vision, picture: Tensor
) -> tuple[Tensor, DeviceEvent]:
    async with context_session(vision, synchronize=False):
        features = await vision.run_sync(model, picture)
        return nn.functional.normalize(features), record_event(vision)


async def speak(
    tts: ExecutionContext,
    model: Voice,
    text: tuple[Tensor, DeviceEvent],
    picture: tuple[Tensor, DeviceEvent],
) -> Tensor:
    async with context_session(tts):
        # The stream of `tts` waits for both, on the device. Their memory lives until it is done.
        return await tts.run_sync(model, tts.adopt(*text), tts.adopt(*picture))


async def answer(device: str) -> Tensor:
    llm = await asyncgpu.create_context("llm", max_vram="2GiB", qos=QoSPolicy.GUARANTEED)
    vision = await asyncgpu.create_context(
        "vision", max_vram="2GiB", base_vram="512MiB", qos=QoSPolicy.BURSTABLE
    )
    tts = await asyncgpu.create_context("tts", max_vram="1GiB", qos=QoSPolicy.BEST_EFFORT)

    def load(model: Callable[[], nn.Module]) -> nn.Module:
        return model().to(device)

    language = await llm.run_sync(load, Language)
    eyes = await vision.run_sync(load, Vision)
    voice = await tts.run_sync(load, Voice)

    prompt = torch.arange(16, device=device)
    picture = torch.rand(1, 3, 224, 224, device=device)
    async with asyncio.TaskGroup() as both:
        text = both.create_task(write(llm, language, prompt), name="llm")
        features = both.create_task(look(vision, eyes, picture), name="vision")
    return await speak(tts, voice, text.result(), features.result())


def draw(spans: Sequence[Span]) -> None:
    """Print one line for each span: when, how long, what."""
    origin = min(span.start for span in spans)
    scale = 50 / (max(span.end for span in spans) - origin)
    for span in sorted(spans, key=lambda span: span.start):
        before = int((span.start - origin) * scale)
        bar = "=" * max(1, int(span.seconds * scale))
        print(f"  {span.track:14} |{' ' * before}{bar:{51 - before}}| {span.name}")


def overlap(one: Span, other: Span) -> float:
    """Seconds in which both were under way."""
    return max(0.0, min(one.end, other.end) - max(one.start, other.start))


async def main() -> None:
    # The two models that work side by side have one core each.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    async with asyncgpu.Runtime() as runtime:
        sound = await answer("cuda" if torch.cuda.is_available() else "cpu")
        print(f"the answer has {len(sound)} samples\n")
        spans = runtime.timeline.spans
        draw(spans)
        sessions = {span.track: span for span in spans if span.category == "session"}
        together = overlap(sessions["cuda:0 llm"], sessions["cuda:0 vision"])
        print(f"\nllm and vision were under way together for {together * 1000:.1f} ms")
        for path in sys.argv[1:]:
            await asyncio.to_thread(write_picture, path, spans, title="An assistant")


if __name__ == "__main__":
    asyncio.run(main())
