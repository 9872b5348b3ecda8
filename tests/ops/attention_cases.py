"""One attention layer of ours, fed in prefill chunks and decode steps, beside `DeepseekV4Attention` of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import pytest
import torch
from helpers import run_program

from ops import register_all
from runner.base.tensor_spec import TensorSpec
from runner.config.config import Config, load_config
from runner.execution.storage import TORCH_DTYPES
from runner.expansion.expander import expand
from runner.language.library import load_graph
from runner.models.deepseek_v4.request_state import StateStore
from runner.program.ops import OpRegistry
from runner.program.program import Program

modeling = pytest.importorskip("transformers.models.deepseek_v4.modeling_deepseek_v4", reason="transformers is the oracle")
REGISTRY = OpRegistry()
register_all(REGISTRY)

LAYER_TYPES = {"swa": "sliding_attention", "csa": "compressed_sparse_attention", "hca": "heavily_compressed_attention"}
ORACLE_NAMES = {
    "wq_a.weight": "q_a_proj.weight",
    "q_norm.weight": "q_a_norm.weight",
    "wq_b.weight": "q_b_proj.weight",
    "wkv.weight": "kv_proj.weight",
    "kv_norm.weight": "kv_norm.weight",
    "wo_a.weight": "o_a_proj.weight",
    "wo_b.weight": "o_b_proj.weight",
    "attn_sink": "sinks",
    "compressor.wkv.weight": "compressor.kv_proj.weight",
    "compressor.wgate.weight": "compressor.gate_proj.weight",
    "compressor.ape": "compressor.position_bias",
    "compressor.norm.weight": "compressor.kv_norm.weight",
    "indexer.wq_b.weight": "compressor.indexer.q_b_proj.weight",
    "indexer.weights_proj.weight": "compressor.indexer.scorer.weights_proj.weight",
    "indexer.compressor.wkv.weight": "compressor.indexer.kv_proj.weight",
    "indexer.compressor.wgate.weight": "compressor.indexer.gate_proj.weight",
    "indexer.compressor.ape": "compressor.indexer.position_bias",
    "indexer.compressor.norm.weight": "compressor.indexer.kv_norm.weight",
}


@cache
def program(kind: str, deploy: str, sets: tuple[str, ...]) -> tuple[Config, Program]:
    """The attention graph of a kind of layer, for the tiny model with `sets`."""
    config = load_config(["tiny"], sets=sets, deploy=deploy)
    phase = "prefill" if deploy == "prefill" else "decode"
    return config, expand(load_graph(f"attention_{phase}_{kind}"), config, REGISTRY)


def specs(made: Program, kind: str) -> dict[str, TensorSpec]:
    """Specs of a program's externals of a kind, by source."""
    return {tensor.source: tensor.spec for tensor in made.tensors if tensor.kind == kind}


def random_weights(made: Program, seed: int) -> dict[str, torch.Tensor]:
    """A random tensor for every weight; INT8 codes have a scale per row, which is ones beside float weights."""
    generator = torch.Generator().manual_seed(seed)
    wanted = specs(made, "weight")
    weights = {}
    for name, spec in wanted.items():
        value = torch.randn(spec.shape, generator=generator)
        if spec.dtype == "i8":
            value = torch.randint(-127, 128, spec.shape, generator=generator)
        elif name.endswith(".scale"):
            row_of = wanted[name.replace(".scale", ".weight")]
            value = (1 + 0.2 * value) * row_of.shape[-1] ** -0.5 / 73 if row_of.dtype == "i8" else torch.ones(spec.shape)
        elif "norm" in name:
            value = 1 + 0.3 * value
        elif len(spec.shape) > 1 and "ape" not in name:
            value = value * spec.shape[-1] ** -0.5
        weights[name] = value.to(TORCH_DTYPES[spec.dtype])
    return weights


