"""W8A8 done to transformers' model from outside: weights decoded from the codes on disk, activations rounded to what INT8 holds.

Nothing of ours is used: safetensors files are read as they lie, and every matmul that is INT8 in W8A8 gets rounded inputs,
computed in f32. What is left between this and the INT8 path is the order of sums, and a rare code that falls to the other side.

Which code a value gets is up to a `Rounding`: `nearest` is the model's own, `Following` takes the codes of another run and
measures how far its own values are from them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import hf_oracle
import torch
import torch.nn.functional as nnf
from safetensors.torch import load_file, save_file

LINEARS = {"q_b_proj": "qr", "gate_proj": "moe input", "up_proj": "moe input", "down_proj": "shared hidden"}
"""Modules whose input is INT8, in attention and its indexer, and in the shared experts, and what the input is; `o_b_proj` beside
them."""


Rounding = Callable[[tuple[int, str], torch.Tensor, slice | torch.Tensor], torch.Tensor]
"""Of an activation, by its layer and kind; its rows [..., K]; and the tokens (or compressed rows) that they are of."""


def steps(x: torch.Tensor) -> torch.Tensor:
    """What one step of INT8 is worth in every row: the largest magnitude, at least 1e-4, becomes 127."""
    return x.abs().amax(dim=-1, keepdim=True).clamp_min(1e-4) / 127


def nearest(name: tuple[int, str], x: torch.Tensor, tokens: slice | torch.Tensor) -> torch.Tensor:
    """Symmetric INT8 of every row, and back."""
    return (x / steps(x)).round().clamp(-127, 127) * steps(x)


class Following:
    """Rounds to given codes, i8[tokens, K] by activation, whatever the values are, and keeps how well they fit.

    `farthest` is the largest distance of a value from its code, in steps: 0.5 at most where every code is the nearest.
    """

    def __init__(self, codes: Mapping[tuple[int, str], torch.Tensor]):
        self._codes = codes
        self._seen = {name: torch.zeros_like(given) for name, given in codes.items()}  # 1: the nearest, 2: another
        self.farthest = 0.0

    def __call__(self, name: tuple[int, str], x: torch.Tensor, tokens: slice | torch.Tensor) -> torch.Tensor:
        codes = self._codes[name][tokens].reshape(x.shape).float()
        if codes.numel():
            exact = x / steps(x)
            self.farthest = max(self.farthest, float((exact - codes).abs().max()))
            self._seen[name][tokens] = (1 + (exact.round() != codes).to(torch.int8)).view(self._seen[name][tokens].shape)
        return codes * steps(x)

    @property
    def num_codes(self) -> int:
        """Codes that were taken."""
        return sum(int((seen > 0).sum()) for seen in self._seen.values())

    @property
    def num_other(self) -> int:
        """Those of them that `nearest` would not have chosen."""
        return sum(int((seen == 2).sum()) for seen in self._seen.values())


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
    """transformers' model of a W8A8 checkpoint. Activations are rounded by its `rounding`, at first `nearest`."""
    model = hf_oracle.load(decoded(folder, scratch))
    model.rounding = nearest
    for name, module in model.named_modules():
        kind, last = type(module).__name__, name.rpartition(".")[2]
        layer = int(name.split(".")[2]) if name.startswith("model.layers.") and name.count(".") > 1 else -1
        if last == "o_b_proj":
            module.register_forward_pre_hook(partial(_round_output, model, layer))
        elif kind == "Linear" and last in LINEARS and not (".compressor." in name and last == "gate_proj"):
            module.register_forward_pre_hook(partial(_round_input, model, (layer, LINEARS[last])))
        elif kind == "DeepseekV4Experts":
            module.forward = partial(_experts, model, layer, module)
        elif kind == "DeepseekV4IndexerScorer":
            module.register_forward_pre_hook(partial(_rotate_and_round, model, layer))
    return model


def _round_input(model, name, module, args):
    return model.rounding(name, args[0], slice(None)), *args[1:]


def _round_output(model, layer, module, args):
    x, done = args[0], model.prompt_tokens
    prefill = model.rounding((layer, "output"), x[:, :done], slice(done))
    decode = model.rounding((layer, "output"), x[:, done:].unflatten(-1, (model.config.o_groups, -1)), slice(done, None))
    return torch.cat([prefill, decode.flatten(-2)], dim=1), *args[1:]


def _experts(model, layer, experts, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor):
    x, total = model.rounding((layer, "moe input"), hidden_states, slice(None)), torch.zeros_like(hidden_states)
    for expert in top_k_index.unique().tolist():
        token, k = torch.where(top_k_index == expert)
        gate, up = nnf.linear(x[token], experts.gate_up_proj[expert]).chunk(2, dim=-1)
        hidden = nnf.silu(gate.clamp(max=experts.limit)) * up.clamp(-experts.limit, experts.limit)
        hidden = model.rounding((layer, f"hidden of expert {expert}"), hidden, token)
        total.index_add_(0, token, nnf.linear(hidden, experts.down_proj[expert]) * top_k_weights[token, k, None])
    return total


def _rotate_and_round(model, layer, module, args):
    q, keys, *rest = args
    order = q.shape[-1]
    hadamard = torch.ones(1, 1)
    while hadamard.shape[0] < order:
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    hadamard = hadamard / order**0.5
    q = model.rounding((layer, "index query"), q.float() @ hadamard, slice(None))
    return q, model.rounding((layer, "index key"), keys.float() @ hadamard, slice(None)), *rest
