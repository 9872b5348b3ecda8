"""Spellings of a `config.json` that were read otherwise than transformers reads them, or refused: each with its value."""

import json
import math
import re
from itertools import product

import pytest
from places import ROOT
from sampled import sampled
from test_hf_differential import BASE, CSA, HCA, INFINITY, SWA, differing, ours, theirs

from runner.base.errors import ConfigError
from runner.cli.main import main
from runner.config.config import load_config
from runner.models.deepseek_v4.hf_config import YARN_FIELDS

DATA = ROOT / "tests/data/config_json"
YARN = {"rope_type": "yarn", "factor": 16, "original_max_position_embeddings": 256}
MAIN = {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.5}
LOG16 = 0.1 * math.log(16) + 1


def write(folder, values, name="config.json"):
    path = folder / name
    path.write_text(json.dumps(values, indent=1))
    return path


def refusal(*layers):
    with pytest.raises(ConfigError) as caught:
        load_config(layers)
    return str(caught.value)


READ = {
    "a rope_scaling that holds something wins": (
        {"rope_scaling": YARN | {"factor": 8}, "rope_parameters": YARN},
        {"rope_type": "yarn", "rope_factor": 8},
    ),
    "an empty rope_scaling does not": ({"rope_scaling": {}, "rope_parameters": YARN}, {"rope_factor": 16}),
    "an absent attention_factor is 1": ({"rope_scaling": YARN}, {"rope_attention_factor": 1.0}),
    "attention_factor null": ({"rope_scaling": YARN | {"attention_factor": None}}, {"rope_attention_factor": LOG16}),
    "attention_factor by mscale": (
        {"rope_scaling": YARN | {"attention_factor": None, "mscale": 0.5, "mscale_all_dim": 1.0}},
        {"rope_attention_factor": (0.05 * math.log(16) + 1) / LOG16},
    ),
    "factor null": ({"rope_scaling": YARN | {"factor": None}}, {"rope_factor": 4096 / 256}),
    "type stands for rope_type": (
        {"rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 512}},
        {"rope_type": "yarn", "rope_factor": 4},
    ),
    "compress without rope_theta": (
        {"rope_theta": 7000.0, "rope_parameters": {"main": MAIN, "compress": YARN | {"partial_rotary_factor": 0.5}}},
        {"rope_theta": 5000.0, "compress_rope_theta": 7000.0, "rope_attention_factor": LOG16, "qk_rope_head_dim": 16},
    ),
    "compress without rope_theta, nor the file": (
        {"rope_parameters": {"main": MAIN, "compress": {"partial_rotary_factor": 0.5}}},
        {"compress_rope_theta": 10000.0},
    ),
    "a nested partial_rotary_factor wins": (
        {"partial_rotary_factor": 0.25, "rope_parameters": {"main": MAIN, "compress": {"partial_rotary_factor": 0.5}}},
        {"qk_rope_head_dim": 16},
    ),
    "a nested type": (
        {"rope_parameters": {"main": MAIN, "compress": {"type": "yarn", "factor": 8, "partial_rotary_factor": 0.5}}},
        {"rope_type": "yarn", "rope_factor": 8, "rope_original_max_position_embeddings": 4096},
    ),
    "a flat partial_rotary_factor says nothing": (
        {"qk_rope_head_dim": 8, "rope_parameters": YARN | {"partial_rotary_factor": 0.5}},
        {"qk_rope_head_dim": 8},
    ),
    "truncate": ({"rope_scaling": YARN | {"truncate": False}}, {"rope_type": "yarn", "rope_factor": 16}),
    "compress_rates without layer_types": (
        {"num_hidden_layers": 4, "compress_rates": {CSA: 8, HCA: 64}},
        {"compress_ratios": [64, 64, 64, 8], "compress_rate_csa": 8, "compress_rate_hca": 64},
    ),
    "compress_ratios name kinds": (
        {"num_hidden_layers": 3, "compress_rates": {CSA: 8, HCA: 64}, "compress_ratios": [0, 4, 128]},
        {"compress_ratios": [0, 8, 64]},
    ),
    "an older key wins over compress_rates": (
        {"num_hidden_layers": 3, "compress_rates": {CSA: 8, HCA: 64}, "compress_rate_csa": 16, "compress_ratios": [0, 4, 128]},
        {"compress_ratios": [0, 16, 64]},
    ),
    "equal rates": (
        {"num_hidden_layers": 4, "compress_rates": {CSA: 8, HCA: 8}, "layer_types": [SWA, CSA, HCA, CSA]},
        {"compress_ratios": [0, 4, 128, 4], "compress_rate_csa": 8, "compress_rate_hca": 8},
    ),
    "one rate, equal to the other's default": (
        {"num_hidden_layers": 3, "compress_rate_csa": 128, "compress_ratios": [0, 128, 4]},
        {"compress_ratios": [0, 128, 4], "compress_rate_csa": 128, "compress_rate_hca": 128},
    ),
    "rates that are swapped": (
        {"num_hidden_layers": 3, "compress_rates": {CSA: 128, HCA: 4}, "compress_ratios": [0, 128, 4]},
        {"compress_ratios": [0, 4, 128], "compress_rate_csa": 128, "compress_rate_hca": 4},
    ),
    "a ratio as a float": ({"num_hidden_layers": 2, "compress_ratios": [4.0, 0]}, {"compress_ratios": [4, 0]}),
    "null for num_hash_layers": ({"num_hash_layers": None}, {"num_hash_layers": 3}),
    "null for compress_ratios": ({"num_hidden_layers": 3, "compress_ratios": None}, {"compress_ratios": [128, 128, 128]}),
    "entries past the end": (
        {
            "num_hidden_layers": 2,
            "mlp_layer_types": ["hash_moe", "moe", "hash_moe", "dense"],
            "layer_types": [SWA, CSA, "full_attention"],
        },
        {"num_hash_layers": 1, "compress_ratios": [0, 4]},
    ),
    "an infinite swiglu_limit": ({"swiglu_limit": INFINITY}, {"swiglu_limit": math.inf}),
    "num_local_experts wins": ({"n_routed_experts": 16, "num_local_experts": 32}, {"n_routed_experts": 32}),
    "names of ours say nothing": (
        {"rope_factor": 3, "rope_type": "yarn", "ep": 2},
        {"rope_type": "default", "rope_factor": 1, "ep": 1},
    ),
}


@pytest.mark.parametrize("name", READ)
def test_values_are_those_of_the_class(name, tmp_path):
    given, expected = READ[name]
    write(tmp_path, BASE | {"num_hidden_layers": 6} | given)
    config = load_config([tmp_path])
    assert {field: config[field] for field in expected} == expected
    assert differing(theirs(tmp_path), ours(tmp_path)) == []


def test_dtype_wins_over_torch_dtype_and_another_is_refused_unless_set(tmp_path):
    path = write(tmp_path, BASE | {"dtype": "bfloat16", "torch_dtype": "float32"})
    assert load_config([path])["dtype"] == "bf16"
    path = write(tmp_path, BASE | {"dtype": "float16"})
    assert "error C103: 'dtype' is 'float16' (a string), expected f32 or bf16" in refusal(path)
    assert load_config([path], ["dtype=bf16"])["dtype"] == "bf16"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"compress_rates": {CSA: 8}}, f"'compress_rates' has no {HCA}, which 'num_hidden_layers' has layers of"),
        ({"compress_ratios": [8] * 6}, "'compress_ratios[0]' is 8 (an integer), expected 0, 4 or 128"),
        ({"layer_types": [SWA]}, "'compress_ratios' has 1 entries, expected one for each of 'num_hidden_layers' (6)"),
        ({"swiglu_limit": 7}, "'swiglu_limit' is 7 (an integer), expected a number with a point, as in 7.0"),
        ({"rms_norm_eps": {"__float__": "NaN"}}, "'rms_norm_eps' is nan (a number), expected a finite number"),
        ({"num_hidden_layers": 10**12}, "'num_hidden_layers' is 1000000000000, expected at most 4096"),
        ({"head_dim": 10**400}, "(401 characters) is an integer of more than 64 bits"),
        ({"rope_scaling": YARN | {"factor": 10**400}}, "(401 characters) is an integer of more than 64 bits"),
        ({"rope_scaling": YARN, "compress_rope_theta": 1}, "'compress_rope_theta' is 1, from which yarn has no frequencies"),
        ({"per_layer_config": {"0": {"head_dim": 16}}}, "'per_layer_config' is not supported"),
        (
            {"rope_parameters": {"main": {}, "compress": YARN}},
            "'rope_parameters' rotates 32 columns of a head in main and 4 in compress, expected as many",
        ),
    ],
)
def test_refusals(given, message, tmp_path):
    path = write(tmp_path, BASE | {"num_hidden_layers": 6} | given)
    text = refusal(path)
    assert message in text and text.startswith(f"{path}:")


