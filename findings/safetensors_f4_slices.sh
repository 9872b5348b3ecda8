#!/usr/bin/env bash
# safetensors 0.8.0 (0.6.2 and 0.7.0 do the same), torch 2.13.0, transformers 5.23.0, accelerate 1.15.0: slices of an F4 tensor.
#
# A good guess: what save_file wrote and get_tensor reads can be read in parts with get_slice, as every other dtype can,
# one-byte FP8 and E8M0 included; at least whole rows, which are whole bytes.
# What happens: every slice raises a RuntimeError of shapes, even `[:]`, `[...]` and one whole row. The header counts values,
# [4, 16], where torch's float4_e2m1fn_x2 counts pairs, [4, 8]: get_tensor and load_file halve the last dimension, and slices do
# not. So get_shape of the slice and the shape of get_tensor differ for the same tensor, too. The same bytes as I8 or U8 can be
# sliced.
# Who is hurt: loaders that read through slices, be it for one rank's rows or for every tensor: transformers does the latter, so
# that FP4 experts which it decodes when they are stored as I8 cannot be loaded when they are stored under their own dtype.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 safetensors==0.8.0 2>/dev/null
"$work/venv/bin/pip" install -q --disable-pip-version-check transformers==5.23.0 accelerate==1.15.0 safetensors==0.8.0 2>/dev/null
WORK=$work "$work/venv/bin/python" - <<'P'
import json
import os
from pathlib import Path

import safetensors
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM, FineGrainedFP8Config

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
work = Path(os.environ["WORK"])
codes = torch.arange(32, dtype=torch.uint8).view(4, 8)
tensors = {
    "f4": codes.clone().view(torch.float4_e2m1fn_x2), "i8": codes.clone().view(torch.int8),
    "e8m0": codes.clone().view(torch.float8_e8m0fnu), "fp8": codes.clone().view(torch.float8_e4m3fn),
}  # fmt: skip
save_file(tensors, work / "four.safetensors")
with safetensors.safe_open(work / "four.safetensors", "pt") as stored:
    whole = stored.get_tensor("f4")
    assert torch.equal(whole.view(torch.uint8), codes), "the bytes come back"
    part = stored.get_slice("f4")
    print(f"safetensors {safetensors.__version__}: get_tensor {tuple(whole.shape)}, get_slice {tuple(part.get_shape())}")
    assert whole.shape == (4, 8) and part.get_shape() == [4, 16], "the behaviour has changed"
    for rows in (slice(None), ..., 0, slice(0, 2)):
        for name in ("i8", "e8m0", "fp8"):
            assert torch.equal(stored.get_slice(name)[rows].view(torch.uint8), codes[rows]), f"{name} can be sliced"
        try:
            part[rows]
            raise SystemExit(f"f4[{rows}] can be read: the behaviour has changed")
        except RuntimeError as error:
            print(f"f4[{rows}]: {error}")

torch.manual_seed(0)
config = DeepseekV4Config(
    vocab_size=64, hidden_size=128, moe_intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, head_dim=128,
    q_lora_rank=128, o_lora_rank=128, o_groups=2, n_routed_experts=4, num_experts_per_tok=2, layer_types=["sliding_attention"],
    num_hash_layers=0,
)  # fmt: skip
DeepseekV4ForCausalLM(config).save_pretrained(work / "model")
path = work / "model" / "config.json"
fp8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"}
path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": fp8, "expert_dtype": "fp4"}))
plain = load_file(work / "model" / "model.safetensors")


def load(dtype):
    """The merged experts that transformers decodes from random FP4 codes, two a byte, stored as `dtype`."""
    torch.manual_seed(1)
    tensors = dict(plain)
    for name in [name for name in plain if ".experts." in name]:
        rows, columns = plain[name].shape
        tensors[name] = torch.randint(0, 256, (rows, columns // 2), dtype=torch.uint8).view(dtype)
        exponents = torch.full((rows, columns // 32), 120, dtype=torch.uint8)
        tensors[name.removesuffix("weight") + "scale"] = exponents.view(torch.float8_e8m0fnu)
    save_file(tensors, work / "model" / "model.safetensors", metadata={"format": "pt"})
    return DeepseekV4ForCausalLM.from_pretrained(work / "model", quantization_config=FineGrainedFP8Config(dequantize=True))


experts = load(torch.int8).model.layers[0].mlp.experts.gate_up_proj
assert experts.unique().numel() == 15 and experts.abs().max() == 6 * 2.0**-7, "decoded as FP4"
print(f"transformers {transformers.__version__}: experts as I8 are decoded to {tuple(experts.shape)}")
try:
    load(torch.float4_e2m1fn_x2)
    raise SystemExit("experts as F4 load: the behaviour has changed")
except RuntimeError as error:
    print(f"experts as F4: {error}")
    assert "is invalid for input of size" in str(error), "the behaviour has changed"
P
echo "still so"
