#!/usr/bin/env bash
# transformers 5.23.0 (torch 2.13.0): `norm_topk_prob: false` of a DeepSeek-V4 configuration.
#
# A good guess: the routing weights of a token are left as the router scored them, as in DeepSeek-V3 of the same library, whose
# field it is; or the configuration is refused.
# What happens: the field is accepted and saved, and no code of the model reads it: the weights are divided by their sum all the same.
# Who is hurt: whoever trains or converts a variant without normalisation: logits differ from those of the original, without a
# warning, and a reimplementation that obeys the field is taken to be wrong.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 2>/dev/null
"$work/venv/bin/pip" install -q --disable-pip-version-check transformers==5.23.0 2>/dev/null
"$work/venv/bin/python" - <<'P'
import torch
import transformers
from transformers import DeepseekV4Config
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4TopKRouter


def weights(normalised):
    config = DeepseekV4Config(
        hidden_size=16, n_routed_experts=8, num_experts_per_tok=2, routed_scaling_factor=1.0, norm_topk_prob=normalised
    )
    assert config.to_dict()["norm_topk_prob"] is normalised, "the field is kept"
    router = DeepseekV4TopKRouter(config)
    torch.manual_seed(0)
    torch.nn.init.normal_(router.weight)
    return router(torch.randn(4, 16))[1]


found = weights(False)
print(f"transformers {transformers.__version__}: sums of the weights with norm_topk_prob false: {found.sum(-1).tolist()}")
assert torch.allclose(found.sum(-1), torch.ones(4)) and torch.equal(found, weights(True)), "the behaviour has changed"
P
echo "still so"
