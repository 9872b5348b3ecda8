#!/usr/bin/env bash
# transformers 5.23.0 with compressed-tensors 0.20.1 (torch 2.13.0, accelerate 1.15.0): an INT8 checkpoint (W8A8: codes, one scale
# a row, activations quantised token by token) that is loaded and called once.
#
# A good guess: the weights stay INT8, a quarter of the bytes of F32, as they are after from_pretrained; and save_pretrained writes
# the checkpoint that was loaded.
# What happens: the first forward pass decodes every weight for good, so that the model is as large as the floats from then on;
# nothing but a progress bar tells. save_pretrained gives INT8 before that call and floats after it, with the scales still beside
# them and a `config.json` whose `quantization_config` still says `int-quantized` and 8 bits (only `quantization_status` is
# `decompressed`). Both load in transformers and give the same logits.
# Who is hurt: whoever sizes a machine by the loaded model, which runs out of memory at the first token; and whoever saves after a
# trial run: the folder is four times as large, and a reader that goes by the description, or by there being scales, takes floats
# for codes or applies the scales once more.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 2>/dev/null
"$work/venv/bin/pip" install -q --disable-pip-version-check transformers==5.23.0 accelerate==1.15.0 compressed-tensors==0.20.1 2>/dev/null
WORK=$work "$work/venv/bin/python" - <<'P'
import json
import os
from pathlib import Path

import compressed_tensors
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
SIZES = {
    "vocab_size": 64, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32,
}  # fmt: skip
INT8 = {"num_bits": 8, "type": "int", "symmetric": True}
W8A8 = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": INT8 | {"strategy": "channel", "dynamic": False},
            "input_activations": INT8 | {"strategy": "token", "dynamic": True},
        }
    },
}


def bytes_of(model):
    return sum(values.numel() * values.element_size() for values in (*model.parameters(), *model.buffers()))


def stored(folder):
    weights = load_file(folder / "model.safetensors")
    described = json.loads((folder / "config.json").read_text())["quantization_config"]
    return weights[NAME].dtype, NAME + "_scale" in weights, described


work = Path(os.environ["WORK"])
torch.manual_seed(0)
Qwen3ForCausalLM(Qwen3Config(**SIZES)).save_pretrained(work / "int8")
tensors = {}
for name, values in load_file(work / "int8" / "model.safetensors").items():
    tensors[name] = values
    if name.endswith("proj.weight"):
        scale = values.abs().amax(1, keepdim=True) / 127
        tensors[name], tensors[name + "_scale"] = (values / scale).round().to(torch.int8), scale
save_file(tensors, work / "int8" / "model.safetensors", metadata={"format": "pt"})
config = json.loads((work / "int8" / "config.json").read_text()) | {"quantization_config": W8A8}
(work / "int8" / "config.json").write_text(json.dumps(config))

NAME = "model.layers.0.mlp.up_proj.weight"
model = AutoModelForCausalLM.from_pretrained(work / "int8").eval()
loaded, dtype = bytes_of(model), model.get_parameter(NAME).dtype
model.save_pretrained(work / "before")
with torch.no_grad():
    logits = model(torch.arange(8)[None]).logits
called = bytes_of(model)
model.save_pretrained(work / "after")
before, after = stored(work / "before"), stored(work / "after")
with torch.no_grad():
    again = AutoModelForCausalLM.from_pretrained(work / "after").eval()(torch.arange(8)[None]).logits
group = after[2]["config_groups"]["group_0"]
print(f"transformers {transformers.__version__}, compressed-tensors {compressed_tensors.__version__}")
print(f"loaded: {dtype}, {loaded:,} bytes; after one call: {model.get_parameter(NAME).dtype}, {called:,} bytes")
print(f"saved before the call: {before[0]}, scales: {before[1]}, {before[2]['quantization_status']}")
told = f"{after[2]['format']} of {group['weights']['num_bits']} bits, {after[2]['quantization_status']}"
print(f"saved after it: {after[0]}, scales: {after[1]}, described as {told}; same logits: {torch.equal(logits, again)}")
assert dtype == torch.int8 and before[:2] == (torch.int8, True), "the behaviour has changed"
assert model.get_parameter(NAME).dtype == torch.float32 and called > 3 * loaded, "the behaviour has changed"
assert after[:2] == (torch.float32, True) and told == "int-quantized of 8 bits, decompressed", "the behaviour has changed"
assert torch.equal(logits, again), "the behaviour has changed"
P
echo "still so"
