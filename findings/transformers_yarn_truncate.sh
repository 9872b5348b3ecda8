#!/usr/bin/env bash
# transformers 5.23.0 (torch 2.13.0): yarn's `truncate` in rope parameters that are nested by kind of layer.
#
# A good guess: `truncate: false` inside the kind's own parameters, where `factor`, `beta_fast` and all other keys of yarn are read,
# keeps the bounds of the blend as they are computed; without it they are rounded outwards.
# What happens: the key is looked up beside the kinds, one level above the others, so it is never found and the bounds are always
# rounded. The same parameters in one flat mapping do obey it.
# Who is hurt: whoever brings a model with rope per kind of layer and untruncated yarn, or compares frequencies with a
# reference that does not round: the numbers differ, with no warning.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 2>/dev/null
"$work/venv/bin/pip" install -q --disable-pip-version-check transformers==5.23.0 2>/dev/null
"$work/venv/bin/python" - <<'P'
import torch
import transformers
from transformers import DeepseekV4Config, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 1000}


def nested(**more):
    kinds = {"main": {"rope_type": "default", "rope_theta": 10000.0}, "compress": YARN | more}
    config = DeepseekV4Config(num_hidden_layers=2, max_position_embeddings=8000, rope_parameters=kinds)
    return ROPE_INIT_FUNCTIONS["yarn"](config, "cpu", layer_type="compress")[0]


def flat(**more):
    return ROPE_INIT_FUNCTIONS["yarn"](LlamaConfig(max_position_embeddings=8000, rope_parameters=YARN | more), "cpu")[0]


obeyed_nested = not torch.equal(nested(), nested(truncate=False))
obeyed_flat = not torch.equal(flat(), flat(truncate=False))
print(f"transformers {transformers.__version__}: truncate changes flat parameters: {obeyed_flat}; nested ones: {obeyed_nested}")
assert obeyed_flat and not obeyed_nested, "the behaviour has changed"
P
echo "still so"
