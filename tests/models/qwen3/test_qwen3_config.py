"""Random `config.json`s in every spelling, read by transformers' Qwen3Config and by our declaration of it: equal, or refused.

Outcomes are counted and printed (`pytest -s`). Where we refuse what the class accepts, the message has to name a key that the
declaration has; whatever else differs fails.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
import torch
from configs_read_alike import Readers
from sampled import sampled
from transformers import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

from runner.base.errors import ConfigError
from runner.config.config import load_config
from runner.models import family
from runner.models.declared.family import DeclaredFamily

BASE: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 4096,
}
FULL, WINDOW = "full_attention", "sliding_attention"
ABSENT = object()
WEIRD = [None, True, False, -1, 0, 1, 0.0, 1.5, -2.5, 1e-30, float("nan"), float("inf"), "", "x", "1e9"]
WEIRD += [[], [1], [None], {}, {"a": 1}, {FULL: {}}, {"__float__": "Infinity"}]
SAME = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"]
SAME += ["head_dim", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps", "tie_word_embeddings"]
SAME += ["attention_bias", "bos_token_id", "eos_token_id", "pad_token_id", "layer_types"]
"""Values that the class and we call the same."""
DTYPES = {None: "f32", torch.float32: "f32", torch.bfloat16: "bf16"}


class Generator:
    """One random configuration: mostly what people write, sometimes what nobody should."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        self.layers = self.rng.choice([1, 2, 3, 5])
        self.config = dict(BASE) | {"num_hidden_layers": self.layers}

    def rarely(self, chance: float = 0.05) -> bool:
        return self.rng.random() < chance

    def put(self, target: dict[str, Any], key: str, *values: Any) -> None:
        value = self.rng.choice(values)
        if value is not ABSENT:
            target[key] = value

    def make(self) -> dict[str, Any]:
        for part in (self.sizes, self.attention, self.rotation, self.rest):
            part()
        if self.rarely(0.1):
            self.config.pop(self.rng.choice(sorted(self.config.keys() - {"model_type"})))
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
            key = self.rng.choice([key for key in keys if key != "model_type"] or keys)
            if not isinstance(target[key], dict | list) or not target[key] or self.rarely(0.2):
                break
            target = target[key]
        target[key] = self.rng.choice(WEIRD)

    def sizes(self) -> None:
        self.put(self.config, "num_key_value_heads", 1, 2, 4, 4, ABSENT, None, 3 if self.rarely() else 2)
        self.put(self.config, "head_dim", 16, 32, 48, 6, ABSENT, None if self.rarely() else 64, 33 if self.rarely() else 32)
        self.put(self.config, "tie_word_embeddings", ABSENT, True, False)
        self.put(self.config, "attention_bias", ABSENT, ABSENT, True, False, None if self.rarely() else False)

    def attention(self) -> None:
        self.put(self.config, "use_sliding_window", ABSENT, False, True, True)
        self.put(self.config, "sliding_window", ABSENT, None, 16, 4096, 0 if self.rarely() else 128)
        self.put(self.config, "max_window_layers", ABSENT, 0, 1, 2, 9)
        if self.rarely(0.3):
            count = self.layers + self.rng.choice([0, 0, 0, 0, 0, 1, -1])
            kinds = self.rng.choice(
                [[FULL], [FULL, WINDOW], [WINDOW], [FULL, "attention"], [FULL, "x" if self.rarely(0.2) else FULL]]
            )
            types = [self.rng.choice(kinds) for _ in range(max(count, 0))]
            self.put(self.config, "layer_types", types, types, types, None)

    def rope(self) -> Any:
        """Parameters of the rotation, old or new."""
        rope: dict[str, Any] = {}
        kind = self.rng.choice(
            ["default", "default", "yarn", "yarn", "yarn", "linear", "dynamic", "llama3", "x" if self.rarely() else "yarn"]
        )
        self.put(rope, self.rng.choice(["rope_type", "rope_type", "type"]), kind, kind, kind, ABSENT)
        if self.rarely(0.1):
            self.put(rope, "type", kind, "default", None)
        if kind == "yarn":
            self.put(rope, "factor", 4.0, 2, 1.0, 1, 3.5, None, ABSENT if self.rarely(0.3) else 4.0)
            self.put(rope, "original_max_position_embeddings", ABSENT, 1024, 2048, 512.0, None if self.rarely() else 1024)
            self.put(rope, "beta_fast", ABSENT, ABSENT, 32, 24.0, None, 0 if self.rarely() else 16)
            self.put(rope, "beta_slow", ABSENT, ABSENT, 1, 2.0, None)
            self.put(rope, "attention_factor", ABSENT, ABSENT, 1.0, 1.2, None)
            if self.rarely(0.1):
                self.put(rope, "mscale", 1.0, 0.7, None)
            if self.rarely(0.1):
                self.put(rope, "mscale_all_dim", 1.0, 0.7)
            if self.rarely(0.1):
                self.put(rope, "truncate", True, False)
        elif kind != "default":
            self.put(rope, "factor", 4.0, 2, 8.0, ABSENT if self.rarely(0.3) else 4.0)
        if kind == "llama3":
            self.put(rope, "low_freq_factor", 1.0, 1, ABSENT if self.rarely() else 2.0)
            self.put(rope, "high_freq_factor", 4.0, 4, ABSENT if self.rarely() else 8.0)
            self.put(rope, "original_max_position_embeddings", 1024, 2048, ABSENT)
        self.put(rope, "rope_theta", ABSENT, ABSENT, 1e6, 10000, 5e5, None if self.rarely() else 1e6)
        if self.rarely():
            self.put(rope, "partial_rotary_factor", 0.5, 1.0)
        if self.rarely():
            rope = {FULL: rope}
        return self.rng.choice([rope, rope, rope, rope, {}, None])

    def rotation(self) -> None:
        for key in ("rope_scaling", "rope_parameters"):
            if self.rarely(0.5):
                self.config[key] = self.rope()
        self.put(self.config, "rope_theta", ABSENT, 1e6, 1000000, 10000.0, None if self.rarely() else 5e6)
        if self.rarely():
            self.put(self.config, "partial_rotary_factor", 0.5, 1.0, None)
        if self.rarely():
            self.put(self.config, "original_max_position_embeddings", 1024, 4096)

    def rest(self) -> None:
        config = self.config
        for key in ("dtype", "torch_dtype"):
            self.put(config, key, ABSENT, "bfloat16", "float32", None, "float16" if self.rarely() else "bfloat16")
        self.put(config, "rms_norm_eps", ABSENT, 1e-6, 1e-5, 1 if self.rarely() else 1e-6)
        self.put(config, "initializer_range", ABSENT, 0.02, 0.1)
        self.put(config, "eos_token_id", ABSENT, 3, [3, 4], None, "3" if self.rarely() else 5)
        self.put(config, "bos_token_id", ABSENT, 3, None, 1.0 if self.rarely() else 2)
        self.put(config, "architectures", ABSENT, ["Qwen3ForCausalLM"], None)
        self.put(config, "transformers_version", ABSENT, "4.51.0")
        self.put(config, "use_cache", ABSENT, True, False, "yes" if self.rarely() else True)
        self.put(config, "attention_dropout", ABSENT, 0.0, 0)
        self.put(config, "something_new", ABSENT, ABSENT, {"a": 1})
        if self.rarely():
            config["hidden_act"] = self.rng.choice(["gelu", "silu", 3])
        if self.rarely(0.03):
            config["per_layer_config"] = {"0": {"intermediate_size": 48}}


