"""W8A8 done to transformers' model from outside: weights decoded from the codes on disk, activations rounded to what INT8 holds.

Nothing of ours is used: safetensors files are read as they lie, and every matmul that is INT8 in W8A8 gets rounded inputs,
computed in f32. What is left between this and the INT8 path is the order of sums, and a rare code that falls to the other side.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import MethodType

import hf_oracle
import torch
import torch.nn.functional as nnf
from safetensors.torch import load_file, save_file

LINEARS = ("q_b_proj", "gate_proj", "up_proj", "down_proj")
"""Modules whose input is INT8, in attention and its indexer, and in the shared experts; `o_b_proj` beside them."""


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Symmetric INT8 of every row, and back: the largest magnitude, at least 1e-4, becomes 127."""
    step = x.abs().amax(dim=-1, keepdim=True).clamp_min(1e-4) / 127
    return (x / step).round().clamp(-127, 127) * step


def decoded(folder: Path, out: Path) -> Path:
    """A W8A8 checkpoint as a plain f32 one: codes times the scale of their output channel."""
    tensors: dict[str, torch.Tensor] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(shard)
    plain = {}
    for name, value in tensors.items():
        if name.endswith(".scale"):
            continue
        scale = tensors.get(name.removesuffix("weight") + "scale") if name.endswith(".weight") else None
        assert (scale is not None) == (value.dtype == torch.int8), name
        value = value if scale is None else value.float() * scale.float().reshape(-1, 1)
        plain[name] = value.float().contiguous() if value.is_floating_point() else value
    assert any(name.endswith(".scale") for name in tensors)
    out.mkdir()
    save_file(plain, out / "model.safetensors", {"format": "pt"})
    fields = json.loads((folder / "config.json").read_text())
    fields.pop("quantization_config", None)
    (out / "config.json").write_text(json.dumps(fields))
    return out


def logits(model, tokens, prompt_tokens: int) -> torch.Tensor:
    """f32[len(tokens), V], of which the first `prompt_tokens` are prefilled and the rest decoded.

    They differ in one thing: decoding rounds each group of the output projection's low-rank rows by itself, prefill all together.

    Source: act_scale_dq of the reference's two programs, [T, groups] and [T, 1].
    """
    model.prompt_tokens = prompt_tokens
    return hf_oracle.logits(model, tokens)


def load(folder: Path, scratch: Path):
    """transformers' model of a W8A8 checkpoint."""
    model = hf_oracle.load(decoded(folder, scratch))
    groups = model.config.o_groups

    def round_output(module, args):
        x, done = args[0], model.prompt_tokens
        decode = rounded(x[:, done:].unflatten(-1, (groups, -1))).flatten(-2)
        return torch.cat([rounded(x[:, :done]), decode], dim=1), *args[1:]

    for name, module in model.named_modules():
        kind, last = type(module).__name__, name.rpartition(".")[2]
        if last == "o_b_proj":
            module.register_forward_pre_hook(round_output)
        elif kind == "Linear" and last in LINEARS and not (".compressor." in name and last == "gate_proj"):
            module.register_forward_pre_hook(lambda module, args: (rounded(args[0]), *args[1:]))
        elif kind == "DeepseekV4Experts":
            module.forward = MethodType(_experts, module)
        elif kind == "DeepseekV4IndexerScorer":
            module.register_forward_pre_hook(_rotate_and_round)
    return model


def _experts(self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> torch.Tensor:
    x, total = rounded(hidden_states), torch.zeros_like(hidden_states)
    for expert in top_k_index.unique().tolist():
        token, k = torch.where(top_k_index == expert)
        gate, up = nnf.linear(x[token], self.gate_up_proj[expert]).chunk(2, dim=-1)
        hidden = nnf.silu(gate.clamp(max=self.limit)) * up.clamp(-self.limit, self.limit)
        total.index_add_(0, token, nnf.linear(rounded(hidden), self.down_proj[expert]) * top_k_weights[token, k, None])
    return total


def _rotate_and_round(module, args):
    q, keys, *rest = args
    order = q.shape[-1]
    hadamard = torch.ones(1, 1)
    while hadamard.shape[0] < order:
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    hadamard = hadamard / order**0.5
    return rounded(q.float() @ hadamard), rounded(keys.float() @ hadamard), *rest
