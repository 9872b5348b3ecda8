"""The draft layer as transformers' own blocks make it, put together by the formula: transformers itself has no such layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import hf_oracle
import torch
from safetensors.torch import load_file, save_file
from transformers.models.deepseek_v4 import modeling_deepseek_v4 as blocks

from runner.checkpoint.random import init_checkpoint
from runner.config.config import load_config


class DraftOracle:
    """The model and its draft layer in transformers' blocks, weights by way of checkpoints on disk."""

    def __init__(self, folder: Path, work: Path):
        self.model = hf_oracle.load(folder)
        config = load_config([folder / "config.json"])
        tensors = {name: value for shard in sorted(folder.glob("*.safetensors")) for name, value in load_file(shard).items()}
        layer = {f"layers.0.{name.removeprefix('mtp.0.')}": value for name, value in tensors.items() if name.startswith("mtp.0.")}
        inner = {name: value for name, value in layer.items() if not name.startswith(("layers.0.hc_head", "layers.0.norm."))}
        own = {name: tensors[f"mtp.0.{name}"] for name in ("hc_head_fn", "hc_head_base", "hc_head_scale", "norm.weight")}
        alone = config.with_(
            sets=["num_hidden_layers=1", "compress_ratios=[0]", "num_hash_layers=0", "num_nextn_predict_layers=0"]
        )
        made = init_checkpoint(alone, work / "draft", flavour="f32")
        for shard in made.glob("*.safetensors*"):
            shard.unlink()
        kept = {name: value for name, value in inner.items() if name.split(".")[2] not in ("enorm", "hnorm", "e_proj", "h_proj")}
        save_file(
            {**kept, **own, "embed.weight": tensors["embed.weight"], "head.weight": tensors["head.weight"]},
            made / "model.safetensors",
        )
        self.draft = hf_oracle.load(made)
        size = config["hidden_size"]
        self.norms = [blocks.DeepseekV4RMSNorm(size, eps=config["rms_norm_eps"]) for _ in range(2)]
        self.projections = [torch.nn.Linear(size, size, bias=False) for _ in range(2)]
        for block, name in zip((*self.norms, *self.projections), ("enorm", "hnorm", "e_proj", "h_proj"), strict=True):
            block.weight.data.copy_(tensors[f"mtp.0.{name}.weight"])

    @torch.no_grad()
    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """f32[len(tokens) - 1, V]: row i from the streams at position i and token i + 1."""
        seen: list[torch.Tensor] = []
        hook = self.model.model.layers[-1].register_forward_hook(lambda module, args, out: seen.append(out))
        self.model(torch.tensor([list(tokens)]), use_cache=False)
        hook.remove()
        ids = torch.tensor([list(tokens[1:])])
        token = self.projections[0](self.norms[0](self.draft.model.embed_tokens(ids)))
        streams = self.projections[1](self.norms[1](seen[0][:, :-1]))
        read = token.unsqueeze(2) + streams
        hook = self.draft.model.layers[0].register_forward_pre_hook(
            lambda module, args, kw: ((read, *args[1:]), kw), with_kwargs=True
        )
        found = self.draft(ids, use_cache=False).logits[0]
        hook.remove()
        return found
