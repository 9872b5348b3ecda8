"""The whole model against transformers' `DeepseekV4ForCausalLM`, in f32, weights exchanged through checkpoints on disk."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import hf_oracle
import pytest
import torch
from sampled import sampled

from runner.checkpoint.random import init_checkpoint
from runner.config.config import load_config
from runner.driver.driver import registry
from runner.rings.common_sizes import safe_sizes
from runner.serving.generate import Generation, Row, generate
from runner.serving.session import ModelSession, Placement, open_session
from schedulers import get_scheduler

pytestmark = pytest.mark.usefixtures("same_programs")

PROMPT_LENGTHS = (1, 3, 4, 5, 127, 128, 129, 255, 256, 257, 300)
"""Across every boundary of the window, of ratio 4, of ratio 128 and of the prefill chunk."""
DECODE_STEPS, FEWER_STEPS = 64, 10  # ten cross each of these boundaries
LIMIT = 1e-4
"""Norm of the difference over the norm, of every single row of logits."""

YARN = {"rope_type": "yarn", "original_max_position_embeddings": 256, "beta_fast": 32, "beta_slow": 1}


def fields(**changes: Any) -> dict[str, Any]:
    """Hugging Face fields of a small model; many index heads, so that no two scores are exactly 0."""
    return {
        "vocab_size": 384,
        "hidden_size": 64,
        "moe_intermediate_size": 32,
        "num_hidden_layers": len(changes.get("compress_ratios", [0, 4, 128, 4])),
        "num_attention_heads": 4,
        "head_dim": 32,
        "qk_rope_head_dim": 16,
        "q_lora_rank": 32,
        "o_lora_rank": 16,
        "o_groups": 2,
        "n_routed_experts": 16,
        "num_experts_per_tok": 3,
        "num_hash_layers": 1,
        "sliding_window": 128,
        "compress_ratios": [0, 4, 128, 4],
        "index_n_heads": 16,
        "index_head_dim": 32,
        "index_topk": 16,
        "max_position_embeddings": 4096,
        "rope_parameters": {**YARN, "factor": 16},
        **changes,
    }


MODELS = {
    "all-paths": fields(),
    "many-heads-narrow-window": fields(
        num_attention_heads=8,
        o_groups=4,
        sliding_window=40,
        compress_ratios=[128, 128, 4],
        index_topk=5,
        num_experts_per_tok=1,
        num_hash_layers=0,
        rope_parameters={**YARN, "factor": 4},
    ),
    "hashed-no-yarn": fields(
        num_attention_heads=2,
        o_groups=1,
        compress_ratios=[4, 0, 128],
        index_topk=64,
        n_routed_experts=8,
        num_experts_per_tok=6,
        num_hash_layers=3,
        routed_scaling_factor=2.5,
        rope_parameters={"rope_type": "default"},
    ),
    "wide-window-odd-sizes": fields(
        hidden_size=96,
        num_attention_heads=6,
        head_dim=48,
        qk_rope_head_dim=20,
        o_groups=3,
        o_lora_rank=24,
        q_lora_rank=40,
        vocab_size=333,
        sliding_window=200,
        compress_ratios=[0, 128, 4],
        n_routed_experts=10,
        num_experts_per_tok=4,
        hc_mult=2,
        hc_sinkhorn_iters=7,
        num_hash_layers=2,
        rope_parameters={**YARN, "factor": 40, "original_max_position_embeddings": 128},
    ),
}
"""Every model varies heads, groups, layer pattern, top-k of experts and of the indexer, window, hash layers and YaRN."""

MORE_MODELS = {
    "pro-like": fields(compress_ratios=[128, 128, 4, 128, 4, 128, 4], num_hash_layers=3, routed_scaling_factor=2.5),
    "windows-only": fields(compress_ratios=[0, 0, 0], num_hash_layers=1, sliding_window=16),
    "sparse-only": fields(compress_ratios=[4, 4, 4, 4], index_topk=33, num_hash_layers=4),
    "heavy-only": fields(compress_ratios=[128, 128], sliding_window=128, num_attention_heads=16, o_groups=8),
    "one-group-many-experts": fields(o_groups=1, n_routed_experts=64, num_experts_per_tok=8, num_hash_layers=0, hidden_size=128),
    "equal-rates": fields(
        compress_ratios=[0, 4, 128, 4], compress_rates={"compressed_sparse_attention": 8, "heavily_compressed_attention": 8}
    ),
    "loose-gates": fields(swiglu_limit=0.5, hc_eps=1e-3, rms_norm_eps=1e-3, sliding_window=256, hc_mult=3),
}


def in_order(
    config, folder: Path, *, decode: str = "decode", workers: int = 1, rings: bool = False, scheduler: str = "annotated"
) -> ModelSession:
    strategy = get_scheduler(scheduler)
    placement = Placement(
        lambda program: strategy(program, {}), (lambda schedules: safe_sizes(schedules)) if rings else (lambda _: None), workers
    )
    return open_session(config, folder, registry(), placement, decode=decode)


def prompts(lengths, vocab_size: int, seed: int = 0) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(0, vocab_size, (length,), generator=generator).tolist()) for length in lengths]


def errors(rows: torch.Tensor, golden: torch.Tensor) -> torch.Tensor:
    """Relative error of every row."""
    return (rows - golden).norm(dim=1) / golden.norm(dim=1)


def check(made: Generation, model, num_tokens: int) -> None:
    """Every position's logits and every greedy token, against one call of the oracle over all tokens."""
    assert len(made.tokens) == num_tokens and len(made.decode_logits) == num_tokens - 1
    golden = hf_oracle.logits(model, [*made.prompt, *made.tokens[:-1]])
    rows = torch.cat([*made.prefill_logits, torch.stack(made.decode_logits)])
    assert rows.dtype == torch.float32 and rows.shape == golden.shape
    assert float(errors(rows, golden).max()) < LIMIT
    assert golden[len(made.prompt) - 1 :].argmax(dim=1).tolist() == made.tokens