def refused(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 1


GPT2 = {"vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12}
QWEN = {"vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 64, "use_sliding_window": False}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            GPT2,
            "3:2: error C102: 'n_embd' is no field of deepseek_v4, and without a 'model_type' the file may be of another model",
        ),
        (QWEN, "'use_sliding_window' is no field of deepseek_v4"),
        (GPT2 | {"model_type": "gpt2"}, "'model_type' is 'gpt2', expected 'deepseek_v4'"),
        (BASE | {"architectures": ["Qwen3ForCausalLM"]}, "'architectures' is Qwen3ForCausalLM, expected one of DeepSeek-V4"),
        (BASE | {"model_type": "deepseek_v3"}, "'model_type' is 'deepseek_v3', expected 'deepseek_v4'"),
    ],
)
def test_fields_of_another_model_are_refused_and_no_checkpoint_is_written(given, message, tmp_path, capsys):
    path, out = write(tmp_path, given), tmp_path / "out"
    refused("checkpoint", "init", out, "--config", "tiny", "--config", path)
    assert message in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize("field", ["model_type: qwen3", "architectures: [Qwen3ForCausalLM]", "n_embd: 768"])
def test_nor_in_yaml_or_with_set(field, tmp_path, capsys):
    layer, out = tmp_path / "layer.yaml", tmp_path / "out"
    layer.write_text(f"model: deepseek_v4\n{field}\n")
    key, _, value = field.partition(": ")
    for given in (["--config", str(layer)], ["--set", f"{key}={value}"]):
        refused("checkpoint", "init", out, "--config", "tiny", *given)
        told = capsys.readouterr().err
        assert f"'{key}'" in told and ("layer.yaml:2:1: error C10" in told or f"(from --set {key}=" in told) and not out.exists()


