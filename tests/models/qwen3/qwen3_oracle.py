"""The oracle of parity tests: `Qwen3ForCausalLM` of transformers, with every parameter random.

Weights are exchanged through checkpoints on disk only, as `save_pretrained` writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers", "5.23.0", reason="transformers 5.23.0 is the oracle; it is not installed")


def fields(**changes: Any) -> dict[str, Any]:
    """Hugging Face fields of a small model."""
    return {
        "vocab_size": 384,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "tie_word_embeddings": False,
        "eos_token_id": None,
        **changes,
    }


def random_model(given: Mapping[str, Any], seed: int):
    """A model whose norms and biases are random too, not as initialised."""
    model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**given)).float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            values = torch.randn(tensor.shape, generator=generator)
            scale = 0.3 if "norm" in name else 0.5 if name.endswith("bias") else tensor.shape[-1] ** -0.5
            tensor.copy_(values * scale + (1 if "norm" in name else 0))
    return model


def load(folder: Path):
    return transformers.Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model, tokens: Sequence[int]) -> torch.Tensor:
    """f32[len(tokens), V], all positions at once and without a cache."""
    with torch.no_grad():
        return model(torch.tensor([list(tokens)]), use_cache=False).logits[0]


def greedy(model, prompt: Sequence[int], num_tokens: int) -> list[int]:
    """Greedy tokens, one at a time through the model's own cache."""
    made = []
    with torch.no_grad():
        out = model(torch.tensor([list(prompt)]), use_cache=True)
        for _ in range(num_tokens):
            made.append(int(out.logits[0, -1].argmax()))
            out = model(torch.tensor([[made[-1]]]), past_key_values=out.past_key_values, use_cache=True)
    return made