def run_and_check(folder: Path, model, lengths, steps: int) -> list[Generation]:
    config = load_config([folder / "config.json"], [f"decode.batch={len(lengths)}", f"REQUESTS={len(lengths)}"])
    given = prompts(lengths, config["V"])
    made, figures = generate(in_order(config, folder), given, steps + 1, keep_logits=True)
    assert figures.decode_calls == steps
    for generation in made:
        check(generation, model, steps + 1)
    return made


@pytest.mark.parametrize("steps", sampled((FEWER_STEPS, DECODE_STEPS), (FEWER_STEPS,)))
@pytest.mark.parametrize("name", MODELS)
def test_logits_and_tokens_of_a_checkpoint_that_transformers_wrote(name, steps, tmp_path):
    model = hf_oracle.random_model(MODELS[name], seed=1)
    hf_oracle.save(model, tmp_path)
    made = run_and_check(tmp_path, model, PROMPT_LENGTHS, steps)
    longest, by_one = made[-1], min(24, steps)
    tokens, rows = hf_oracle.greedy(model, longest.prompt, by_one)  # one token at a time, through the oracle's own cache
    assert longest.tokens[:by_one] == tokens
    ours = torch.stack([longest.prefill_logits[-1][-1], *longest.decode_logits[: by_one - 1]])
    assert float(errors(ours, rows).max()) < LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE_MODELS)
def test_more_models(name, tmp_path):
    model = hf_oracle.random_model(MORE_MODELS[name], seed=2)
    hf_oracle.save(model, tmp_path)
    run_and_check(tmp_path, model, (*PROMPT_LENGTHS, 2, 63, 130, 131, 384, 511, 513), 150)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("heads", [1, 2, 3])
def test_equal_index_scores_are_chosen_among_as_transformers_does(heads, seed, tmp_path):
    """A prompt's rows against one call over the prompt, a step's against one through the model's cache: as many rows are ranked.

    Scores that differ by rounding alone may change places, and what attends to such a token differs: rows behind it are left out.
    """
    model = hf_oracle.random_model(fields(compress_ratios=[4, 0], index_n_heads=heads, index_topk=8, hc_mult=2), seed)
    hf_oracle.save(model, tmp_path)
    config = load_config([tmp_path / "config.json"], ["decode.batch=2", "REQUESTS=2"])
    made, _ = generate(in_order(config, tmp_path), prompts((140, 75), config["V"], seed), 13, keep_logits=True)
    num_equal = 0
    for generation in made:
        rows = torch.cat([*generation.prefill_logits, torch.stack(generation.decode_logits)])
        golden, margins = hf_oracle.stepped(model, generation.prompt, generation.tokens[:-1])
        unsure = ((margins > 0) & (margins < 1e-5)).nonzero().flatten().tolist()
        sure = unsure[0] if unsure else len(rows)
        assert sure > 60 and float(errors(rows[:sure], golden[:sure]).max()) < LIMIT
        num_equal += int((margins[:sure] == 0).sum())
    assert num_equal > 5


