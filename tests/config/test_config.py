"""Configurations: layers, options, deployments, Hugging Face files, and the text of every refusal."""

import json
import pickle
import random
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
import yaml
from transformers.models.deepseek_v4.configuration_deepseek_v4 import DeepseekV4Config

from runner.base.errors import ConfigError
from runner.base.tensor_spec import DTYPE_BYTES
from runner.config.config import load_config
from runner.config.schema import layer_schema
from runner.config.sources import presets
from runner.models.deepseek_v4 import FAMILY
from runner.models.deepseek_v4.hf_config import config_json

QWEN3 = ("qwen3-14b", "qwen3-32b", "qwen3-tiny")
DEPLOYMENTS = {"decode": (8, 1), "decode-mtp": (4, 2), "prefill": (1, 128)}


def refusal(sets=(), layers=("tiny",), **options):
    with pytest.raises(ConfigError) as caught:
        load_config(layers, sets, **options)
    return str(caught.value)


def layer(tmp_path, text, name="mine.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return path


# What a configuration comes to


@pytest.mark.parametrize("preset", ["flash", "pro", "demo", "tiny"])
@pytest.mark.parametrize("deploy", DEPLOYMENTS)
def test_every_preset_in_every_deployment(preset, deploy):
    config = load_config([preset], deploy=deploy)
    assert (config["batch"], config["seq"]) == DEPLOYMENTS[deploy]
    assert config["T"] == config["batch"] * config["seq"]
    assert config.name == preset and config.deploy == deploy
    assert set(config.dtypes.values()) <= set(DTYPE_BYTES)


def test_presets_are_listed_without_the_base():
    assert set(presets()) == {"demo", "flash", "pro", "seed", "tiny", *QWEN3}
    assert load_config(["deepseek_v4", "tiny"]).name == "tiny"


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        (
            "flash",
            {
                "hidden_size": 4096,
                "num_attention_heads": 64,
                "q_lora_rank": 1024,
                "o_lora_rank": 1024,
                "o_groups": 8,
                "moe_intermediate_size": 2048,
                "n_routed_experts": 256,
                "num_experts_per_tok": 6,
                "routed_scaling_factor": 1.5,
                "num_hidden_layers": 43,
                "num_hash_layers": 3,
                "index_topk": 512,
                "compress_ratios": [0, 0, *[4, 128] * 20, 4, 0],
            },
        ),
        (
            "pro",
            {
                "hidden_size": 7168,
                "num_attention_heads": 128,
                "q_lora_rank": 1536,
                "o_lora_rank": 1024,
                "o_groups": 16,
                "moe_intermediate_size": 3072,
                "n_routed_experts": 384,
                "num_experts_per_tok": 6,
                "routed_scaling_factor": 2.5,
                "num_hidden_layers": 61,
                "num_hash_layers": 3,
                "index_topk": 1024,
                "compress_ratios": [128, 128, *[4, 128] * 29, 4, 0],
            },
        ),
    ],
)
def test_published_sizes(preset, expected):
    shared = {
        "head_dim": 512,
        "qk_rope_head_dim": 64,
        "sliding_window": 128,
        "index_n_heads": 64,
        "index_head_dim": 128,
        "hc_mult": 4,
        "hc_sinkhorn_iters": 20,
        "hc_eps": 1e-6,
        "rope_theta": 1e4,
        "compress_rope_theta": 1.6e5,
        "rope_factor": 16,
        "swiglu_limit": 10,
        "rms_norm_eps": 1e-6,
        "vocab_size": 129280,
        "scoring_func": "sqrtsoftplus",
    }
    fields = load_config([preset]).fields
    assert {name: fields[name] for name in shared | expected} == shared | expected


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (["dtype=f32"], {"act": "f32", "qact": "f32", "acc": "f32", "wd": "f32", "wq": "f32"}),
        (["dtype=bf16"], {"act": "bf16", "qact": "bf16", "acc": "f32", "wd": "bf16", "wq": "bf16"}),
        (["dtype=bf16", "precision=w8a8"], {"act": "bf16", "qact": "i8", "acc": "i32", "wd": "bf16", "wq": "i8"}),
        (["dtype=f32", "precision=w8a8"], {"act": "f32", "qact": "i8", "acc": "i32", "wd": "f32", "wq": "i8"}),
    ],
)
def test_dtype_parameters(sets, expected):
    assert dict(load_config(["tiny"], sets).dtypes) == expected


