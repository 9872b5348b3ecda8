"""What a DeepSeek-V4 checkpoint holds: every tensor's name, shape and dtype, for a configuration, and which a flavour quantises.

Names are the checkpoints' own ("canonical"); `canonical` also takes what transformers' `save_pretrained` writes.

Source: design page of the model ("Checkpoints as they lie on disk"); transformers 5.23.0 for the second naming.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.base.tensor_spec import TensorSpec
from runner.models.protocols import CheckpointLayout

if TYPE_CHECKING:
    import torch

_RENAMED = (
    (re.compile(r"^model\."), ""),
    (re.compile(r"^embed_tokens\."), "embed."),
    (re.compile(r"^lm_head\."), "head."),
    (re.compile(r"^hc_head\.hc_"), "hc_head_"),
    (re.compile(r"\.attn\.norm\.weight$"), ".attn.kv_norm.weight"),
    (re.compile(r"\.weight_scale_inv$|\.weight_scale$|\.weight\.scale$"), ".scale"),
    (re.compile(r"\.weight_zero_point$|\.weight\.offset$"), ".weight_offset"),
)
_BLOCK_PREFIX = re.compile(r"^(layers|mtp)\.\d+\.")
_LAYER = re.compile(r"layers\.(\d{1,6})\.")
_EXPERT = re.compile(r"^ffn\.experts\.\d+\.w[123]$")
_SHARED = tuple(f"ffn.shared_experts.w{i}" for i in (1, 2, 3))
_W8A8_LINEAR = frozenset(("attn.wq_b", "attn.wo_b", "attn.indexer.wq_b", *_SHARED))
_FP8_LINEAR = _W8A8_LINEAR | {"attn.wq_a", "attn.wkv", "attn.wo_a"}
_F32_ALWAYS = re.compile(r"hc_(attn|ffn|head)_(fn|base|scale)$|\.attn_sink$|\.ape$|\.ffn\.gate\.(weight|bias)$")


def canonical(name: str) -> str:
    """The checkpoints' own name of a tensor, given that or transformers' name."""
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return name


def encoding(name: str, flavour: str) -> str:
    """How the tensor of a canonical name is stored: `plain`, `w8a8`, `fp8`, `fp8-e8m0` or `fp4`."""
    module = _BLOCK_PREFIX.sub("", name)
    if flavour in ("f32", "bf16") or module == name or not module.endswith(".weight"):
        return "plain"
    module = module.removesuffix(".weight")
    if _EXPERT.match(module):
        return flavour
    if flavour == "w8a8":
        return "w8a8" if module in _W8A8_LINEAR else "plain"
    dense = "fp8-e8m0" if flavour == "fp4" else flavour
    return dense if module in _FP8_LINEAR else "plain"


def expected_tensors(values: Mapping[str, Any], dtype: str = "f32") -> dict[str, TensorSpec]:
    """Every tensor of the model that a configuration's values describe, unquantised, by canonical name.

    `dtype` is that of plain weights (f32 or bf16); what the model keeps in f32 is f32 in either.
    """
    found: dict[str, TensorSpec] = {}
    shapes = _Shapes(values)
    for name, shape in shapes.all():
        fixed = "i64" if name.endswith(".tid2eid") else "f32" if _F32_ALWAYS.search(name) else dtype
        found[name] = TensorSpec(fixed, shape)
    return found


Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Shapes:
    """Names and shapes of the model's tensors, in the order of a forward pass."""

    values: Mapping[str, Any]

    def all(self) -> Iterator[tuple[str, Shape]]:
        v = self.values
        width, streams, vocab = v["hidden_size"], v["hc_mult"], v["vocab_size"]
        yield "embed.weight", (vocab, width)
        for layer in range(v["num_hidden_layers"]):
            yield from self.layer(layer)
        yield "hc_head_fn", (streams, streams * width)
        yield "hc_head_base", (streams,)
        yield "hc_head_scale", (1,)
        yield "norm.weight", (width,)
        yield "head.weight", (vocab, width)

    def layer(self, layer: int) -> Iterator[tuple[str, Shape]]:
        width = self.values["hidden_size"]
        prefix = f"layers.{layer}."
        for part in ("attn", "ffn"):
            for name, shape in self._streams(part):
                yield prefix + name, shape
            yield f"{prefix}{part}_norm.weight", (width,)
            for name, shape in self._attention(layer) if part == "attn" else self._experts(layer):
                yield f"{prefix}{part}.{name}", shape

    def _streams(self, part: str) -> Iterator[tuple[str, Shape]]:
        streams = self.values["hc_mult"]
        mixes = (2 + streams) * streams
        yield f"hc_{part}_fn", (mixes, streams * self.values["hidden_size"])
        yield f"hc_{part}_base", (mixes,)
        yield f"hc_{part}_scale", (3,)

    def _attention(self, layer: int) -> Iterator[tuple[str, Shape]]:
        v = self.values
        width, head, heads = v["hidden_size"], v["head_dim"], v["num_attention_heads"]
        output = v["o_groups"] * v["o_lora_rank"]
        yield "wq_a.weight", (v["q_lora_rank"], width)
        yield "q_norm.weight", (v["q_lora_rank"],)
        yield "wq_b.weight", (heads * head, v["q_lora_rank"])
        yield "wkv.weight", (head, width)
        yield "kv_norm.weight", (head,)
        yield "attn_sink", (heads,)
        yield "wo_a.weight", (output, heads * head // v["o_groups"])
        yield "wo_b.weight", (width, output)
        ratio, rate = v["compress_ratios"][layer], v["compress_rate_csa"]
        if ratio == v["CSA_RATIO"]:
            yield from self._compressor("compressor.", rate, head, series=2)
            yield "indexer.wq_b.weight", (v["index_n_heads"] * v["index_head_dim"], v["q_lora_rank"])
            yield "indexer.weights_proj.weight", (v["index_n_heads"], width)
            yield from self._compressor("indexer.compressor.", rate, v["index_head_dim"], series=2)
        elif ratio:
            yield from self._compressor("compressor.", v["compress_rate_hca"], head, series=1)

    def _compressor(self, prefix: str, ratio: int, head: int, series: int) -> Iterator[tuple[str, Shape]]:
        width = self.values["hidden_size"]
        yield f"{prefix}wkv.weight", (series * head, width)
        yield f"{prefix}wgate.weight", (series * head, width)
        yield f"{prefix}ape", (ratio, series * head)
        yield f"{prefix}norm.weight", (head,)

    def _experts(self, layer: int) -> Iterator[tuple[str, Shape]]:
        v = self.values
        width, inner, experts = v["hidden_size"], v["moe_intermediate_size"], v["n_routed_experts"]
        yield "gate.weight", (experts, width)
        if layer < v["num_hash_layers"]:
            yield "gate.tid2eid", (v["vocab_size"], v["num_experts_per_tok"])
        else:
            yield "gate.bias", (experts,)
        for owner in ("shared_experts", *(f"experts.{expert}" for expert in range(experts))):
            yield f"{owner}.w1.weight", (inner, width)
            yield f"{owner}.w2.weight", (width, inner)
            yield f"{owner}.w3.weight", (inner, width)


class Layout(CheckpointLayout):
    """See `CheckpointLayout`."""

    plain = ("embed.weight", "head.weight")
    unused = "the draft (MTP) layer"

    def canonical(self, stored_name: str) -> str:
        return canonical(stored_name)

    def is_unused(self, name: str) -> bool:
        return name.startswith("mtp.")

    def encoding(self, name: str, flavour: str) -> str:
        return encoding(name, flavour)

    def expected(self, values: Mapping[str, Any], dtype: str = "f32") -> dict[str, TensorSpec]:
        return expected_tensors(values, dtype)

    def further_layers(self, names: Iterable[str], values: Mapping[str, Any]) -> Sequence[Collection[str]]:
        """Layers from `num_hidden_layers` on: each has at least what all of the model's have, and no number is left out."""
        first = values["num_hidden_layers"]
        beyond: dict[int, set[str]] = {}
        for name in names:
            found = _LAYER.match(name)
            if found and int(found[1]) >= first:
                beyond.setdefault(int(found[1]), set()).add(name)
        plainest = _Shapes({**values, "compress_ratios": [0], "num_hash_layers": 0}).layer(0)
        common = [name.removeprefix("layers.0.") for name, _ in plainest if not name.endswith(".gate.bias")]
        whole = itertools.takewhile(
            lambda number: beyond.get(number, set()).issuperset(f"layers.{number}.{name}" for name in common),
            itertools.count(first),
        )
        return [beyond[number] for number in whole]

    def without_unused(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        ratios = values["compress_ratios"][: values["num_hidden_layers"]]
        return {**values, "num_nextn_predict_layers": 0, "compress_ratios": ratios}

    def unusable(self, name: str, value: torch.Tensor, values: Mapping[str, Any]) -> str | None:
        """A table of experts that names one which there is not."""
        if not name.endswith(".tid2eid"):
            return None
        experts = values["n_routed_experts"]
        wrong = [expert for expert in (int(value.min()), int(value.max())) if not 0 <= expert < experts]
        return f"has {wrong[0]}, expected experts from 0 to {experts - 1}" if wrong else None

    def flavour(self, values: Mapping[str, Any]) -> str:
        return "w8a8" if values["precision"] == "w8a8" else str(values["dtype"])

    def random(self, name: str, spec: TensorSpec, values: Mapping[str, Any], generator: torch.Generator) -> torch.Tensor:
        from runner.models.deepseek_v4.random_weights import random_weight

        return random_weight(name, spec, values, generator)

    def config_json(self, values: Mapping[str, Any], dtype: str, flavour: str, described: Mapping[str, Any]) -> dict[str, Any]:
        from runner.models.deepseek_v4.hf_config import STALE, config_json, quantisation_config

        kept = {key: value for key, value in described.items() if key not in STALE}
        return kept | config_json(values, dtype, quantisation_config(flavour))
