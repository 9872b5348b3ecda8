"""Whole attention layers, in prefill chunks and decode steps, against transformers; ragged batches, any start, any page."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from attention_cases import Layer
from sampled import sampled

KINDS = ("swa", "csa", "hca")
MANY_INDEX_HEADS = "index_n_heads=16"
"""With few index heads many scores are exactly 0, and which of them are chosen depends on how many rows are ranked."""
NO_RATIOS = "compress_ratios=[0, 0, 0, 0, 0, 0]"
"""Lets the rates be changed: they are not those of any layer then."""


@pytest.mark.parametrize("kind", KINDS)
def test_prefill_then_decode_then_prefill_again(kind):
    layer = Layer(kind, (MANY_INDEX_HEADS,), poison=True)
    request = layer.store.admit(600)
    layer.prefill(request, 301)
    layer.decode([request], 5)
    layer.prefill(request, 131)
    layer.decode([request], 3)
    assert layer.error(request) < 1e-5


@pytest.mark.parametrize("heads", sampled([1, 2, 4], [1, 4]))
def test_equal_scores_are_chosen_as_if_the_prompt_was_read_at_once(heads):
    layer = Layer("csa", (f"index_n_heads={heads}", "index_topk=8"), seed=heads)
    request = layer.store.admit(400, 333)
    layer.prefill(request, 333)
    layer.decode([request], 30)
    assert layer.error(request) < 1e-5


BOTH = [*product(KINDS, ("decode", "decode-mtp"))]


@pytest.mark.parametrize(("kind", "deploy"), sampled(BOTH, BOTH[::2] + BOTH[-1:]))
def test_ragged_decode_over_every_boundary(kind, deploy):
    layer = Layer(kind, poison=True)
    prompts = (1, 2, 3, 121, 126, 250, 5)[: 7 if deploy == "decode" else 4]
    requests = [layer.store.admit(300, n) for n in prompts]
    for request, num_tokens in zip(requests, prompts, strict=True):
        layer.prefill(request, num_tokens)
    for step in range(10):
        active = [request for i, request in enumerate(requests) if (step + i) % 3]
        layer.decode(active, 1, deploy, 1 if deploy == "decode" or step % 2 else 2)
    assert max(layer.error(request) for request in requests) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_token_can_be_fed_again(kind):
    layer = Layer(kind)
    request = layer.store.admit(300, 126)
    layer.prefill(request, 126)
    layer.decode([request], 12, "decode-mtp", -2)
    assert layer.error(request) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_decode_from_nothing(kind):
    layer = Layer(kind, (NO_RATIOS, "compress_rate_hca=8", "sliding_window=6"), poison=True)
    request = layer.store.admit(40)
    layer.decode([request], 33)
    assert layer.error(request) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_pages_of_a_released_request_serve_another(kind):
    layer = Layer(kind, ("REQUESTS=1",))
    first = layer.store.admit(400, 300)
    layer.prefill(first, 300)
    layer.store.release(first)
    second = layer.store.admit(200, 130)
    layer.prefill(second, 130)
    layer.decode([second], 3)
    assert layer.error(second) < 1e-5


VARIATIONS = {
    "window of a page and a half": ("swa", "sliding_window=200"),
    "window of a few rows": ("csa", "sliding_window=16"),
    "one group": ("swa", "o_groups=1"),
    "a group a head": ("hca", "o_groups=4"),
    "many heads": ("csa", "num_attention_heads=8", "o_groups=4", "index_topk=5"),
    "ranks wider than a tile": ("swa", "o_lora_rank=200", "hidden_size=1100"),
    "other rates": ("csa", NO_RATIOS, "compress_rate_csa=3", "sliding_window=20"),
    "another heavy rate": ("hca", NO_RATIOS, "compress_rate_hca=20", "sliding_window=20"),
    "no scaling": ("hca", "rope_type=default"),
    "another scaling": ("csa", "rope_factor=4", "rope_original_max_position_embeddings=64", "rope_beta_fast=16"),
    "all rotated": ("csa", "qk_rope_head_dim=32"),
    "more kept rows than there are": ("csa", "index_topk=1000", "max_context=700"),
    "chunks of 50": ("csa", "prefill.seq=50"),
    "chunks of 300": ("hca", "prefill.seq=300"),
    "a short context": ("hca", "max_context=320"),
}


@pytest.mark.parametrize("name", VARIATIONS)
def test_variations_of_the_model(name):
    kind, *sets = VARIATIONS[name]
    layer = Layer(kind, (*sets, MANY_INDEX_HEADS), seed=3, poison=True)
    request = layer.store.admit(320, 290)
    layer.prefill(request, 290)
    layer.decode([request], 9)
    assert layer.error(request) < 1e-5


@pytest.mark.parametrize("batch", [128, 130])
def test_without_padding_of_this_steps_rows(batch):
    layer = Layer("swa", (f"decode.batch={batch}", "REQUESTS=2"))
    requests = [layer.store.admit(200, n) for n in (127, 3)]
    for request, num_tokens in zip(requests, (127, 3), strict=True):
        layer.prefill(request, num_tokens)
    layer.decode(requests, 3)
    assert max(layer.error(request) for request in requests) < 1e-5


@pytest.mark.parametrize(
    ("precision", "limit"), [(("dtype=bf16",), 0.03), (("precision=w8a8",), 0.05), (("precision=w8a8", "dtype=bf16"), 0.05)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_lower_precisions_stay_close(kind, precision, limit):
    layer = Layer(kind, (*precision, MANY_INDEX_HEADS, "index_topk=200"), poison=True)
    request = layer.store.admit(300, 260)
    layer.prefill(request, 260)
    layer.decode([request], 5)
    assert layer.error(request) < limit


@pytest.mark.parametrize("kind", KINDS)
def test_token_tiles_give_the_same_numbers(kind):
    made = []
    for chunked in ("false", "true"):
        layer = Layer(kind, (f"chunked={chunked}", "ATTN_TOKENS=48"), poison=True)  # the last tile is smaller
        request = layer.store.admit(300, 200)
        layer.prefill(request, 200)
        made.append(torch.cat(layer.out[request]))
        assert layer.error(request) < 1e-5
    assert torch.equal(*made)


def test_an_idle_call_changes_nothing():
    layer = Layer("csa")
    request = layer.store.admit(200, 130)
    layer.prefill(request, 130)
    before = {name: tensor.clone() for name, tensor in layer.store.tensors.items()}
    layer.call([], "decode")
    layer.call([], "prefill")
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.store.tensors.items())