@pytest.mark.parametrize(
    ("ep", "deploy", "expected"), [(8, "decode", 16), (8, "prefill", 96), (2, "decode", 16), (2, "prefill", 32)]
)
def test_receive_depth_follows_the_formula(ep, deploy, expected):
    """max(16, T * topk * 4 / (experts / ep)), rounded up to a row tile; 16 and 96 are the reference's at ep8."""
    assert load_config(["flash"], deploy=deploy, ep=ep)["RECV_MAX"] == expected


@pytest.mark.parametrize("ep", [1, 2, 4, 8])
def test_seed_layer_keeps_32_experts_a_rank(ep):
    config = load_config(["flash", "seed"], ep=ep, deploy="prefill")
    assert (config["E"], config["E_ALL"], config["RECV_MAX"]) == (32, 32 * ep, 1024)
    assert config["recv_layout"] == "padded" and config["T_PAD"] == 128
    assert load_config(["flash", "seed"], ep=ep, deploy="decode")["T_PAD"] == 128


def test_later_layers_win_and_options_win_over_deployments(tmp_path):
    mine = layer(
        tmp_path, "hidden_size: 128\ndeployments: {decode: {batch: 2}, wide: {batch: 64, seq: 1}}\ndims: {MY_DIM: 2 * D}\n"
    )
    config = load_config(["tiny", mine])
    assert (config["hidden_size"], config["D"], config["MY_DIM"], config["T"]) == (128, 128, 256, 2)
    assert config.name == "tiny+mine"
    assert load_config(["tiny", mine], deploy="wide")["T"] == 64
    assert load_config(["tiny", mine], ["decode.batch=5"])["T"] == 5
    assert load_config(["tiny", mine], ["decode.batch=5", "batch=7"])["T"] == 7
    assert load_config(["tiny", mine, "tiny"])["hidden_size"] == 64


def test_with_derives_and_keeps_options():
    config = load_config(["tiny"], ["decode.batch=4", "hidden_size=96"])
    other = config.with_(deploy="prefill", ep=2, max_context=300)
    assert (other["T"], other["ep"], other["hidden_size"], other["max_context"]) == (128, 2, 96, 300)
    assert config["T"] == 4 and config["ep"] == 1
    assert other.with_(deploy="decode")["T"] == 4
    assert other.with_(sets=["hidden_size=64"])["hidden_size"] == 64


def test_a_configuration_goes_to_other_processes():
    config = load_config(["flash"], ["decode.batch=4"], ep=2)
    other = pickle.loads(pickle.dumps(config))
    assert other == config and other.with_(deploy="prefill") == config.with_(deploy="prefill")


def test_values_are_typed_by_yaml_1_2():
    config = load_config(["tiny"], ["rms_norm_eps=1e-5", "eos_token_id=[1, 2]", "pad_token_id=null", "vocab_size=0x100"])
    assert config["rms_norm_eps"] == 1e-5 and config["eos_token_id"] == [1, 2]
    assert config["pad_token_id"] is None and config["vocab_size"] == 256


def test_fields_may_be_expressions():
    config = load_config(["tiny"], ["moe_intermediate_size=hidden_size / 2", "n_routed_experts=8 * ep"], ep=4)
    assert (config["moe_intermediate_size"], config["n_routed_experts"], config["E"]) == (32, 32, 8)


def test_origin_names_the_place():
    config = load_config(["tiny"], ["hidden_size=96"], ep=2)
    assert config.origin("hidden_size") == "--set hidden_size=96"
    assert config.origin("ep") == "--ep ep=2"
    path, line = config.origin("head_dim").rsplit(":", 1)
    assert path.endswith("graphs/config/tiny.yaml")
    text = files("graphs.config").joinpath("tiny.yaml").read_text().splitlines()
    assert text[int(line) - 1].startswith("head_dim:")


def test_a_configuration_cannot_be_changed():
    config = load_config()
    with pytest.raises(TypeError):
        config.values["hidden_size"] = 1
    with pytest.raises(AttributeError):
        config.name = "other"


# The schema that editors use


