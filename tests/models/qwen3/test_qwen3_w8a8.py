"""A8W8 against transformers' model with rounded weights and activations, and a checkpoint from `ringgraph checkpoint init`."""

from __future__ import annotations

from pathlib import Path

import pytest
import qwen3_oracle
import torch
from safetensors.torch import load_file
from test_qwen3_parity import errors, prompts, session

from runner.checkpoint.convert import convert
from runner.checkpoint.random import init_checkpoint
from runner.config.config import load_config
from runner.serving.generate import generate

QUANTISED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Symmetric INT8 of every row, and back: the largest magnitude, at least 1e-4, becomes 127."""
    step = x.abs().amax(-1, keepdim=True).clamp_min(1e-4) / 127
    return (x / step).round() * step


def as_w8a8(folder: Path, plain: Path):
    """transformers' model of the `plain` folder with the codes of `folder` for weights, and inputs rounded."""
    model, tensors = qwen3_oracle.load(plain), {}
    for shard in folder.glob("*.safetensors"):
        tensors |= load_file(shard)
    for name, module in model.named_modules():
        if name.endswith(QUANTISED):
            codes = tensors[f"{name}.weight"]
            assert codes.dtype == torch.int8
            module.weight.data = codes.float() * tensors[f"{name}.scale"].float().view(-1, 1)
            module.register_forward_pre_hook(lambda _, given: (rounded(given[0]),))
    return model


@pytest.mark.parametrize("sets", [[], ["tie_word_embeddings=false", "attention_bias=true", "num_key_value_heads=1"]])
def test_rounded_transformers_makes_the_same_logits(sets, tmp_path):
    """One layer: a value on the edge of a rounding may get the code beside, and further layers would spread that to all rows."""
    plain = init_checkpoint(load_config(["qwen3-tiny"], ["num_hidden_layers=1", *sets]), tmp_path / "plain", seed=2)
    convert(plain, tmp_path / "codes", load_config([plain / "config.json"]))
    config = load_config([tmp_path / "codes" / "config.json"], ["decode.batch=3"])
    assert (config["precision"], config.dtypes["wq"], config.dtypes["act"]) == ("w8a8", "i8", "f32")
    made, _ = generate(session(config, tmp_path / "codes"), prompts((4, 70, 130), 512), 5, keep_logits=True)
    exact, oracle = qwen3_oracle.load(plain), as_w8a8(tmp_path / "codes", plain)
    for generation in made:
        tokens = [*generation.prompt, *generation.tokens[:-1]]
        rows = torch.cat([*generation.prefill_logits, torch.stack(generation.decode_logits)])
        found = errors(rows, qwen3_oracle.logits(oracle, tokens))
        assert float(found.median()) < 1e-5 and float(found.max()) < 0.03
        assert float(errors(rows, qwen3_oracle.logits(exact, tokens)).median()) > 3e-3, "what is rounded must show"


def test_a_checkpoint_made_here_is_read_by_transformers(tmp_path):
    config = load_config(["qwen3-tiny"], ["rope_theta=5e3", "max_window_layers=2", "use_sliding_window=true", "sliding_window=9"])
    folder = init_checkpoint(config, tmp_path / "made", seed=1)
    model = qwen3_oracle.load(folder)
    assert model.config.rope_parameters["rope_theta"] == 5e3 and model.config.layer_types[1:3] == [
        "full_attention",
        "sliding_attention",
    ]
    made, _ = generate(session(load_config([folder / "config.json"]), folder), prompts((40,), 512), 6)
    assert made[0].tokens == qwen3_oracle.greedy(model, made[0].prompt, 6)
