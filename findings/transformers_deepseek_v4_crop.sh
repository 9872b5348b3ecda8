#!/usr/bin/env bash
# transformers 5.23.0 (torch 2.13.0): `crop` of the cache of a DeepSeek-V4 model, which takes tokens back.
#
# A good guess: after `cache.crop(-n)` a model goes on as if the last n tokens had never been seen, as with every other model of the
# library, or an error says that it cannot. `get_seq_length` and the window's keys do say so afterwards.
# What happens: the compressors keep what they pooled and what they hold back for their next window, junk among it, and count on from
# there. Logits are right until the next window of 4 (or 128) tokens ends, and wrong from then on; nothing warns. Only beyond the
# sliding window a mask of another width ends in an error about sizes. `generate` refuses assisted generation for this model ("stateful"),
# `crop` itself does not.
# Who is hurt: whoever takes back draft tokens that were not accepted, or keeps the cache of a prompt's beginning for several ends, by
# hand. The cache must be copied before the tokens that may be taken back. A pull request for the next model of the family
# (huggingface/transformers, 48721) refuses it there.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 2>/dev/null
"$work/venv/bin/pip" install -q --disable-pip-version-check transformers==5.23.0 2>/dev/null
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'P'
import copy

import torch
import transformers
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

PROMPT, DRAFT, REST = 26, 3, 12


def model(kind):
    torch.manual_seed(0)
    config = DeepseekV4Config(
        vocab_size=64, hidden_size=64, moe_intermediate_size=32, num_hidden_layers=1, num_attention_heads=4, head_dim=32,
        q_lora_rank=32, n_routed_experts=4, num_experts_per_tok=2, sliding_window=64, o_groups=2, o_lora_rank=16, index_n_heads=2,
        index_head_dim=16, index_topk=4, qk_rope_head_dim=8, partial_rotary_factor=0.25, layer_types=[kind], mlp_layer_types=["moe"],
        pad_token_id=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    built = DeepseekV4ForCausalLM(config).eval()
    for weight in built.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight.data, std=0.15)
    return built


@torch.no_grad()
def rows_off(built, take_back):
    """Largest difference of each row's logits from those of all tokens at once."""
    tokens, draft = torch.randint(1, 64, (1, PROMPT + REST)), torch.randint(1, 64, (1, DRAFT))
    whole = built(tokens).logits[0, PROMPT:]
    cache = built(tokens[:, :PROMPT], use_cache=True).past_key_values
    before = copy.deepcopy(cache)
    built(draft, past_key_values=cache, use_cache=True)
    cache = before if take_back == "copied" else cache
    if take_back == "cropped":
        cache.crop(-DRAFT)
    assert cache.get_seq_length() == PROMPT
    rest = built(tokens[:, PROMPT:], past_key_values=cache, use_cache=True).logits[0]
    return (rest - whole).abs().amax(-1).tolist()


print(f"transformers {transformers.__version__}: {DRAFT} tokens behind {PROMPT} taken back; differences of the logits of the next {REST}")
for kind in ("sliding_attention", "compressed_sparse_attention"):
    built = model(kind)
    for take_back in ("cropped", "copied"):
        off = rows_off(built, take_back)
        print(f"  {kind}, {take_back}: {', '.join(f'{value:.1g}' for value in off)}")
        is_right = kind == "sliding_attention" or take_back == "copied"
        assert max(off) < 1e-4 if is_right else max(off) > 0.01, "the behaviour has changed"
P
echo "still so"