def test_a_file_without_model_type_over_a_layer_that_says_it(tmp_path):
    given = {key: value for key, value in BASE.items() if key != "model_type"}
    path = write(tmp_path, given | {"architectures": ["DeepseekV4ForCausalLM"]})
    assert load_config(["tiny", path])["vocab_size"] == BASE["vocab_size"]


ENDLESS = [math.nan, math.inf, -math.inf, {"__float__": "NaN"}, {"__float__": "-Infinity"}]
FULL = YARN | {"beta_fast": 32, "beta_slow": 1, "attention_factor": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}
FULL |= {"rope_theta": 1e4, "partial_rotary_factor": 0.5}
HALF = {"rope_type": "default", "partial_rotary_factor": 0.5}


SAMPLE = [("rope_scaling", ENDLESS[0]), ("rope_scaling", ENDLESS[4]), ("rope_parameters", ENDLESS[2])]


@pytest.mark.parametrize(("key", "value"), sampled(product(["rope_scaling", "rope_parameters"], ENDLESS), SAMPLE))
def test_no_number_of_a_rotation_may_be_nan_or_infinite(key, value, tmp_path):
    """Flat or nested, and whether the class would use it or not."""
    for name in FULL:
        spoilt = {name: value}
        forms = [FULL | spoilt, {"main": HALF | spoilt, "compress": FULL}, {"main": HALF, "compress": FULL | spoilt}]
        for rope, where in zip(forms, (name, f"main.{name}", f"compress.{name}"), strict=True):
            path = write(tmp_path, BASE | {key: rope})
            text = refusal(path)
            assert f"'{key}' has" in text and f"for {where}, expected a finite number" in text and text.startswith(f"{path}:")
    for name in ("rope_theta", "compress_rope_theta", "partial_rotary_factor", "qk_rope_head_dim"):
        assert f"'{name}' is" in refusal(write(tmp_path, BASE | {name: value}))