def test_schema_is_draft_07_and_accepts_what_is_shipped():
    schema = json.loads(files("graphs.schema").joinpath("config.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    for name in (*(name for name in presets() if not name.startswith("qwen3")), "deepseek_v4"):
        text = files("graphs.config").joinpath(f"{name}.yaml").read_text()
        jsonschema.validate(yaml.safe_load(text), schema)
        assert text.startswith("# yaml-language-server: $schema=../schema/config.schema.json\n")


def test_the_schema_of_a_declared_family_is_what_the_command_prints():
    """After a change of its fields: `ringgraph config schema --config qwen3 > graphs/schema/qwen3.schema.json`."""
    schema = json.loads(files("graphs.schema").joinpath("qwen3.schema.json").read_text())
    assert schema == layer_schema(["qwen3"])
    jsonschema.Draft7Validator.check_schema(schema)
    for path in (files("graphs.qwen3") / "family.yaml", *(files("graphs.config") / f"{name}.yaml" for name in QWEN3)):
        text = path.read_text()
        jsonschema.validate(yaml.safe_load(text), schema)
        assert text.startswith("# yaml-language-server: $schema=../schema/qwen3.schema.json\n")


def test_every_field_has_a_description_and_the_schema_refuses_unknown_keys():
    schema = json.loads(files("graphs.schema").joinpath("config.schema.json").read_text())
    assert [name for name, rule in schema["properties"].items() if not rule.get("description")] == []
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"hidden_sze": 3}, schema)


# Hugging Face files

MODEL = {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "head_dim": 48,
    "q_lora_rank": 32,
    "o_lora_rank": 16,
    "o_groups": 2,
    "sliding_window": 64,
    "index_n_heads": 4,
    "index_head_dim": 32,
    "index_topk": 16,
    "moe_intermediate_size": 32,
    "n_routed_experts": 16,
    "num_experts_per_tok": 3,
    "max_position_embeddings": 4096,
}
LEGACY = {
    "architectures": ["DeepseekV4ForCausalLM"],
    "model_type": "deepseek_v4",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.57.1",
    "topk_method": "noaux_tc",
    "something_new": {"a": 1},
    "compress_ratios": [0, 4, 128, 4, 128, 0],
    "num_hash_layers": 2,
    "qk_rope_head_dim": 12,
    "rope_theta": 5000,
    "compress_rope_theta": 70000,
    "rope_scaling": {"type": "yarn", "factor": 8, "original_max_position_embeddings": 512, "beta_fast": 24, "beta_slow": 2},
}


def hugging_face(tmp_path, values, name="config.json"):
    return load_config([layer(tmp_path, json.dumps(values, indent=2), name)])


def test_a_checkpoints_own_config_json(tmp_path):
    config = hugging_face(tmp_path, MODEL | LEGACY)
    expected = MODEL | {
        "compress_ratios": [0, 4, 128, 4, 128, 0],
        "num_hash_layers": 2,
        "qk_rope_head_dim": 12,
        "rope_theta": 5000,
        "compress_rope_theta": 70000,
        "rope_type": "yarn",
        "rope_factor": 8,
        "rope_original_max_position_embeddings": 512,
        "rope_beta_fast": 24,
        "rope_beta_slow": 2,
        "rope_attention_factor": 1.0,
        "dtype": "bf16",
    }
    assert {name: config[name] for name in expected} == expected
    assert config.name == tmp_path.name


def test_the_config_json_that_transformers_saves(tmp_path):
    names = ("compress_ratios", "num_hash_layers", "qk_rope_head_dim", "rope_theta", "compress_rope_theta")
    rope = {"rope_type": "yarn", "factor": 8, "original_max_position_embeddings": 512}
    DeepseekV4Config(**MODEL, **{name: LEGACY[name] for name in names}, rope_scaling=rope).save_pretrained(tmp_path)
    config = load_config([tmp_path])
    assert {name: config[name] for name in MODEL} == MODEL
    assert config["compress_ratios"] == [0, 4, 128, 4, 128]
    assert (config["num_hash_layers"], config["qk_rope_head_dim"]) == (2, 12)
    assert (config["rope_theta"], config["compress_rope_theta"]) == (5000, 70000)
    assert (config["rope_type"], config["rope_factor"], config["rope_attention_factor"]) == ("yarn", 8, 1.0)