@pytest.mark.parametrize("sets", [(), ("num_attention_heads=8", "o_groups=4", "num_hash_layers=0", "sliding_window=50")])
def test_checkpoint_written_here_is_read_by_transformers(sets, tmp_path):
    folder = init_checkpoint(load_config(["tiny"], ["index_n_heads=16", *sets]), tmp_path / "made", seed=5)
    run_and_check(folder, hf_oracle.load(folder), (1, 126, 259), 8)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A checkpoint of the tiny preset."""
    return init_checkpoint(load_config(["tiny"]), tmp_path_factory.mktemp("tiny") / "checkpoint", seed=0)


@pytest.fixture(scope="module")
def oracle(tiny):
    return hf_oracle.load(tiny)


def own(folder: Path, *sets: str):
    return load_config([folder / "config.json"], sets)


@pytest.fixture(scope="module")
def opened():
    """Sessions, each opened once for all tests that use it; requests come and go."""

    @cache
    def session(folder: Path, *sets: str, **how: Any) -> ModelSession:
        return in_order(own(folder, *sets), folder, **how)

    return session


@pytest.fixture(scope="module")
def plain(opened):
    """What is generated in order and without rings, each once."""

    @cache
    def generated(folder: Path, lengths: tuple[int, ...], num_new: int) -> list[Generation]:
        return generate(opened(folder), prompts(lengths, 512), num_new, keep_logits=True)[0]

    return generated


def forced(session: ModelSession, prompt, continuation, width: int) -> torch.Tensor:
    """Logits of every position of `continuation`, fed `width` tokens a call after `prompt`; other requests come and go."""
    handle = session.admit(len(prompt) + len(continuation), len(prompt))
    for start in range(0, len(prompt), session.prefill_tokens):
        session.prefill(Row(handle, prompt[start : start + session.prefill_tokens], start))
    rows = []
    for start in range(0, len(continuation), width):
        tokens = tuple(continuation[start : start + width])
        other = session.admit(8, 1)
        both = [Row(other, (start,), 0), Row(handle, tokens, len(prompt) + start)]
        rows.append(session.step(both if start % 3 else both[::-1])[1 if start % 3 else 0])
        session.release(other)
    session.release(handle)
    return torch.cat(rows)


def test_both_decode_deployments_give_the_same_logits(tiny, oracle, opened):
    single, double = opened(tiny), opened(tiny, decode="decode-mtp")
    assert (single.batch, single.seq, double.batch, double.seq) == (8, 1, 4, 2)
    for length in (1, 126):
        tokens = prompts([length + 9], 512, seed=length)[0]
        golden = hf_oracle.logits(oracle, tokens)[length:]
        by_one = forced(single, tokens[:length], tokens[length:], 1)
        by_two = forced(double, tokens[:length], tokens[length:], 2)
        masked = forced(double, tokens[:length], tokens[length:], 1)
        for rows in (by_one, by_two, masked):
            assert float(errors(rows, golden).max()) < LIMIT
        assert float(errors(by_two, by_one).max()) < 1e-5 and float(errors(masked, by_one).max()) < 1e-5


def test_generation_is_the_same_under_both_deployments(tiny, opened):
    given = prompts((1, 5, 130, 2, 64, 9), 512)
    made = [generate(session, given, 12)[0] for session in (opened(tiny), opened(tiny, decode="decode-mtp"))]
    assert [g.tokens for g in made[0]] == [g.tokens for g in made[1]]


def test_prefill_decode_and_prefill_again_on_one_request(tiny, oracle, opened):
    session = opened(tiny)
    tokens = prompts([420], 512, seed=9)[0]
    handle = session.admit(len(tokens), 131)
    rows, at = [], 0
    for width, prefilled in ((128, True), (3, True), (1, False), (1, False), (126, True), (1, False), (128, True), (32, True)):
        part = Row(handle, tokens[at : at + width], at)
        rows.append(session.prefill(part) if prefilled else session.step([part])[0])
        at += width
    session.release(handle)
    assert at == len(tokens)
    assert float(errors(torch.cat(rows), hf_oracle.logits(oracle, tokens)).max()) < LIMIT


@pytest.mark.parametrize(("workers", "rings"), sampled([(1, True), (3, False), (3, True)], [(3, False), (3, True)]))
def test_rings_and_workers_change_no_bit(tiny, plain, workers, rings):
    session = in_order(own(tiny), tiny, workers=workers, rings=rings)
    other, _ = generate(session, prompts((3, 129), 512), 5, keep_logits=True)
    for a, b in zip(plain(tiny, (3, 129), 5), other, strict=True):
        assert a.tokens == b.tokens
        assert torch.equal(torch.cat(a.prefill_logits), torch.cat(b.prefill_logits))
        assert torch.equal(torch.stack(a.decode_logits), torch.stack(b.decode_logits))


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> Path:
    """A checkpoint with one layer of each kind."""
    config = load_config(["tiny"], ["num_hidden_layers=3", "compress_ratios=[0, 4, 128]"])
    return init_checkpoint(config, tmp_path_factory.mktemp("short") / "checkpoint", seed=0)


@pytest.mark.parametrize("scheduler", sampled(("unscoped", "auto", "autoscope", "minpeak"), ("autoscope", "minpeak")))
def test_placement_changes_no_bit(scheduler, short, plain):
    """Three layers, one of each kind, on safe rings with three workers: where strategies share memory, edges must hold."""
    session = in_order(own(short), short, workers=3, rings=True, scheduler=scheduler)
    other, _ = generate(session, prompts((3, 129), 512), 4, keep_logits=True)
    for a, b in zip(plain(short, (3, 129), 4), other, strict=True):
        assert torch.equal(torch.cat(a.prefill_logits), torch.cat(b.prefill_logits))
        assert torch.equal(torch.stack(a.decode_logits), torch.stack(b.decode_logits))


def test_bf16_stays_close(tiny, plain):
    rough, _ = generate(in_order(own(tiny, "dtype=bf16"), tiny), prompts((3, 129), 512), 2, keep_logits=True)
    for a, b in zip(plain(tiny, (3, 129), 5), rough, strict=True):
        got, golden = b.prefill_logits[0], a.prefill_logits[0]
        assert got.dtype == torch.float32
        assert 1e-4 < float((got - golden).norm() / golden.norm()) < 0.1
