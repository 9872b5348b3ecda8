#!/usr/bin/env bash
# transformers 5.23.0 (torch 2.13.0): a DeepSeek-V4 model with few index heads, with its cache and without.
#
# A good guess: the logits of a token are the same, up to rounding, whether its text is read in one call or token by token through the cache.
# What happens: an index score is a sum over heads of weight * relu(q . k), so it is exactly 0 where every product is negative: half of all
# scores with one head. Among equal scores `torch.topk` keeps some, and which ones depends on the length of the row, invisible columns
# (masked with -inf) included. One call over all tokens has more columns than a step has, so a token attends to other compressed rows.
# Who is hurt: whoever compares logits of a small model with and without cache, or of generated tokens with a call over the whole text.
# The released sizes have 64 index heads, so scores of exactly 0 do not come up.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 2>/dev/null
"$work/venv/bin/pip" install -q --disable-pip-version-check transformers==5.23.0 2>/dev/null
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'P'
import torch
import transformers
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

PROMPT, REST = 60, 40


def model(heads):
    torch.manual_seed(0)
    config = DeepseekV4Config(
        vocab_size=64, hidden_size=64, moe_intermediate_size=32, num_hidden_layers=1, num_attention_heads=4, head_dim=32,
        q_lora_rank=32, n_routed_experts=4, num_experts_per_tok=2, sliding_window=64, o_groups=2, o_lora_rank=16, index_n_heads=heads,
        index_head_dim=16, index_topk=8, qk_rope_head_dim=8, partial_rotary_factor=0.25, layer_types=["compressed_sparse_attention"],
        mlp_layer_types=["moe"], pad_token_id=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    built = DeepseekV4ForCausalLM(config).eval()
    for weight in built.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight.data, std=0.15)
    return built


@torch.no_grad()
def compare(built):
    """Largest relative error of a row of logits, cache against one call, of the prompt and of the steps behind it."""
    tokens = torch.randint(1, 64, (1, PROMPT + REST))
    whole = built(tokens, use_cache=False).logits[0]
    out = built(tokens[:, :PROMPT], use_cache=True)
    rows = [out.logits[0]]
    for at in range(PROMPT, PROMPT + REST):
        out = built(tokens[:, at : at + 1], past_key_values=out.past_key_values, use_cache=True)
        rows.append(out.logits[0])
    error = (torch.cat(rows) - whole).norm(dim=1) / whole.norm(dim=1)
    return float(error[:PROMPT].max()), float(error[PROMPT:].max())


zeros = torch.zeros(8)
print(f"transformers {transformers.__version__}: topk(2) of 5 zeros {zeros[:5].topk(2).indices.tolist()}, of 8 {zeros.topk(2).indices.tolist()}")
for heads in (1, 3, 64):
    prompt, steps = compare(model(heads))
    print(f"  {heads} index heads: relative error of the prompt's rows {prompt:.1g}, of the steps' {steps:.1g}")
    assert max(prompt, steps) < 1e-4 if heads == 64 else min(prompt, steps) > 1e-3, "the behaviour has changed"
P
echo "still so"