def float_weights(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights that the oracle has, by its names, in f32 and times their scales."""
    found = {}
    for name, weight in weights.items():
        ours = name.removeprefix("layers.0.attn.")
        if ours in ORACLE_NAMES:
            scale = weights.get(name.replace(".weight", ".scale")) if weight.dtype == torch.int8 else None
            found[ORACLE_NAMES[ours]] = weight.float() if scale is None else weight * scale[:, None]
    return found


@dataclass
class Layer:
    """An attention layer with state. `normed` and `out` collect, by request, the rows that went into attention and came out.

    `segments` are the numbers of tokens that the oracle takes in one call: whole prompts, single tokens.
    """

    kind: str
    sets: tuple[str, ...] = ()
    seed: int = 0
    poison: bool = False
    normed: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    out: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    segments: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.config, made = program(self.kind, "prefill", self.sets)
        self.weights = random_weights(made, self.seed)
        self.generator = torch.Generator().manual_seed(self.seed + 1)
        self.store = StateStore(self.config, specs(made, "state"))
        if self.poison:
            for tensor in self.store.tensors.values():
                tensor.fill_(float("nan") if tensor.is_floating_point() else 77)

    def call(self, rows: Sequence[tuple[int, int]], deploy: str) -> None:
        """`rows`: handle and number of tokens; negative: the last token once more is the first of so many."""
        config, made = program(self.kind, deploy, self.sets)
        given = [(handle, [0] * abs(n), self.store.length(handle) - (n < 0)) for handle, n in rows]
        wanted = specs(made, "input")
        inputs = self.store.batch_inputs(given, wanted)
        x_hc = torch.randn(wanted["x_hc"].shape, generator=self.generator).to(TORCH_DTYPES[config.dtypes["act"]])
        tensors = run_program(made, REGISTRY, {**inputs, **self.weights, **self.store.tensors, "x_hc": x_hc}, config.values)
        normed = tensors.get("x_normed", tensors.get("x_normed_t"))
        assert normed is not None
        assert torch.isfinite(tensors["x_next"].float()).all()
        for i, (handle, n) in enumerate(rows):
            part = slice(i * config.values["S"], i * config.values["S"] + abs(n))
            for collected, rows_made in ((self.normed, normed), (self.out, tensors["attn_out"])):
                list_ = collected.setdefault(handle, [])
                if n < 0:
                    list_[-1] = list_[-1][:-1]
                list_.append(rows_made[part].float().clone())

    def prefill(self, handle: int, num_tokens: int) -> None:
        """`num_tokens` in as many chunks as they need."""
        self.segments.setdefault(handle, []).append(num_tokens)
        while num_tokens > 0:
            chunk = min(num_tokens, self.config.values["seq"])
            self.call([(handle, chunk)], "prefill")
            num_tokens -= chunk

    def decode(self, handles: Sequence[int], steps: int, deploy: str = "decode", tokens: int = 1) -> None:
        """`steps` steps of `tokens` tokens of every request (negative: the last one once more and the new ones)."""
        for _ in range(steps):
            self.call([(handle, tokens) for handle in handles], deploy)
            for handle in handles:
                self.segments.setdefault(handle, []).extend([1] * (abs(tokens) - (tokens < 0)))

    def error(self, handle: int) -> float:
        """The largest relative error of a request's rows against the oracle, over its positions."""
        normed, out = torch.cat(self.normed[handle]), torch.cat(self.out[handle])
        expected = oracle(self.kind, self.config.values, self.weights, normed, self.segments[handle])
        return float(((out - expected).norm(dim=1) / expected.norm(dim=1)).max())


def oracle(
    kind: str, values: Mapping, weights: Mapping[str, torch.Tensor], normed: torch.Tensor, segments: Sequence[int]
) -> torch.Tensor:
    """Attention's output f32[L, D] for the rows `normed` f32[L, D] of one request, fed in `segments` through a cache."""
    config = _oracle_config(kind, values)
    module = modeling.DeepseekV4Attention(config, 0).float().eval()
    found = float_weights(weights)
    assert found.keys() == {name for name, _ in module.named_parameters()}
    module.load_state_dict(found, strict=False)
    rotary, cache = modeling.DeepseekV4RotaryEmbedding(config), modeling.DynamicCache(config=config)
    out, start = [], 0
    for length in segments:
        position = torch.arange(start, start + length)
        key = torch.arange(start - min(start, values["sliding_window"] - 1), start + length)
        distance = position[:, None] - key
        mask = torch.where((distance >= 0) & (distance < values["sliding_window"]), 0.0, float("-inf"))[None, None]
        rows = normed[None, start : start + length]
        embeddings = {name: rotary(rows, position[None], name) for name in ("main", "compress")}
        with torch.no_grad():
            out.append(module(rows, embeddings, position[None], mask, cache)[0][0])
        start += length
    return torch.cat(out)


def _oracle_config(kind: str, values: Mapping):
    rope = {"rope_type": "default", "partial_rotary_factor": values["qk_rope_head_dim"] / values["head_dim"]}
    compress = rope | {"rope_theta": values["compress_rope_theta"]}
    if values["rope_type"] == "yarn":
        compress |= {
            "rope_type": "yarn",
            "factor": values["rope_factor"],
            "original_max_position_embeddings": values["rope_original_max_position_embeddings"],
            "beta_fast": values["rope_beta_fast"],
            "beta_slow": values["rope_beta_slow"],
            "attention_factor": 1.0,
        }
    same = ("hidden_size", "num_attention_heads", "head_dim", "q_lora_rank", "o_lora_rank", "o_groups", "sliding_window")
    return modeling.DeepseekV4Config(
        **{name: values[name] for name in (*same, "index_n_heads", "index_head_dim", "index_topk", "rms_norm_eps")},
        num_hidden_layers=1,
        layer_types=[LAYER_TYPES[kind]],
        compress_rates={LAYER_TYPES["csa"]: values["compress_rate_csa"], LAYER_TYPES["hca"]: values["compress_rate_hca"]},
        partial_rotary_factor=rope["partial_rotary_factor"],
        rope_parameters={"main": rope | {"rope_theta": values["rope_theta"]}, "compress": compress},
        max_position_embeddings=values["max_position_embeddings"],
        attn_implementation="eager",
    )
