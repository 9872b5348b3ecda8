"""Random `config.json`s in every spelling, read by transformers' configuration class and by us: equal, or refused.

Outcomes are counted by class and printed (`pytest -s`). Where we refuse what the class accepts, our message has to name a key of
a table in docs/configuration.md; whatever else differs fails.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from typing import Any

import pytest
import torch
from configs_read_alike import Readers
from places import ROOT
from sampled import sampled

from runner.config.config import load_config
from runner.models.deepseek_v4.tables import rope_frequencies

transformers = pytest.importorskip("transformers", "5.23.0", reason="transformers 5.23.0 is the oracle; it is not installed")
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4RotaryEmbedding  # noqa: E402

BASE: dict[str, Any] = {
    "model_type": "deepseek_v4",
    "vocab_size": 512,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "head_dim": 32,
    "q_lora_rank": 32,
    "o_lora_rank": 16,
    "o_groups": 2,
    "index_n_heads": 16,
    "index_head_dim": 32,
    "moe_intermediate_size": 32,
    "n_routed_experts": 16,
    "num_experts_per_tok": 3,
    "max_position_embeddings": 4096,
}
KINDS = ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"]
SWA, CSA, HCA = KINDS
ROTATIONS = ("main", "compress")
INFINITY = {"__float__": "Infinity"}
ABSENT = object()
WEIRD = [None, True, False, -1, 0, 1, 0.0, 1.5, -2.5, 1e-30, float("nan"), float("inf"), "", "x", "T", "1e9"]
WEIRD += [[], [1], [None], {}, {"a": 1}, {"main": {}, "compress": {}}, INFINITY]
"""Nothing huge: of some sizes the class makes lists as long."""
SAME = [name for name in BASE if name not in ("model_type",)]
SAME += ["num_hidden_layers", "num_key_value_heads", "n_shared_experts", "scoring_func", "norm_topk_prob", "hidden_act"]
SAME += ["routed_scaling_factor", "hc_mult", "hc_sinkhorn_iters", "hc_eps", "swiglu_limit", "sliding_window", "index_topk"]
SAME += ["rms_norm_eps", "initializer_range", "tie_word_embeddings", "attention_bias", "mlp_bias", "num_nextn_predict_layers"]
SAME += ["bos_token_id", "eos_token_id", "pad_token_id"]
"""Values that the class and we call the same."""


class Generator:
    """One random configuration: mostly what people write, sometimes what nobody should."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        self.layers = self.rng.choice([1, 2, 3, 5, 6, 6, 7])
        self.config = dict(BASE) | {"num_hidden_layers": self.layers}

    def rarely(self, chance: float = 0.05) -> bool:
        return self.rng.random() < chance

    def put(self, target: dict[str, Any], key: str, values: list[Any]) -> None:
        value = self.rng.choice(values)
        if value is not ABSENT:
            target[key] = value

    def length(self) -> int:
        """Of a list over the layers: right, with draft layers, or too short."""
        return max(0, self.layers + self.rng.choice([0, 0, 0, 0, 1, 3, -1 if self.rarely(0.3) else 0]))

    def make(self) -> dict[str, Any]:
        for part in (self.attention, self.experts, self.rotation, self.numbers):
            part()
        if self.rarely(0.03):
            self.config.pop(self.rng.choice(sorted(self.config)))
        if self.rarely(0.1):
            self.spoil()
        items = list(self.config.items())
        self.rng.shuffle(items)
        return dict(items)

    def spoil(self) -> None:
        """One value, at any depth, that is of another kind or far off."""
        target: Any = self.config
        while True:
            keys = sorted(target) if isinstance(target, dict) else list(range(len(target)))
            key = self.rng.choice([key for key in keys if key != "model_type"])
            if not isinstance(target[key], dict | list) or not target[key] or self.rarely(0.2):
                break
            target = target[key]
        target[key] = self.rng.choice(WEIRD)

    def rates(self) -> Any:
        rng = self.rng
        rates = {CSA: rng.choice([4, 8, 16]), HCA: rng.choice([128, 64, 8 if self.rarely(0.2) else 32])}
        if self.rarely(0.15):
            rates.pop(rng.choice([CSA, HCA]))
        if self.rarely():
            rates[rng.choice([CSA, HCA, SWA])] = rng.choice([None, 4.0, "4", 0, 1, True])
        return rates

    def attention(self) -> None:
        rng, config = self.rng, self.config
        if rng.random() < 0.5:
            kinds = [rng.choice(KINDS) for _ in range(self.length())]
            if self.rarely():
                kinds.append(rng.choice(["full_attention", "deepseek_sparse_attention", "moe", "x"]))
                rng.shuffle(kinds)
            config["layer_types"] = rng.choice([kinds, kinds, kinds, None])
        if rng.random() < 0.5:
            ratios: list[Any] = [rng.choice([0, 4, 128]) for _ in range(self.length())]
            if self.rarely() and ratios:
                ratios[rng.randrange(len(ratios))] = rng.choice([8, 4.0, None, "4", True, -1])
            config["compress_ratios"] = rng.choice([ratios, ratios, ratios, None])
        if rng.random() < 0.5:
            config["compress_rates"] = rng.choice([self.rates(), self.rates(), self.rates(), None])
        for name, values in (("compress_rate_csa", [8, 16, 2, None]), ("compress_rate_hca", [64, 256, 4, None])):
            if self.rarely(0.2):
                self.put(config, name, values)
        if self.rarely(0.02):
            config["compress_rates"] = rng.choice([[], 4, {}, {CSA: 4}])

    def experts(self) -> None:
        rng, config = self.rng, self.config
        if rng.random() < 0.5:
            odd = [2.0, -1] if self.rarely(0.2) else []
            self.put(config, "num_hash_layers", [0, 1, 2, 3, 9, None, None, *odd])
        if rng.random() < 0.4:
            length = self.length()
            hashed = rng.randint(0, length)
            types = ["hash_moe"] * hashed + ["moe"] * (length - hashed)
            if self.rarely(0.1):
                types.append(rng.choice(["hash_moe", "dense", "x"]))
            if self.rarely():
                rng.shuffle(types)
            config["mlp_layer_types"] = rng.choice([types, types, types, None])
        if self.rarely(0.1):
            config["num_local_experts"] = rng.choice([8, 16, 32])
        if self.rarely(0.1):
            config["intermediate_size"] = rng.choice([32, 48])

    def yarn(self, rope: dict[str, Any]) -> None:
        """YaRN's numbers, most of them."""
        self.put(rope, "factor", [8, 16.0, 3.5, 4, 1, None, ABSENT if self.rarely(0.3) else 16])
        self.put(rope, "original_max_position_embeddings", [256, 512, 4096, 512.0, ABSENT, None if self.rarely(0.2) else 1024])
        self.put(rope, "beta_fast", [32, 24.0, 16, ABSENT, None, 0 if self.rarely() else 8])
        self.put(rope, "beta_slow", [1, 2, 0.5, ABSENT, None])
        self.put(rope, "attention_factor", [ABSENT, ABSENT, 1.0, 1, 0.7, 1.3, None, None])
        self.put(rope, "mscale", [ABSENT, ABSENT, ABSENT, 1.0, 0.707, None, 0])
        self.put(rope, "mscale_all_dim", [ABSENT, ABSENT, ABSENT, 1.0, 0.5, None])
        self.put(rope, "truncate", [ABSENT, ABSENT, ABSENT, True, False])

    def rope(self) -> dict[str, Any]:
        """Flat parameters of one rotation."""
        rng = self.rng
        rope: dict[str, Any] = {}
        kind = rng.choice(["yarn", "yarn", "yarn", "default", "default", ABSENT])
        if self.rarely(0.04):
            kind = rng.choice(["linear", "dynamic", None, "longrope", "llama3", "x", 3])
        spelling = rng.choice([("rope_type",), ("rope_type",), ("type",), ("rope_type", "type")])
        for key in spelling:
            self.put(rope, key, [kind, kind, kind, kind, "default" if key == "type" else kind])
        if kind == "yarn" or self.rarely(0.1):
            self.yarn(rope)
        self.put(rope, "rope_theta", [ABSENT, ABSENT, 5000, 20000.0, None if self.rarely() else 10000])
        self.put(rope, "partial_rotary_factor", [ABSENT, ABSENT, 0.5, 0.25, 1.0 if self.rarely(0.3) else 0.5])
        return rope

    def nested(self) -> dict[str, Any]:
        rng = self.rng
        main, compress = self.rope(), self.rope()
        if not self.rarely(0.1):
            main = {key: value for key, value in main.items() if key in ("rope_theta", "partial_rotary_factor")}
            self.put(main, "rope_type", [ABSENT, "default"])
            self.put(main, "type", [ABSENT, ABSENT, "default"])
        if rng.random() < 0.8:
            for part in (main, compress):
                part.pop("partial_rotary_factor", None)
                self.put(part, "partial_rotary_factor", [0.5, 0.5, ABSENT])
        both: dict[str, Any] = {"main": main, "compress": compress}
        if self.rarely(0.1):
            both[rng.choice(["main", "compress"])] = rng.choice([None, 3, [], {}])
        if self.rarely(0.1):
            both.pop(rng.choice(["main", "compress"]))
        return both | (self.rope() if self.rarely(0.1) else {})

    def rotation(self) -> None:
        rng, config = self.rng, self.config
        for key in ("rope_scaling", "rope_parameters"):
            if rng.random() < 0.5:
                config[key] = rng.choice([self.rope, self.nested, self.rope, self.nested, lambda: None, dict])()
            if self.rarely(0.01):
                config[key] = rng.choice([[], 3, "yarn", False, ""])
        self.put(config, "rope_theta", [ABSENT, 10000, 5000.0, 10000.0, None if self.rarely() else 1e6])
        self.put(config, "compress_rope_theta", [ABSENT, 160000, 70000.0, "x" if self.rarely() else 40000])
        self.put(config, "partial_rotary_factor", [ABSENT, ABSENT, 0.5, 0.25, None, 0.3, 1 if self.rarely() else 0.5])
        self.put(config, "qk_rope_head_dim", [ABSENT, 8, 16, 12, None, 7 if self.rarely(0.1) else 16, 16.0])
        if self.rarely(0.2):
            config["head_dim"] = config["index_head_dim"] = rng.choice([24, 49, 50, 64])

    def numbers(self) -> None:
        config = self.config
        floats = {"swiglu_limit": [7.0, INFINITY, 10.0], "hc_eps": [1e-5, 1e-6], "rms_norm_eps": [1e-5, 1e-6]}
        floats |= {"routed_scaling_factor": [2.5, 1.0], "initializer_range": [0.02], "attention_dropout": [0.0]}
        for name, values in floats.items():
            if self.rarely(0.3):
                self.put(config, name, values)
            if self.rarely(0.02):
                self.put(config, name, [7, 1, 0, "1.0", None, {"__float__": "NaN"}, {"__float__": "x"}, {}])
        if self.rarely(0.3):
            self.put(config, "eos_token_id", [1, [1, 2], None, [], 5, "1" if self.rarely() else 2])
        if self.rarely(0.1):
            integer = self.rng.choice(["hc_mult", "sliding_window", "index_topk", "vocab_size", "num_nextn_predict_layers"])
            self.put(config, integer, [1, 64, 64.0, None, "64", True])
        if self.rarely(0.05):
            self.put(config, "scoring_func", ["sqrtsoftplus", "sigmoid", 3])
        if self.rarely(0.05):
            self.put(config, "norm_topk_prob", [True, False, 1])
        if self.rarely(0.05):
            self.put(config, "something_new", [{"a": 1}, 3])
        if self.rarely(0.05):
            self.put(config, "quantization_config", [None, {"quant_method": "w8a8"}, "w8a8", 8, [1]])
        if self.rarely(0.02):
            config["per_layer_config"] = self.rng.choice([None, {"0": {"head_dim": 16}}])
        if self.rarely(0.1):  # names of ours, which mean nothing in a config.json
            self.put(config, self.rng.choice(["rope_factor", "rope_type", "rope_attention_factor", "ep", "T"]), [3, "yarn"])


