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
from runner.serving.generate import Generation, Row, generate
from runner.serving.session import ModelSession, Placement, open_session
from schedulers import get_scheduler

pytestmark = pytest.mark.usefixtures("same_programs")

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
    "many-queries-a-head": fields(
        num_attention_heads=20, num_key_value_heads=1, head_dim=8, num_hidden_layers=1, vocab_size=1001
    ),
    "biases-tied-deep": fields(
        attention_bias=True, tie_word_embeddings=True, num_hidden_layers=6, intermediate_size=200, rms_norm_eps=1e-5
    ),
    "split-columns": fields(
        hidden_size=1100, intermediate_size=2100, num_attention_heads=10, num_key_value_heads=2, head_dim=128
    ),
    "windows-from-the-second-layer": fields(use_sliding_window=True, sliding_window=40, max_window_layers=1, num_hidden_layers=4),
    "windows-by-layer": fields(
        use_sliding_window=True,
        sliding_window=200,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "linear-rope": fields(rope_parameters=rope("linear", factor=3.0)),
    "dynamic-rope": fields(rope_parameters=rope("dynamic", factor=2.0)),
    "yarn-rope": fields(rope_parameters=rope("yarn", factor=8.0, original_max_position_embeddings=64, beta_fast=16.0)),
    "llama3-rope": fields(
        rope_parameters=rope(
            "llama3", factor=4.0, original_max_position_embeddings=128, low_freq_factor=1.0, high_freq_factor=4.0
        )
    ),
}
"""Heads, groups, columns of a head apart from the hidden size, tied or not, rope, layers, biases, windows, and sizes past every
tile."""
QUICK = ("tied-one-key-head", "biases-wide-heads", "windows-by-layer")


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


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MODELS])
def test_logits_and_tokens_of_a_checkpoint_that_transformers_wrote(name, tmp_path):
    """All prefill rows and 64 decode steps of ragged prompts, on rings of safe sizes."""
    model = qwen3_oracle.random_model(MODELS[name], seed=1)
    model.save_pretrained(tmp_path)
    lengths = (1, 3, 65, 129, 300) if name in QUICK else PROMPT_LENGTHS
    print(f"{name}: {run_and_check(tmp_path, model, lengths, 8 if name in QUICK else DECODE_STEPS):.1e}")


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_the_quick_models_in_full(name, tmp_path):
    model = qwen3_oracle.random_model(MODELS[name], seed=2)
    model.save_pretrained(tmp_path)
    print(f"{name}: {run_and_check(tmp_path, model, PROMPT_LENGTHS, DECODE_STEPS):.1e}")


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["minpeak", "autoscope", "unscoped"])
def test_tokens_on_any_placement_with_three_workers(scheduler, tmp_path):
    model = qwen3_oracle.random_model(MODELS["grouped"], seed=3)
    model.save_pretrained(tmp_path)
    run_and_check(tmp_path, model, (1, 64, 129, 300), 16, scheduler=scheduler, workers=3)


def test_shards_are_read_as_they_are(tmp_path):
    model = qwen3_oracle.random_model(fields(num_hidden_layers=2), seed=4)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    made = run_and_check(tmp_path, model, (5, 66), 3)
    assert made < LIMIT


def test_the_oracle_with_a_cache_makes_the_same_tokens(tmp_path):
    model = qwen3_oracle.random_model(MODELS["windows-from-the-second-layer"], seed=5)
    model.save_pretrained(tmp_path)
    prompt = prompts((90,), 384)[0]
    config = load_config([tmp_path / "config.json"], ["decode.batch=1"])
    made, _ = generate(session(config, tmp_path), [prompt], 12)
    assert made[0].tokens == qwen3_oracle.greedy(model, prompt, 12)


def test_chunks_and_batches_change_no_token(tmp_path):
    """Prefill in chunks that end within a tile, other pages, and prompts that wait for room."""
    model = qwen3_oracle.random_model(MODELS["windows-by-layer"], seed=6)
    model.save_pretrained(tmp_path)
    given = prompts((3, 130, 70), 384)
    sets = (), ("prefill.seq=48", "PAGE=32", "decode.batch=2"), ("prefill.seq=100", "PAGE=16", "TOK_TILE=40", "decode.batch=1")
    tokens = []
    for fields_set in sets:
        config = load_config([tmp_path / "config.json"], fields_set)
        made, _ = generate(session(config, tmp_path, rings=False), given, 6)
        tokens.append([generation.tokens for generation in made])
    assert tokens[0] == tokens[1] == tokens[2]
    assert tokens[0][1] == qwen3_oracle.greedy(model, given[1], 6)


def test_two_tokens_a_step(tmp_path):
    """A decode call of two tokens a request gives the rows of two calls of one."""
    model = qwen3_oracle.random_model(fields(num_hidden_layers=2), seed=7)
    model.save_pretrained(tmp_path)
    tokens = prompts((75,), 384)[0]
    golden = qwen3_oracle.logits(model, tokens)[65:]
    for width in (1, 2):
        config = load_config([tmp_path / "config.json"], [f"decode.seq={width}", "decode.batch=2"])
        serving = session(config, tmp_path, rings=False)
        handle = serving.admit(len(tokens), 65)
        serving.prefill(Row(handle, tokens[:65], 0))
        rows = [serving.step([Row(handle, tokens[at : at + width], at)])[0] for at in range(65, 75, width)]
        assert float(errors(torch.cat(rows), golden).max()) < LIMIT


def test_bf16_stays_close(tmp_path):
    model = qwen3_oracle.random_model(fields(), seed=8)
    model.save_pretrained(tmp_path)
    config = load_config([tmp_path / "config.json"], ["dtype=bf16", "decode.batch=2"])
    made, _ = generate(session(config, tmp_path), prompts((3, 129), 384), 3, keep_logits=True)
    for generation in made:
        golden = qwen3_oracle.logits(model, [*generation.prompt, *generation.tokens[:-1]])
        rows = torch.cat([*generation.prefill_logits, torch.stack(generation.decode_logits)])
        assert 1e-4 < float((rows - golden).norm() / golden.norm()) < 0.1
