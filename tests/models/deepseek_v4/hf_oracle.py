"""The oracle of parity tests: `DeepseekV4ForCausalLM` of transformers, with every parameter random.

Exchange of weights is through checkpoints on disk only: `save` writes one as transformers does, `load` reads any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers", "5.23.0", reason="transformers 5.23.0 is the oracle; it is not installed")


def random_model(fields: Mapping[str, Any], seed: int):
    """A model of the given Hugging Face fields; norms, sinks, biases and hash tables are random too, not as initialised."""
    model = transformers.DeepseekV4ForCausalLM(transformers.DeepseekV4Config(**fields)).float().eval()
    generator = torch.Generator().manual_seed(seed)
    num_experts, top_k = fields["n_routed_experts"], fields["num_experts_per_tok"]
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith("tid2eid"):
                rows = [torch.randperm(num_experts, generator=generator)[:top_k] for _ in range(tensor.shape[0])]
                tensor.copy_(torch.stack(rows))
            elif "inv_freq" in name:
                continue
            elif "norm" in name:
                tensor.copy_(1 + 0.3 * torch.randn(tensor.shape, generator=generator))
            elif name.endswith(("sinks", "bias", "base", "position_bias", "scale")):
                tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator))
            else:
                fan_in = tensor.shape[-1]
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * fan_in**-0.5)
    return model


def save(model, folder: Path) -> None:
    model.save_pretrained(folder)


def load(folder: Path):
    return transformers.DeepseekV4ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model, tokens: Sequence[int]) -> torch.Tensor:
    """f32[len(tokens), V], all positions at once and without a cache."""
    with torch.no_grad():
        return model(torch.tensor([list(tokens)]), use_cache=False).logits[0]


def stepped(model, prompt: Sequence[int], tokens: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The prompt at once, then each token through the model's own cache: logits f32[L, V], and margins f32[L].

    A margin says by how much the worst row that an indexer kept beat the best that it did not, at the closest in any layer: 0 for
    equal scores, infinite if all were kept.
    """
    margins: list[list[torch.Tensor]] = []

    def keep(indexer, operands, _):
        scores, positions = found.pop(), operands[2][0]
        margins[-1].append(_margins(scores[0], (positions + 1) // indexer.compress_rate, indexer.index_topk))

    found: list[torch.Tensor] = []
    modules = list(model.modules())
    hooks = [m.register_forward_hook(keep) for m in modules if type(m).__name__ == "DeepseekV4Indexer"]
    hooks += [
        m.register_forward_hook(lambda *call: found.append(call[2]))
        for m in modules
        if type(m).__name__ == "DeepseekV4IndexerScorer"
    ]
    rows, cache = [], None
    with torch.no_grad():
        for part in (list(prompt), *([token] for token in tokens)):
            margins.append([])
            out = model(torch.tensor([part]), past_key_values=cache, use_cache=True)
            rows.append(out.logits[0])
            cache = out.past_key_values
    for hook in hooks:
        hook.remove()
    return torch.cat(rows), torch.cat([torch.stack(layers).amin(dim=0) for layers in margins])


def _margins(scores: torch.Tensor, visible: torch.Tensor, topk: int) -> torch.Tensor:
    """f32[T]: the score of place `topk` less that of the next, of the first `visible` [T] scores of each row f32[T, I]."""
    if scores.shape[1] <= topk:
        return torch.full(visible.shape, torch.inf)
    hidden = torch.arange(scores.shape[1]) >= visible.unsqueeze(-1)
    best = scores.masked_fill(hidden, -torch.inf).sort(dim=-1, descending=True).values
    return (best[:, topk - 1] - best[:, topk]).masked_fill(visible <= topk, torch.inf)


def greedy(model, prompt: Sequence[int], num_tokens: int) -> tuple[list[int], torch.Tensor]:
    """Greedy tokens, one at a time through the model's own cache, and the logits f32[num_tokens, V] that chose them."""
    made, rows = [], []
    with torch.no_grad():
        out = model(torch.tensor([list(prompt)]), use_cache=True)
        for _ in range(num_tokens):
            rows.append(out.logits[0, -1])
            made.append(int(rows[-1].argmax()))
            out = model(torch.tensor([[made[-1]]]), past_key_values=out.past_key_values, use_cache=True)
    return made, torch.stack(rows)
