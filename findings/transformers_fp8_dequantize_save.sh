#!/usr/bin/env bash
# transformers 5.23.0 (torch 2.13.0, accelerate 1.15.0): save_pretrained of an FP8 checkpoint that was loaded with
# `dequantize=True`.
#
# A good guess: a model that was dequantised on loading, and whose configuration has no `quantization_config` any more, is saved
# as the floats that it holds; this is the usual way to turn an FP8 release into a plain one.
# What happens: saving quantises again. For a dense model the file holds F8_E4M3 codes and `weight_scale_inv`, and `config.json`
# beside it says nothing of FP8: from_pretrained takes the codes for weights and reports the scales as unexpected, no more. For
# a mixture of experts (Qwen3-MoE, DeepSeek-V4) saving raises `Undefined Operation encountered!`. `save_original_format=False`
# gives the floats.
# Who is hurt: whoever converts a release to BF16 for a device without FP8, or fine-tunes a dequantised model and saves it: the
# folder looks sound, loads, and its logits are wrong. A machine without a GPU dequantises unasked, so that load and save alone
# do it there.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 2>/dev/null
"$work/venv/bin/pip" install -q --disable-pip-version-check transformers==5.23.0 accelerate==1.15.0 2>/dev/null
WORK=$work "$work/venv/bin/python" - <<'P'
import json
import os
import re
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, DeepseekV4Config, FineGrainedFP8Config, Qwen3Config, Qwen3MoeConfig

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
SIZES = {
    "vocab_size": 64, "hidden_size": 128, "intermediate_size": 128, "moe_intermediate_size": 128, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2,
}  # fmt: skip
QWEN3 = {name: size for name, size in SIZES.items() if "experts" not in name and not name.startswith("moe_")}
V4 = {name: size for name, size in SIZES.items() if name not in ("intermediate_size", "num_experts", "num_key_value_heads")} | {
    "head_dim": 128, "q_lora_rank": 128, "o_lora_rank": 128, "o_groups": 2, "index_n_heads": 4, "index_head_dim": 128,
    "n_routed_experts": 4, "max_position_embeddings": 512,
}  # fmt: skip
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
PROJECTIONS = re.compile(r"proj\.weight$|\.(wq_[ab]|wkv|wo_[ab]|w[123])\.weight$")


def release(config, folder):
    """Save a random model of `config` whose projections are FP8 codes with one scale a block of 128 x 128."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for values in model.parameters():
        if values.dim() > 1:
            torch.nn.init.normal_(values, std=0.2)
    model.save_pretrained(folder)
    stored = {}
    for name, values in load_file(folder / "model.safetensors").items():
        stored[name] = values
        if PROJECTIONS.search(name) and "compressor" not in name:
            blocks = values.unflatten(0, (-1, 128)).unflatten(2, (-1, 128))
            scales = blocks.abs().amax((1, 3)) / 448
            stored[name] = (blocks / scales[:, None, :, None]).reshape(values.shape).to(torch.float8_e4m3fn)
            stored[name + "_scale_inv"] = scales
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    written = json.loads((folder / "config.json").read_text()) | {"quantization_config": FP8}
    (folder / "config.json").write_text(json.dumps(written))
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=FineGrainedFP8Config(dequantize=True)).eval()


work = Path(os.environ["WORK"])
model = release(Qwen3Config(**QWEN3), work / "dense")
assert model.dtype == torch.float32 and not hasattr(model.config, "quantization_config"), "loaded as floats"
model.save_pretrained(work / "saved")
model.save_pretrained(work / "plain", save_original_format=False)
name = "model.layers.0.mlp.up_proj.weight"
saved = load_file(work / "saved" / "model.safetensors")
told = "quantization_config" in json.loads((work / "saved" / "config.json").read_text())
tokens = torch.arange(8)[None]
with torch.no_grad():
    reference = model(tokens).logits
    off = {
        folder: (AutoModelForCausalLM.from_pretrained(work / folder).eval()(tokens).logits - reference).abs().max().item()
        for folder in ("saved", "plain")
    }
print(f"transformers {transformers.__version__}: dense: stored {saved[name].dtype}, config.json tells: {told}")
print(f"largest logit {reference.abs().max():.2f}; after a reload off by {off['saved']:.2f}; saved plain, by {off['plain']:.2f}")
assert saved[name].dtype == torch.float8_e4m3fn and name + "_scale_inv" in saved and not told, "the behaviour has changed"
assert off["saved"] > 1 and off["plain"] < 1e-4, "the behaviour has changed"

for kind, config in (("qwen3_moe", Qwen3MoeConfig(**SIZES)), ("deepseek_v4", DeepseekV4Config(**V4))):
    model = release(config, work / kind)
    try:
        model.save_pretrained(work / f"{kind}-saved")
        raise SystemExit(f"{kind} saves: the behaviour has changed")
    except ValueError as error:
        print(f"{kind}: {error}")
        assert "Undefined Operation" in str(error), "the behaviour has changed"
P
echo "still so"