def test_what_a_config_json_leaves_out_is_what_transformers_takes(tmp_path):
    """Every field that both know, against the defaults of the class itself."""
    theirs = DeepseekV4Config()
    config = hugging_face(tmp_path, {"model_type": "deepseek_v4"})
    common = [name for name in config.fields if hasattr(theirs, name) and name not in ("dtype", "pad_token_id")]
    assert len(common) > 30
    assert {name: config[name] for name in common} == {name: getattr(theirs, name) for name in common}
    ratio = {"sliding_attention": 0, **theirs.compress_rates}
    assert config["compress_ratios"] == [ratio[kind] for kind in theirs.layer_types]
    assert config["num_hash_layers"] == theirs.mlp_layer_types.count("hash_moe")
    assert config["rope_type"] == theirs.rope_parameters["compress"]["rope_type"]


@pytest.mark.parametrize("rope", ["default", "yarn"])
@pytest.mark.parametrize("rope_width", [2, 10, 44, 48])
def test_our_config_json_loads_in_transformers_and_here(tmp_path, rope, rope_width):
    sets = ["head_dim=49", f"qk_rope_head_dim={rope_width}", f"rope_type={rope}", "index_head_dim=64", "rope_factor=3.5"]
    config = load_config(["tiny"], sets)
    (tmp_path / "config.json").write_text(json.dumps(config_json(config.values, "f32")))
    theirs = DeepseekV4Config.from_pretrained(tmp_path)
    assert theirs.qk_rope_head_dim == rope_width
    assert theirs.rope_parameters["compress"]["rope_type"] == rope
    assert theirs.rope_parameters["compress"]["rope_theta"] == config["compress_rope_theta"]
    assert theirs.layer_types[:3] == ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"]
    again = load_config([tmp_path])
    differing = {name for name in config.fields if again[name] != config[name]}
    assert differing <= ({"rope_factor", "rope_original_max_position_embeddings"} if rope == "default" else set())


def test_other_compression_rates(tmp_path):
    rates = {"compressed_sparse_attention": 8, "heavily_compressed_attention": 64}
    DeepseekV4Config(**MODEL, compress_rates=rates, compress_ratios=[0, 4, 128, 4, 0]).save_pretrained(tmp_path)
    config = load_config([tmp_path])
    assert config["compress_ratios"] == [0, 8, 64, 8, 0]
    assert (config["compress_rate_csa"], config["compress_rate_hca"]) == (8, 64)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "llama"}, "error C102: 'model_type' is 'llama', expected 'deepseek_v4'"),
        ({"layer_types": ["linear"]}, "error C102: 'layer_types' cannot be understood: linear is not one of sliding_attention, "),
        (
            {"mlp_layer_types": ["moe", "hash_moe", "moe", "moe", "moe"]},
            "error C102: 'mlp_layer_types' cannot be understood: a hash_moe layer follows a moe layer; hash layers come first",
        ),
        (
            {"rope_scaling": None, "rope_parameters": {"main": {"rope_type": "yarn"}, "compress": {}}},
            "error C102: 'rope_parameters' cannot be understood: main has rope_type 'yarn', expected 'default'",
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 2}},
            "error C103: 'rope_type' is 'linear' (a string), expected default or yarn",
        ),
        ({"rope_scaling": 3}, "error C102: 'rope_scaling' is 3 (an integer), expected an object"),
        ({"rope_scaling": {"type": "yarn"}}, "error C102: 'rope_scaling' has no factor, which yarn needs"),
        ({"swiglu_limit": 7}, "error C102: 'swiglu_limit' is 7 (an integer), expected a number with a point, as in 7.0"),
        ({"tie_word_embeddings": True}, "error C103: 'tie_word_embeddings' is true (a boolean), expected false"),
        ({"scoring_func": "sigmoid"}, "error C103: 'scoring_func' is 'sigmoid' (a string), expected sqrtsoftplus"),
        ({"num_key_value_heads": 8}, "error C103: 'num_key_value_heads' is 8 (an integer), expected 1"),
        ({"attention_bias": True}, "error C103: 'attention_bias' is true (a boolean), expected false"),
        ({"hidden_size": "big"}, "error C102: 'hidden_size' is 'big' (a string), expected an integer"),
        (
            {"num_hidden_layers": 9},
            "error C104: 'compress_ratios' has 6 entries, expected one for each of 'num_hidden_layers' (9)",
        ),
    ],
)
def test_config_json_refusals(tmp_path, changes, expected):
    path = layer(tmp_path, json.dumps(MODEL | LEGACY | changes, indent=1), "config.json")
    text = refusal(layers=[path])
    assert expected in text
    assert text.startswith(f"{path}:")