def theirs(folder) -> dict[str, Any]:
    """Derived values by the class and its rotary embedding; raises whatever they raise."""
    config = transformers.DeepseekV4Config.from_pretrained(folder)
    rotary = DeepseekV4RotaryEmbedding(config)
    used = set(config.layer_types)
    ropes = {kind: (getattr(rotary, f"{kind}_inv_freq"), getattr(rotary, f"{kind}_attention_scaling")) for kind in ROTATIONS}
    for frequencies, scale in ropes.values():
        assert torch.isfinite(frequencies * scale).all()
    return {
        "values": {name: getattr(config, name) for name in SAME},
        "kinds": config.layer_types,
        "rates": {kind: config.compress_rates[kind] for kind in (CSA, HCA) if kind in used},
        "hash": config.mlp_layer_types.count("hash_moe"),
        "hash first": config.mlp_layer_types == sorted(config.mlp_layer_types),
        "ropes": ropes,
    }


def ours(folder) -> dict[str, Any]:
    config = load_config([folder])
    layers, rates = config["num_hidden_layers"], {CSA: config["compress_rate_csa"], HCA: config["compress_rate_hca"]}
    kind_of = {0: SWA, config["CSA_RATIO"]: CSA, config["HCA_RATIO"]: HCA}
    kinds = [kind_of[ratio] for ratio in config["compress_ratios"][:layers]]
    return {
        "values": {name: config.fields[name] for name in SAME},
        "kinds": kinds,
        "rates": {kind: rate for kind, rate in rates.items() if kind in kinds},
        "hash": min(config["num_hash_layers"], layers),
        "hash first": True,
        "ropes": {kind: rope_frequencies(config.values, kind) for kind in ROTATIONS},
    }


def differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    found = [f"{name}: {value!r}, {b['values'][name]!r}" for name, value in a["values"].items() if value != b["values"][name]]
    found += [f"{name}: {a[name]}, {b[name]}" for name in ("kinds", "rates", "hash", "hash first") if a[name] != b[name]]
    for kind, (frequencies, scale) in a["ropes"].items():
        other, other_scale = b["ropes"][kind]
        if frequencies.shape != other.shape or not torch.allclose(frequencies, other, rtol=1e-6, atol=0):
            found.append(f"{kind} frequencies: {frequencies}, {other}")
        if abs(scale - other_scale) > 1e-12:
            found.append(f"{kind} attention factor: {scale}, {other_scale}")
    return found


def documented() -> set[str]:
    """Keys in the first columns of the tables of the page on configurations."""
    rows = re.findall(r"^\|([^|]+)\|", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([\w.]+)`", row)}


def counted(folder, seeds: range) -> Counter[str]:
    readers = Readers(theirs, ours, differing, documented())
    return readers.outcomes(folder, (Generator(seed).make() for seed in seeds))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("num", sampled((100, 300), (100,)))
def test_configurations_are_read_alike(num, tmp_path):
    counts = counted(tmp_path, range(num))
    assert counts["equal"] > num // 5 and counts["both refuse"] > num // 15


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_2000_configurations_are_read_alike(tmp_path):
    counts = counted(tmp_path, range(10_000, 12_000))
    assert counts["equal"] > 400 and counts["both refuse"] > 140
