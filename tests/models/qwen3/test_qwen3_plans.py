"""The graphs of Qwen3 as tasks, and what they take: the reference's tasks per layer, and rings as small as the proof allows."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from graph_runs import expand_graph

from runner.config.config import load_config

KIB = 1024


def tasks(graph: str, *sets: str) -> tuple[Counter[str], Counter[str]]:
    """Tasks of the second layer of the 14B model by id, and those outside of layers."""
    phase = graph.partition("_")[2]
    program = expand_graph(graph, load_config(["qwen3-14b"], ["num_hidden_layers=3", *sets], deploy=phase))
    paths = [task.path for task in program.tasks if task.op is not None]
    layer = Counter(path.rpartition(".")[2] for path in paths if path.startswith("layer_1."))
    return layer, Counter(path.rpartition(".")[2] for path in paths if not path.startswith("layer_"))


def test_a_layer_of_prefill_is_two_tiles_of_tokens_and_two_bands_of_the_mlp():
    layer, around = tasks("qwen3_prefill")
    tile = "rmsnorm q_proj kv_proj rope_kv_cache online_softmax_init attention_finalize out_proj out_residual post_rmsnorm"
    assert layer == Counter(
        dict.fromkeys(tile.split(), 2)
        | {"qk_pv_online": 2 * 4096 // 128, "mlp_out_seed": 1, "gate_up_proj": 2, "silu": 2, "down_proj": 2, "mlp_out_cast": 1}
    )
    assert around == {"token_embed": 1, "final_rmsnorm": 1, "lm_head": 1}


def test_a_layer_of_decode_is_split_as_its_weights_are():
    layer, around = tasks("qwen3_decode")
    once = ["rmsnorm", "q_proj", "k_proj", "v_proj", "rope_qkv", "fa_fused", "post_rmsnorm", "down_residual"]
    columns, parts = 17408 // 1024, 5120 // 1024
    products = {"first": 10 + 2 * columns, "further": (10 + 2 * columns) * (parts - 1)}
    assert sum(products.values()) == 50 + 2 * columns * parts
    down = {name: count for name, count in layer.items() if name.startswith("down_proj")}
    assert sum(down.values()) == 5 * columns
    rest = Counter({name: count for name, count in layer.items() if name not in down})
    assert rest == Counter(dict.fromkeys(once, 1) | products | {"residual": parts, "silu": columns})
    assert around == {"token_embed": 1, "final_rmsnorm": 1, "lm_head": 1}


@pytest.mark.parametrize("sets", [(), ("attention_bias=true",)])
def test_biases_are_tasks_of_models_that_have_them(sets):
    layer, _ = tasks("qwen3_decode", *sets)
    assert {name for name in layer if name.endswith("_bias")} == ({"q_bias", "k_bias", "v_bias", "o_bias"} if sets else set())


@pytest.mark.parametrize(
    "layers", [2, pytest.param(40, marks=pytest.mark.slow, id="whole"), pytest.param(0, marks=pytest.mark.slow, id="32b")]
)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("precision", ["full", "w8a8"])
def test_the_plan_is_within_3_kib_of_its_bound(phase, precision, layers, call):
    """Prefill of 128 tokens and decode of 8 requests; the safe sizes of the rings are what the plan takes."""
    model = ["--config", "qwen3-14b", "--set", f"num_hidden_layers={layers}"] if layers else ["--config", "qwen3-32b"]
    options = ["--scheduler", "minpeak", "--objective", "total", "--ring-heap", "safe", "--json"]
    status, out, err = call("schedule", f"qwen3_{phase}", *model, "--set", f"precision={precision}", *options)
    assert status == 0, err
    plan = json.loads(out)
    certificate, safe = plan["certificate"], sum(ring["safe_bytes"] for ring in plan["rings"])
    assert safe == certificate["value"] and certificate["gap"] <= 3 * KIB, certificate
    print(f"{' '.join(model[1:])} {phase} {precision}: {safe:,} bytes, bound {certificate['lower_bound']:,}")