# Refusals


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("hidden_sze=3", "error C101: unknown key 'hidden_sze' @\nhint: did you mean 'hidden_size'?"),
        ("decod.batch=1", "error C101: unknown key 'decod' @\nhint: did you mean 'decode'?"),
        (
            "decode.bacth=1",
            "error C101: deployment 'decode': unknown key 'bacth' @\nhint: did you mean 'batch'?",
        ),
        ("hidden_size", "error C100: --set hidden_size: expected key=value"),
        ("=3", "error C100: --set =3: expected key=value"),
        ("eos_token_id=[1", "error C100: --set eos_token_id=[1: not a YAML value: expected ',' or ']', but got '<stream end>'"),
        ("hidden_size=wide", "error C106: 'hidden_size': expression 'wide': unknown name 'wide' @"),
        ("hidden_size=1.5", "error C102: 'hidden_size' is 1.5 (a number), expected an integer @"),
        ("hidden_size=5 / 2", "error C102: 'hidden_size' is 2.5 (a number), expected an integer @"),
        ("hidden_size=[1]", "error C102: 'hidden_size' is a list, expected an integer @"),
        ("hidden_size=true", "error C102: 'hidden_size' is true (a boolean), expected an integer @"),
        ("hidden_size=", "error C102: 'hidden_size' is null, expected an integer @"),
        ("hidden_size.x=3", "error C102: 'hidden_size' is a mapping, expected an integer @"),
        ("hidden_size=0", "error C103: 'hidden_size' is 0 (an integer), expected at least 1 @"),
        ("rms_norm_eps=0", "error C103: 'rms_norm_eps' is 0 (an integer), expected more than 0 @"),
        ("precision=w4", "error C103: 'precision' is 'w4' (a string), expected full or w8a8 @"),
        ("dtype=f16", "error C103: 'dtype' is 'f16' (a string), expected f32 or bf16 @"),
        ("recv_layout=flat", "error C103: 'recv_layout' is 'flat' (a string), expected ragged or padded @"),
        ("recv_max=0", "error C103: 'recv_max' is 0 (an integer), expected at least 1 @"),
        (
            "deploy=fast",
            "error C103: unknown deployment 'fast'\nhint: deployments are decode, decode-mtp, prefill",
        ),
        ("deploy=decod", "error C103: unknown deployment 'decod'\nhint: did you mean 'decode'?"),
        ("o_groups=3", "error C104: 'num_attention_heads' (4) is not divisible by 'o_groups' (3) @"),
        (
            "num_attention_heads=5",
            "error C104: 'num_attention_heads' (5) is not divisible by 'o_groups' (2) @",
        ),
        (
            "qk_rope_head_dim=7",
            "error C104: 'qk_rope_head_dim' is 7, expected an even number: rotation is by pairs @",
        ),
        (
            "head_dim=8",
            "error C104: 'qk_rope_head_dim' (16) is larger than 'head_dim' (8) @",
        ),
        (
            "index_head_dim=8",
            "error C104: 'qk_rope_head_dim' (16) is larger than 'index_head_dim' (8) @",
        ),
        ("T=9", "error C104: 'T' is 9, but deployment 'decode' has batch 8 x seq 1 = 8 @"),
        ("ep=3", "error C104: 'n_routed_experts' (16) is not divisible by 'ep' (3) @"),
        (
            "num_experts_per_tok=17",
            "error C104: 'num_experts_per_tok' (17) is larger than 'n_routed_experts' (16) @",
        ),
        (
            "compress_ratios=[0, 4]",
            "error C104: 'compress_ratios' has 2 entries, expected one for each of 'num_hidden_layers' (6) @",
        ),
        (
            "compress_ratios=[0, 4, 16, 4, 128, 0]",
            "error C104: 'compress_ratios[2]' is 16, expected 0, 4 or 128 @",
        ),
        (
            "compress_ratios=[0, x, 128, 4, 128, 0]",
            "error C102: 'compress_ratios[1]' is 'x' (a string), expected an integer @",
        ),
        ("prefill.batch=x", "error C106: 'batch': expression 'x': unknown name 'x' @"),
        ("batch=T", "error C106: dim 'T' needs its own value: T -> batch -> T @"),
        ("dims.MIX=D / 7", "error C104: dim 'MIX' = D / 7 is 9.14286, expected an integer @"),
        ("dims.hidden_size=3", "error C101: dim 'hidden_size' has the name of a field; set the field instead @"),
        ("dims.a-b=3", "error C101: 'a-b' is not a name that expressions can use @"),
        ("dims={X: D / 7}", "error C104: dim 'X' = D / 7 is 9.14286, expected an integer @"),
        ("deployments={a: {x: 1}}", "error C101: deployment 'a': unknown key 'x' @"),
        ("dims=3", "error C102: 'dims' is 3 (an integer), expected a mapping @"),
        ("deployments.decode=3", "error C102: deployment 'decode' is 3 (an integer), expected a mapping @"),
        (
            "dtypes.act=f33",
            "error C106: dtype 'act': expression 'f33': unknown name 'f33' @\nhint: did you mean 'f32'?",
        ),
        (
            "dtypes.act=batch",
            "error C103: dtype 'act' is 8 (an integer), expected a dtype @"
            "\nhint: dtypes are bool, i8, u8, i16, i32, i64, f8e4m3, f8e8m0, f16, bf16, f32, f64",
        ),
        ("max_context=0", "error C103: 'max_context' is 0 (an integer), expected at least 1 @"),
    ],
)
def test_option_refusals(option, expected):
    """`@` stands for where it came from."""
    deploy = "prefill" if option.startswith("prefill") else None
    assert refusal([option], deploy=deploy) == expected.replace("@", f"(from --set {option})")


