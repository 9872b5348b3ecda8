#!/usr/bin/env bash
# transformers 5.23.0 (torch 2.13.0): names of tensors that save_pretrained gives a DeepSeek-V4 checkpoint.
#
# A good guess: the names of the release (`embed.weight`, `layers.0.attn.kv_norm.weight`, `hc_head_fn`), because that is the
# format which saving restores by default; or else the library's own (`model.layers.0.self_attn.kv_norm.weight`).
# What happens: a third naming. A checkpoint with the release's names, loaded and saved unchanged, keeps the name of one tensor,
# the head: `model.` comes before all others, and within it leaves have the release's names (`attn.wq_a`, `ffn.experts.0.w1`),
# while the embedding and the streams' head keep the library's (`embed_tokens`, `hc_head.hc_fn`) and `kv_norm` becomes `norm`,
# which is in neither. transformers loads all three, so its own round trip hides it.
# Who is hurt: whoever fine-tunes with transformers and serves elsewhere, and writers of loaders: one that knows both documented
# namings, or strips `model.`, still misses `kv_norm` and the streams' head, and a loader that is not strict leaves them random.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 2>/dev/null
"$work/venv/bin/pip" install -q --disable-pip-version-check transformers==5.23.0 2>/dev/null
WORK=$work "$work/venv/bin/python" - <<'P'
import os
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
RENAMED = (
    ("model.", ""), ("embed_tokens.", "embed."), ("hc_head.hc_", "hc_head_"), ("lm_head.", "head."),
    ("input_layernorm.", "attn_norm."), ("post_attention_layernorm.", "ffn_norm."),
    ("attn_hc.", "hc_attn_"), ("ffn_hc.", "hc_ffn_"),
    ("self_attn.", "attn."),
    ("mlp.", "ffn."), ("q_a_norm.", "q_norm."), ("q_a_proj.", "wq_a."), ("q_b_proj.", "wq_b."), ("kv_proj.", "wkv."),
    ("o_a_proj.", "wo_a."), ("o_b_proj.", "wo_b."), (".sinks", ".attn_sink"), ("e_score_correction_bias", "bias"),
    ("shared_experts.gate_proj", "shared_experts.w1"), ("shared_experts.down_proj", "shared_experts.w2"),
    ("shared_experts.up_proj", "shared_experts.w3"), ("compressor.kv_norm.", "compressor.norm."),
    ("compressor.gate_proj", "compressor.wgate"), ("position_bias", "ape"),
)  # fmt: skip


def as_released(state):
    """The tensors of a model without an indexer under the release's names, each expert on its own."""
    tensors = {}
    for name, values in state.items():
        for ours, theirs in RENAMED:
            name = name.replace(ours, theirs)
        if name.endswith("experts.gate_up_proj"):
            for expert, both in enumerate(values):
                gate, up = (part.contiguous() for part in both.chunk(2))
                tensors |= {name.replace("gate_up_proj", f"{expert}.{w}.weight"): v for w, v in (("w1", gate), ("w3", up))}
        elif name.endswith("experts.down_proj"):
            tensors |= {name.replace("down_proj", f"{expert}.w2.weight"): v.contiguous() for expert, v in enumerate(values)}
        else:
            tensors[name] = values
    return tensors


torch.manual_seed(0)
config = DeepseekV4Config(
    vocab_size=64, hidden_size=32, moe_intermediate_size=32, num_hidden_layers=1, num_attention_heads=4, head_dim=32,
    q_lora_rank=16, o_lora_rank=16, o_groups=2, n_routed_experts=4, num_experts_per_tok=2, num_hash_layers=0,
    layer_types=["heavily_compressed_attention"],
)  # fmt: skip
work = Path(os.environ["WORK"])
first = DeepseekV4ForCausalLM(config)
config.save_pretrained(work / "release")
released = as_released(first.state_dict())
save_file(released, work / "release" / "model.safetensors", metadata={"format": "pt"})
second, report = DeepseekV4ForCausalLM.from_pretrained(work / "release", output_loading_info=True)
assert not any(report.values()), f"the names are the release's: all of them load: {report}"
assert all(torch.equal(values, second.state_dict()[name]) for name, values in first.state_dict().items())
second.save_pretrained(work / "saved")
saved = load_file(work / "saved" / "model.safetensors")
library = set(first.state_dict())
same = set(saved) & set(released)
print(f"transformers {transformers.__version__}: {len(released)} tensors; saved under the release's names: {sorted(same)}")
strange = sorted(name.removeprefix("model.") for name in saved if name.removeprefix("model.") not in released)
print(f"without `model.` still not the release's: {strange}")
print(f"in neither naming: {sorted(name for name in saved if 'attn.norm' in name)}")
assert len(saved) == len(released) and same == {"head.weight"}, "the behaviour has changed"
expected = ["embed_tokens.weight", "hc_head.hc_base", "hc_head.hc_fn", "hc_head.hc_scale", "layers.0.attn.norm.weight"]
assert strange == expected, "the behaviour has changed"
assert "model.layers.0.self_attn.kv_norm.weight" in library and not any("attn.norm" in name for name in library | set(released))
P
echo "still so"
