"""Rotary tables of a `state` section against transformers' own, for every scaling that Qwen3 takes."""

from __future__ import annotations

import pytest
import torch
from qwen3_oracle import fields, transformers

from runner.serving.state.constants import constant

ROPES = {
    "default": {},
    "dynamic": {"factor": 4.0},
    "linear": {"factor": 2.5},
    "llama3": {"factor": 8.0, "original_max_position_embeddings": 256, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {"factor": 16.0, "original_max_position_embeddings": 128, "beta_fast": 24.0, "beta_slow": 2.0},
}
NAMES = {"original_max_position_embeddings": "original", "low_freq_factor": "low", "high_freq_factor": "high"}


@pytest.mark.parametrize("kind", ROPES)
@pytest.mark.parametrize("columns", [8, 128])
def test_tables_are_those_of_transformers(kind, columns):
    rope = {"rope_type": kind, "rope_theta": 5e4, **ROPES[kind]}
    config = transformers.Qwen3Config(**fields(rope_parameters=rope, head_dim=columns, max_position_embeddings=2048))
    embedding = transformers.models.qwen3.modeling_qwen3.Qwen3RotaryEmbedding(config)
    cos, sin = embedding(torch.zeros(1), torch.arange(600)[None])
    given = {NAMES.get(key, key): value for key, value in ROPES[kind].items()}
    arguments = {
        "theta": 5e4,
        "scaling": kind,
        "scale": float(embedding.attention_scaling),
        "beta_fast": 32,
        "beta_slow": 1,
        **given,
    }
    torch.testing.assert_close(constant("rope_cos", arguments, (600, columns)), cos[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(constant("rope_sin", arguments, (600, columns)), sin[0], rtol=0, atol=2e-5)