def test_with_equal_rates_ratios_say_the_kinds_as_in_a_config_json():
    config = load_config(["tiny"], ["compress_rate_hca=8", "compress_rate_csa=8"])
    assert [config[name] for name in ("compress_ratios", "CSA_RATIO", "HCA_RATIO")] == [[0, 4, 128, 4, 128, 0], 4, 128]
    kinds = ["sliding_attention", "heavily_compressed_attention", "compressed_sparse_attention"]
    sets = [f"layer_types=[{', '.join(kinds)}]", "num_hidden_layers=3", "compress_rates.compressed_sparse_attention=128"]
    assert load_config(["tiny"], sets)["compress_ratios"] == [0, 128, 4]
    assert "error C104: 'compress_ratios[2]' is 128, expected 0, 4 or 8" in refusal(["compress_rate_hca=8"])
    equal = ["compress_rate_csa=8", "compress_rate_hca=8", "compress_ratios=[0, 8, 8, 8, 8, 0]"]
    assert "error C104: 'compress_ratios[1]' is 8, expected 0, 4 or 128" in refusal(equal)


def test_indexer_width_must_be_a_power_of_two_for_int8_only():
    assert load_config(["tiny"], ["index_head_dim=24"])["index_head_dim"] == 24
    assert refusal(["index_head_dim=24", "precision=w8a8"]) == (
        "error C104: 'index_head_dim' is 24, expected a power of two in 'precision' w8a8:"
        " its rows are rotated by a Hadamard matrix (from --set index_head_dim=24)"
    )
    assert load_config(["tiny"], ["index_head_dim=24", "precision=w8a8", "compress_ratios=[0,0,128,0,128,0]"])


def test_a_step_must_fit_the_context():
    assert refusal(["max_context=64"], deploy="prefill") == (
        "error C104: 'max_context' (64) is less than one step's 'seq' (128) (from --set max_context=64)"
    )


def test_all_problems_at_once():
    text = refusal(["o_groups=3", "qk_rope_head_dim=7", "ep=5", "dtype=f16", "num_experts_per_tok=99", "epp=3"])
    assert text.count("error C") == 6
    for name in ("'epp'", "'o_groups'", "'qk_rope_head_dim'", "'ep'", "'dtype'", "'num_experts_per_tok'"):
        assert name in text


