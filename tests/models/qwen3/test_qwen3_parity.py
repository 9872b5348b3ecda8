"""Qwen3 against transformers' `Qwen3ForCausalLM`, in f32, through checkpoints that `save_pretrained` wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
import qwen3_oracle
import torch
from qwen3_oracle import fields

from runner.config.config import load_config
from runner.driver.driver import registry
from runner.rings.common_sizes import safe_sizes
from runner.serving.generate import Generation, generate
from runner.serving.session import ModelSession, Placement, open_session
from schedulers import get_scheduler

PROMPT_LENGTHS = (1, 3, 63, 64, 65, 127, 128, 129, 191, 255, 256, 257, 300)
"""Across every boundary of the tile, the page and the prefill chunk."""
DECODE_STEPS = 64
LIMIT = 1e-4
"""Norm of the difference over the norm, of every single row of logits."""


def rope(kind: str, theta: float = 1e4, **more: float) -> dict:
    return {"rope_type": kind, "rope_theta": theta, **more}


MODELS = {
    "grouped": fields(),
    "tied-one-key-head": fields(tie_word_embeddings=True, num_attention_heads=8, num_key_value_heads=1, head_dim=16),
    "no-groups-theta-small": fields(num_attention_heads=6, num_key_value_heads=6, head_dim=24, rope_parameters=rope("default")),
    "biases-wide-heads": fields(attention_bias=True, hidden_size=40, num_attention_heads=3, num_key_value_heads=3, head_dim=64),
    "many-queries-a-head": fields(num_attention_heads=20, num_key_value_heads=1, head_dim=8, num_hidden_layers=1, vocab_size=1001),
    "biases-tied-deep": fields(
        attention_bias=True, tie_word_embeddings=True, num_hidden_layers=6, intermediate_size=200, rms_norm_eps=1e-5
    ),
    "split-columns": fields(hidden_size=1100, intermediate_size=2100, num_attention_heads=10, num_key_value_heads=2, head_dim=128),
    "linear-rope": fields(rope_parameters=rope("linear", factor=3.0)),
}
"""Heads, groups, columns of a head apart from the hidden size, tied or not, rope, layers, biases, and sizes past every tile."""


def session(config, folder: Path, rings: bool = True, workers: int = 1, scheduler: str = "annotated") -> ModelSession:
    strategy = get_scheduler(scheduler)
    sizes = (lambda schedules: safe_sizes(schedules)) if rings else (lambda _: None)
    return open_session(config, folder, registry(), Placement(lambda program: strategy(program, {}), sizes, workers))


def prompts(lengths, vocab_size: int, seed: int = 0) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(0, vocab_size, (length,), generator=generator).tolist()) for length in lengths]


def errors(rows: torch.Tensor, golden: torch.Tensor) -> torch.Tensor:
    """Relative error of every row."""
    return (rows - golden).norm(dim=1) / golden.norm(dim=1)


def check(made: Generation, model, num_tokens: int) -> float:
    """Every position's logits and every greedy token, against one call of the oracle over all tokens; the largest error."""
    assert len(made.tokens) == num_tokens and len(made.decode_logits) == num_tokens - 1
    golden = qwen3_oracle.logits(model, [*made.prompt, *made.tokens[:-1]])
    rows = torch.cat([*made.prefill_logits, torch.stack(made.decode_logits)])
    assert rows.dtype == torch.float32 and rows.shape == golden.shape
    worst = float(errors(rows, golden).max())
    assert worst < LIMIT
    assert golden[len(made.prompt) - 1 :].argmax(dim=1).tolist() == made.tokens
    return worst


def run_and_check(folder: Path, model, lengths, steps: int, **how) -> float:
    config = load_config([folder / "config.json"], [f"decode.batch={len(lengths)}", f"REQUESTS={len(lengths)}"])
    made, figures = generate(session(config, folder, **how), prompts(lengths, config["V"]), steps + 1, keep_logits=True)
    assert figures.decode_calls == steps
    return max(check(generation, model, steps + 1) for generation in made)


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_tokens_of_a_checkpoint_that_transformers_wrote(name, tmp_path):
    model = qwen3_oracle.random_model(MODELS[name], seed=1)
    model.save_pretrained(tmp_path)
    print(name, run_and_check(tmp_path, model, PROMPT_LENGTHS, DECODE_STEPS))
