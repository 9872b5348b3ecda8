"""Models of odd sizes: logits of a request are the same bits in any batch, order, schedule and rings, and on workers."""

from __future__ import annotations

import json
import random

import pytest
import torch
from sampled import sampled

from runner import Driver, Turn
from runner.config.config import load_config
from runner.driver import serve
from runner.models import family

NEW_TOKENS = 3


def deepseek(pick):
    """Fields of a model with odd sizes; `pick` chooses one of its arguments."""
    layers, heads, experts = pick(1, 2, 3), pick(1, 2, 3, 5), pick(1, 2, 3, 16)
    return {
        "num_hidden_layers": layers,
        "compress_ratios": [pick(0, 4, 128) for _ in range(layers)],
        "num_hash_layers": pick(0, 1),
        "hidden_size": pick(1, 3, 7, 16, 33, 64, 100),
        "num_attention_heads": heads,
        "head_dim": pick(4, 8, 20, 32),
        "qk_rope_head_dim": pick(2, 4),
        "q_lora_rank": pick(1, 3, 32),
        "o_lora_rank": pick(1, 5, 16),
        "o_groups": pick(1, heads),
        "index_n_heads": pick(1, 3, 16),
        "index_head_dim": pick(4, 8, 32),
        "index_topk": pick(1, 4, 16),
        "n_routed_experts": experts,
        "num_experts_per_tok": pick(1, experts, min(3, experts)),
        "moe_intermediate_size": pick(1, 3, 32, 40),
        "vocab_size": pick(17, 100, 512),
        "hc_mult": pick(1, 2, 4, 5),
        "sliding_window": pick(8, 100, 128),
    }


def qwen3(pick):
    """The same of the other family."""
    kv_heads = pick(1, 2, 3)
    return {
        "num_hidden_layers": pick(1, 2),
        "hidden_size": pick(1, 3, 7, 33, 64, 100),
        "intermediate_size": pick(1, 3, 70, 160),
        "num_key_value_heads": kv_heads,
        "num_attention_heads": kv_heads * pick(1, 2, 3),
        "head_dim": pick(2, 4, 20, 32),
        "vocab_size": pick(17, 100, 512),
    }


class Model:
    """A model of a seed, its prompts, and what they give."""

    def __init__(self, seed, call, folder):
        chance = random.Random(seed)

        def pick(*values):
            return chance.choice(values)

        preset, fields = (("tiny", deepseek), ("qwen3-tiny", qwen3))[seed % 3 == 2]
        values = fields(pick)
        sets = [argument for name, value in values.items() for argument in ("--set", f"{name}={json.dumps(value)}")]
        status, _, err = call("checkpoint", "init", "--config", preset, "--seed", seed, *sets, folder)
        assert status == 0, err
        self.folder, self.sets = folder, ["max_context=256", *pick((), ("dtype=bf16",), ("precision=w8a8",))]
        lengths = [pick(1, 1, 2, 3, 5, 16, 17, 40, 128, 129) for _ in range(pick(2, 3, 9))]
        self.prompts = [[chance.randrange(values["vocab_size"]) for _ in range(length)] for length in lengths]

    def logits(self, prompts, sets=(), **options):
        """Of each prompt, rows of prefill and decode."""
        driver = Driver(sets=[*self.sets, *sets])
        file = self.folder / "logits.safetensors"
        made = driver.generate(self.folder, prompts, NEW_TOKENS, logits=file, ignore_eos=True, **options).generations
        return [torch.cat([*one.prefill_logits, *(row[None] for row in one.decode_logits)]) for one in made]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_a_request_is_the_same_bits_whatever_is_beside_it(seed, call, tmp_path):
    model = Model(seed, call, tmp_path / "model")
    prompts = model.prompts
    expected = model.logits(prompts)
    variants = [(prompts[::-1], {}), (prompts[1:2], {}), (prompts, {"workers": 3}), (prompts, {"sets": ["prefill.seq=48"]})]
    variants += [(prompts, {"ring_heap": "safe", "scheduler": "minpeak"})]
    variants += [(prompts, {"sets": [f"decode.batch={size}"]}) for size in (1, 3, 40)]
    for given, options in variants:
        for prompt, made in zip(given, model.logits(given, **options), strict=True):
            bits, known = made.view(torch.int32), expected[prompts.index(prompt)].view(torch.int32)
            assert torch.equal(bits, known), (options, len(prompt))


@pytest.mark.parametrize("preset", ["tiny", "qwen3-tiny"])
@pytest.mark.parametrize("batch", [1, 8, 9, 17])
def test_phases_share_one_store_whatever_the_batch(preset, batch):
    config = load_config([preset], [f"decode.batch={batch}"])
    config = serve.prepared(config, serve.Request(None, ((1, 2),)))
    found = family(config.family.name).serving(config)
    assert {made["REQUESTS"] for made in found.configs.values()} == {max(batch, 8)} and found.batch == batch


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("preset", "graph", "sets"),
    sampled(
        [("tiny", "decode_fwd", (f"compress_ratios=[{ratio}]", *more)) for ratio in (0, 4, 128) for more in ((), ("dtype=bf16",))]
        + [("tiny", "decode_fwd", ("compress_ratios=[0]", "precision=w8a8")), ("qwen3-tiny", "qwen3_decode", ())],
        [("tiny", "decode_fwd", ("compress_ratios=[0]",)), ("qwen3-tiny", "qwen3_decode", ())],
    ),
)
def test_what_is_not_finite_stays_in_its_own_row(preset, graph, sets, value):
    """Requests beside one whose token is embedded as NaN."""
    torch.manual_seed(0)
    driver = Driver(config=preset, sets=["num_hidden_layers=1", "tie_word_embeddings=false", *sets])
    table = next(tensor.spec for tensor in driver.expand(graph).tensors if tensor.name == "embed_w")
    weights = torch.randn(table.shape).to(torch.bfloat16 if table.dtype == "bf16" else torch.float32)
    turns = tuple(Turn((5 + request,)) for request in range(8))

    def logits():
        return driver.run(graph, {"embed_w": weights}, keep=["logits"], turns=turns).tensors["logits"][:8]

    before = logits()
    weights[7] = value
    after = logits()
    assert [row for row in range(8) if not torch.equal(after[row], before[row])] == [2] and before.isfinite().all()