def test_unknown_options_are_all_named():
    assert refusal(["a=1", "b=2", "hidden_size=64"]).count("error C101: unknown key") == 2


def test_no_model_at_all():
    text = refusal(layers=["deepseek_v4"])
    assert text.startswith("error C105: no value for 'vocab_size', 'hidden_size', ")
    assert text.endswith("\nhint: start from a preset, such as --config flash")


def test_unknown_preset():
    assert refusal(layers=["flsh"]) == "error C100: configuration 'flsh': no such preset or file\nhint: did you mean 'flash'?"
    assert refusal(layers=["nowhere/x.yaml"]) == (
        f"error C100: configuration 'nowhere/x.yaml': no such preset or file\nhint: presets are {', '.join(presets())}"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hidden_sze: 3\n", ":1:1: error C101: unknown key 'hidden_sze'\nhidden_sze: 3\n^\nhint: did you mean 'hidden_size'?"),
        (
            "doc: x\nhidden_size: 3\nhidden_size: 4\n",
            ":3:1: error C100: key 'hidden_size' is given twice\nhidden_size: 4\n^",
        ),
        ("hidden_size: [3\n", ":2:1: error C100: not YAML: expected ',' or ']', but got '<stream end>'"),
        ("- 3\n", ":1:1: error C100: is not a mapping of keys to values"),
        ("[a]: 3\n", ":1:1: error C100: a key must be a plain name\n[a]: 3\n^"),
        ("o_groups: 3\n", ":1:1: error C104: 'num_attention_heads' (4) is not divisible by 'o_groups' (3)\no_groups: 3\n^"),
        ("dims:\n  X: D / 7\n", ":2:3: error C104: dim 'X' = D / 7 is 9.14286, expected an integer\n  X: D / 7\n  ^"),
        (
            "deployments:\n  odd: {btch: 3}\n",
            ":2:9: error C101: deployment 'odd': unknown key 'btch'\n  odd: {btch: 3}\n        ^\nhint: did you mean 'batch'?",
        ),
    ],
)
def test_file_refusals(tmp_path, text, expected):
    path = layer(tmp_path, text)
    assert refusal(layers=["tiny", path]) == f"{path}{expected}"


@pytest.mark.parametrize(
    ("data", "name", "expected"),
    [
        (b"\xff\xfe", "x.yaml", "is not UTF-8 text (byte 0)"),
        (b"a: &a [1]\nb: *c\n", "x.yaml", "not YAML: found undefined alias 'c'"),
        (b"[" * 5000, "x.yaml", "not YAML: "),
        (b"{" * 100_000, "x.json", "error C100: "),
        (b"[1]", "x.json", "is a list, expected an object"),
        (b"{'a': 1}", "x.json", "not JSON: Expecting property name"),
        (b"\x00", "x.yaml", "not YAML: "),
        (b"!!python/object:os.system {a: 1}", "x.yaml", "error C105"),
    ],
)
def test_unreadable_files(tmp_path, data, name, expected):
    path = tmp_path / name
    path.write_bytes(data)
    assert expected in refusal(layers=[path])


def test_alias_bomb_is_refused(tmp_path):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "has more than 100,000 values" in refusal(layers=[layer(tmp_path, "\n".join(lines))])


def test_huge_file_is_refused(tmp_path):
    assert "has more than 1,048,576 bytes" in refusal(layers=[layer(tmp_path, "#" * (1 << 20) + "\n")])


def test_known_keys_are_exactly_the_schemas():
    assert {"hidden_size", "layer_types", "recv_max"} <= set(FAMILY.fields())
    assert not {"dims", "dtypes", "deployments", "doc"} & set(FAMILY.fields())


WEIRD = [
    None,
    True,
    -1,
    10**30,
    1.5,
    float("nan"),
    "",
    "x",
    "1e9",
    "{",
    "1 / 0",
    "2 ** 9",
    "compress_ratios",
    "T",
    [],
    ["x"],
    [None],
]
WEIRD += [{}, {"a": 1}, {"main": 3, "compress": {}}, {"main": {}, "compress": {"rope_type": "yarn"}}, {"rope_type": ["yarn"]}]
WEIRD += [{"compressed_sparse_attention": None}, {"rope_type": "yarn", "factor": "x"}, [[1]]]
TEXTS = ["", "x", "[1]", "{a: 1}", "-3", "1e400", ".nan", "T", "*a", "&a 1", "!!python/x 1", "? a", "- 1", "a: b"]