def theirs(folder) -> dict[str, Any]:
    """Values by the class and its rotary embedding; raises whatever they raise."""
    config: Any = Qwen3Config.from_pretrained(folder)
    rotary = Qwen3RotaryEmbedding(config)
    assert torch.isfinite(rotary.inv_freq * rotary.attention_scaling).all()
    assert WINDOW not in config.layer_types or config.sliding_window is not None, (
        "a mask without a window is refused by the model"
    )
    values = {name: getattr(config, name) for name in SAME}
    window = config.sliding_window if WINDOW in config.layer_types else None
    return {**values, "window": window, "dtype": DTYPES[config.dtype], "rope": (rotary.inv_freq, rotary.attention_scaling)}


def ours(folder) -> dict[str, Any]:
    config = load_config([folder])
    window = config["sliding_window"] if WINDOW in config["layer_types"] else None
    return {**{name: config[name] for name in SAME}, "window": window, "dtype": config["dtype"], "rope": frequencies(config)}


def frequencies(config) -> tuple[torch.Tensor, float]:
    """Frequencies and the factor on cosines and sines, from our fields (Peng et al. 2023, YaRN)."""
    columns, base = config["head_dim"], float(config["rope_theta"])
    plain = [base ** (-2 * i / columns) for i in range(columns // 2)]
    original, factor, kind = config["rope_original_max_position_embeddings"], config["rope_factor"], config["rope_type"]
    if kind in ("default", "dynamic"):  # the latter within the positions that the model was made for
        return torch.tensor(plain), 1.0
    if kind == "linear":
        return torch.tensor(plain) / factor, 1.0
    if kind == "llama3":
        low, high = config["rope_low_freq_factor"], config["rope_high_freq_factor"]
        parts = [min(max((original * f / (2 * math.pi) - low) / (high - low), 0.0), 1.0) for f in plain]
        return torch.tensor([f * part + f / factor * (1 - part) for f, part in zip(plain, parts, strict=True)]), 1.0

    def turns_at(rotations: float) -> float:
        return columns * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(turns_at(config["rope_beta_fast"])), 0)
    high = min(math.ceil(turns_at(config["rope_beta_slow"])), columns - 1)
    ramp = [min(max((i - low) / (high - low if high != low else 0.001), 0.0), 1.0) for i in range(columns // 2)]
    mixed = [kept * (1 - part) + kept / factor * part for kept, part in zip(plain, ramp, strict=True)]
    return torch.tensor(mixed), config["rope_attention_factor"]


def differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    found = [f"{name}: {a[name]!r}, {b[name]!r}" for name in a if name != "rope" and a[name] != b[name]]
    (plain, scale), (other, other_scale) = a["rope"], b["rope"]
    if plain.shape != other.shape or not torch.allclose(plain, other, rtol=1e-5, atol=0) or abs(scale - other_scale) > 1e-12:
        found.append(f"rotation: {a['rope']}, {b['rope']}")
    return found


def names_of_the_declaration() -> set[str]:
    """Keys that the declaration speaks of."""
    qwen3 = family("qwen3")
    assert isinstance(qwen3, DeclaredFamily)
    section = qwen3.sections["hugging_face"].plain
    heads = {name for names in section["first"].values() for name in names}
    spoken = {path for entry in section["refuse"] for path in [entry.get("has", "")]}
    return {*section["keys"], *section["fields"], *heads, *spoken, "torch_dtype", "architectures", *family("qwen3").fields()}


def counted(folder, seeds: range) -> Counter[str]:
    return Readers(theirs, ours, differing, names_of_the_declaration()).outcomes(
        folder, (Generator(seed).make() for seed in seeds)
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("num", sampled((100, 300), (100,)))
def test_configurations_are_read_alike(num, tmp_path):
    counts = counted(tmp_path, range(num))
    assert counts["equal"] > num // 3 and counts["both refuse"] > num // 15


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_2000_configurations_are_read_alike(tmp_path):
    counts = counted(tmp_path, range(10_000, 12_000))
    assert counts["equal"] > 700 and counts["both refuse"] > 140


def test_what_a_file_leaves_out_is_as_the_class_has_it(tmp_path):
    assert Readers(theirs, ours, differing, set()).outcome(tmp_path, {"model_type": "qwen3"}) == "equal"


def test_the_file_that_transformers_saves(tmp_path):
    fields: dict[str, Any] = {name: value for name, value in BASE.items() if name != "model_type"}
    Qwen3Config(**fields, rope_theta=5e5).save_pretrained(tmp_path)
    assert differing(theirs(tmp_path), ours(tmp_path)) == [] and load_config([tmp_path])["rope_theta"] == 5e5


@pytest.mark.parametrize(
    ("sets", "place"),
    [
        (["use_sliding_window=true"], "layers see a window (sliding_window is None"),
        (["layer_types=[full_attention]"], "(from --set layer_types=[full_attention])"),
        (["layer_types=[]"], "(from --set layer_types=[])"),
    ],
)
def test_windows_and_types_that_layers_lack_are_told_as_configuration(sets, place):
    """Not as a finding in a graph that has nothing wrong."""
    with pytest.raises(ConfigError) as raised:
        load_config(["qwen3-tiny"], sets)
    assert place in str(raised.value)
    load_config(
        ["qwen3-tiny"],
        [*sets, "sliding_window=3", "layer_types=[full_attention,full_attention,sliding_attention,full_attention]"],
    )