@pytest.mark.parametrize("text", [".nan", ".inf", "-.inf"])
def test_nor_with_set(text):
    ours = ("rope_theta", "compress_rope_theta", *YARN_FIELDS.values())
    theirs = ("rope_scaling", *(f"{key}.{name}" for key in ("rope_scaling", "rope_parameters") for name in (*FULL, "main", "x")))
    for name in (*ours, *theirs):
        with pytest.raises(ConfigError) as caught:
            load_config(["tiny"], [f"{name}={text}", "rope_type=yarn"])
        problem = str(caught.value)
        assert "expected a finite number" in problem and f"'{name.partition('.')[0]}'" in problem, problem


# What ends a text


def test_generation_config_wins_over_config_json_and_set_over_both(tmp_path):
    path = write(tmp_path, BASE | {"eos_token_id": 1})
    beside = write(tmp_path, {"eos_token_id": [2, 3], "temperature": 0.6}, "generation_config.json")
    for source in (path, tmp_path):
        config = load_config([source])
        assert config.fields["eos_token_id"] == [2, 3]
        assert config.family.vocabulary(config).end == (2, 3)
        assert config.origin("eos_token_id") == f"{beside}:2"
    assert load_config([path], ["eos_token_id=5"]).fields["eos_token_id"] == 5
    write(tmp_path, {"eos_token_id": 4}, "generation_config.json")
    assert load_config([path]).fields["eos_token_id"] == 4
    for nothing in ({"temperature": 0.6}, {"eos_token_id": None}, {}):  # as in transformers, nothing ends a text then
        write(tmp_path, nothing, "generation_config.json")
        config = load_config([path])
        assert config.fields["eos_token_id"] is None and config.family.vocabulary(config).end == ()
    write(tmp_path, {"eos_token_id": "</s>"}, "generation_config.json")
    assert re.search(r"generation_config.json:2:2: error C102: 'eos_token_id' is '</s>' \(a string\)", refusal(path))
    assert load_config([write(tmp_path, BASE, "other.json")]).fields["eos_token_id"] == 1


# Files that are no config.json


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eos_token_id": 1, "temperature": 0.6}, "it has neither 'model_type' nor a size"),
        ({"metadata": {"total_size": 3}, "weight_map": {}}, "it has neither 'model_type' nor a size"),
        ({}, "it has neither 'model_type' nor a size"),
    ],
)
def test_other_json_is_no_model(values, message, tmp_path):
    path = write(tmp_path, values, "some.json")
    assert message in refusal("flash", path)
    alone = refusal(path)
    assert message in alone and "error C105: no layer says which model this is: 'model_type' is missing" in alone


@pytest.mark.parametrize("value", ["w8a8", 8, [], [{"quant_method": "w8a8"}]])
def test_a_quantization_config_is_an_object(value, tmp_path):
    """The class refuses any other; nothing that it may mean is left aside without a word."""
    path = write(tmp_path, BASE | {"quantization_config": value})
    assert "error C102: 'quantization_config' is " in refusal(path) and "expected an object" in refusal(path)


def test_defaults_are_called_so(tmp_path, capsys):
    path = write(tmp_path, BASE)
    config = load_config([path])
    assert config.origin("hidden_size") == f"{path}:4"
    assert {config.origin(name) for name in ("hc_mult", "rope_type", "qk_rope_head_dim", "num_hash_layers")} == {"default"}
    with pytest.raises(SystemExit):
        main(["config", "show", "hc_mult", "hidden_size", "--config", str(path)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["hc_mult", "4", "default"] in rows


def test_the_official_inference_codes_spelling_is_not_taken_for_another_model():
    path = DATA / "inference_config_pro.json"
    assert "'dim' is the official inference code's spelling; give the checkpoint's config.json instead" in refusal("flash", path)
    assert "'model_type' is missing" in refusal(path)