@pytest.mark.parametrize("seed", range(120))
def test_random_mistakes_are_refused_or_accepted_but_never_a_traceback(tmp_path, seed):
    rng = random.Random(seed)
    hugging = rng.random() < 0.5
    values = config_json(load_config().values, "f32") if hugging else dict(MODEL)
    keys = [*FAMILY.fields(), "model_type", "torch_dtype", "quantization_config", "deployments", "dims", "dtypes"]
    for _ in range(rng.randint(1, 3)):
        values[rng.choice(keys)] = rng.choice(WEIRD)
    values.pop(rng.choice(list(values)))
    path = layer(tmp_path, json.dumps(values) if hugging else yaml.safe_dump(values), "c.json" if hugging else "c.yaml")
    layers = [path] if hugging else ["tiny", path]
    with suppress(ConfigError):
        load_config(layers, [f"{rng.choice(keys)}={rng.choice(TEXTS)}" for _ in range(rng.randint(0, 2))])


# --- all that is wrong, in its own place


def problems_of(*layers, **options) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(layers, **options)
    return [str(problem).splitlines()[0] for problem in caught.value.diagnostics]


def test_missing_fields_hide_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("some.yaml").write_text("model: deepseek_v4\nhidden_sze: 64\nrms_norm_eps: 0\no_groups: 3\nnum_attention_heads: 4\n")
    found = problems_of("some.yaml")
    assert found[0] == "some.yaml:2:1: error C101: unknown key 'hidden_sze'"
    assert found[1].startswith("error C105: no value for 'vocab_size', 'hidden_size',")
    assert found[2] == "some.yaml:3:1: error C103: 'rms_norm_eps' is 0 (an integer), expected more than 0"


def test_a_missing_family_hides_nothing_that_is_wrong_under_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("some.yaml").write_text("hidden_sze: 64\ndims: 3\n")
    assert problems_of("some.yaml") == [
        "some.yaml:1:1: error C101: unknown key 'hidden_sze'",
        "some.yaml:2:1: error C102: 'dims' is 3 (an integer), expected a mapping",
        "error C105: no layer says which model this is",
    ]


def test_an_unknown_deployment_hides_nothing():
    assert problems_of("tiny", sets=["o_groups=3"], deploy="nope") == [
        "error C103: unknown deployment 'nope'",
        "error C104: 'num_attention_heads' (4) is not divisible by 'o_groups' (3) (from --set o_groups=3)",
    ]


def test_places_in_a_hugging_face_file_are_those_of_its_own_keys(tmp_path, monkeypatch):
    """Not of a nested key of that name, nor of text that looks like one, and wherever the colon stands."""
    monkeypatch.chdir(tmp_path)
    Path("config.json").write_text(
        '{"model_type": "deepseek_v4", "note": "\\"hidden_size\\": 3 \u2028 {",\n'
        '  "extra": {"hidden_size": 5, "x": [1, {"rms_norm_eps": 2}]},\n\n'
        '  "hidden_size"\n    :\n  "big", "rms_norm_eps": 1,\n\t"rope\\u005fscaling": {"type": "yarn", "factor": "x"}\n}\n'
    )
    found = {text.split(": ")[2].split("'")[1]: text.split(": ")[0] for text in problems_of("config.json")}
    assert found == {
        "hidden_size": "config.json:4:3",
        "rms_norm_eps": "config.json:6:10",
        "rope_scaling": "config.json:7:2",
    }


def test_what_a_hugging_face_file_leaves_out_is_blamed_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for key in ("o_groups", "num_attention_heads"):
        Path("config.json").write_text(json.dumps({"model_type": "deepseek_v4", key: 3}, indent=1))
        (problem,) = problems_of("config.json")
        assert problem.startswith("config.json:3:2: error C104: 'num_attention_heads' (")


def test_a_folder_has_its_name_whatever_it_is_called_by(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "deepseek_v4", "hidden_size": 4096}')
    monkeypatch.chdir(folder)
    for name in (".", "./", "config.json", "../mine", str(folder), "../mine/./config.json"):
        assert load_config([name]).name == "mine"
