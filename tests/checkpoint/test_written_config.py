"""The `config.json` that we write: transformers loads it and reads the same, and writing it again changes nothing."""

import json
import math
import shutil

import pytest
import torch
from places import ROOT
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM
from transformers.utils.quantization_config import FineGrainedFP8Config

from runner.checkpoint.convert import convert
from runner.checkpoint.encodings import FLAVOURS
from runner.checkpoint.inspect import inspect_checkpoint
from runner.checkpoint.own_config import require_own_config
from runner.checkpoint.random import init_checkpoint
from runner.config.config import load_config

DSPARK = ROOT / "tests/data/config_json/dspark_native_config.json"
SMALL = ["vocab_size=40", "n_routed_experts=4", "num_hidden_layers=2", "compress_ratios=[0,4]", "num_hash_layers=1"]
INTEGERS = ["swiglu_limit=7", "routed_scaling_factor=2", "hc_eps=1", "rms_norm_eps=1", "rope_theta=10000", "rope_factor=8"]


def written(folder):
    return json.loads((folder / "config.json").read_text())


def check_read_alike(folder):
    """transformers loads what we wrote, and reads what we read."""
    theirs, ours = DeepseekV4Config.from_pretrained(folder), load_config([folder])
    same = ["swiglu_limit", "routed_scaling_factor", "hc_eps", "rms_norm_eps", "hidden_size", "n_routed_experts", "eos_token_id"]
    assert {name: getattr(theirs, name) for name in same} == {name: ours.fields[name] for name in same}
    rates = {"sliding_attention": 0, **theirs.compress_rates}
    assert [rates[kind] for kind in theirs.layer_types] == ours["compress_ratios"][: ours["num_hidden_layers"]]
    assert theirs.qk_rope_head_dim == ours["qk_rope_head_dim"]
    compress = theirs.rope_parameters["compress"]
    assert (compress["rope_type"], compress["rope_theta"]) == (ours["rope_type"], ours["compress_rope_theta"])
    if ours["rope_type"] == "yarn":
        assert (compress["factor"], compress["attention_factor"]) == (ours["rope_factor"], ours["rope_attention_factor"])
    described = getattr(theirs, "quantization_config", None)
    if described is not None and described["quant_method"] == "fp8":
        FineGrainedFP8Config(**{key: value for key, value in described.items() if key != "quant_method"})
    return ours


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_flavour_is_loaded_by_transformers(flavour, tmp_path):
    folder = init_checkpoint(load_config(["tiny"], [*SMALL, *INTEGERS]), tmp_path / "made", flavour=flavour)
    assert check_read_alike(folder)["swiglu_limit"] == 7
    held = written(folder)
    floats = ("swiglu_limit", "routed_scaling_factor", "hc_eps", "rms_norm_eps")
    assert all(isinstance(held[name], float) for name in floats)
    scales = {"fp8": "float", "fp8-e8m0": "ue8m0", "fp4": "ue8m0"}
    assert held.get("quantization_config", {}).get("scale_fmt") == scales.get(flavour)


def test_infinity_is_written_as_transformers_writes_it(tmp_path):
    folder = init_checkpoint(load_config(["tiny"], [*SMALL, "swiglu_limit=.inf"]), tmp_path / "made")
    assert written(folder)["swiglu_limit"] == {"__float__": "Infinity"}
    assert check_read_alike(folder)["swiglu_limit"] == math.inf
    assert inspect_checkpoint(folder).fits


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """A checkpoint with the configuration that its makers publish: draft layers in `compress_ratios`, rope_scaling."""
    config = load_config([DSPARK])
    folder = init_checkpoint(config, tmp_path_factory.mktemp("native") / "bf16", flavour="bf16")
    shutil.copyfile(DSPARK, folder / "config.json")
    return folder


def test_a_second_and_a_third_conversion_keep_what_the_first_kept(native, tmp_path):
    folder, kept = native, []
    for number, flavour in enumerate(("fp8", "f32", "bf16")):
        folder = convert(folder, tmp_path / f"out{number}", require_own_config(folder), to=flavour).folder
        check_read_alike(folder)
        kept.append({key: value for key, value in written(folder).items() if key not in ("quantization_config", "dtype")})
    assert kept[0] == kept[1] == kept[2]
    assert kept[0]["compress_ratios"] == [0, 4, 128, 4, 128, 0, 0, 0, 0]
    assert kept[0]["num_nextn_predict_layers"] == 3 and kept[0]["dspark_block_size"] == 5
    assert "rope_scaling" not in kept[0] and "expert_dtype" not in kept[0]
    assert load_config([folder]).fields["compress_ratios"] == load_config([native]).fields["compress_ratios"]


def test_stale_keys_do_not_win_over_what_is_written(native, tmp_path):
    source = shutil.copytree(native, tmp_path / "source")
    stale = {"num_local_experts": 16, "compress_rate_csa": 8, "compress_rate_hca": 64, "torch_dtype": "float32"}
    changed = {key: value for key, value in written(source).items() if key != "dtype"} | stale
    (source / "config.json").write_text(json.dumps(changed))
    before = load_config([source])
    sets = load_config([source], ["compress_rate_csa=4", "compress_ratios=[0,4,64,4,64,0]"])
    init_checkpoint(sets, tmp_path / "weights", flavour="bf16")
    shutil.copyfile(source / "config.json", tmp_path / "weights" / "config.json")
    out = convert(tmp_path / "weights", tmp_path / "out", sets, to="bf16").folder
    assert before["compress_rate_csa"] == 8 and not stale.keys() & written(out).keys()
    assert check_read_alike(out)["compress_rate_csa"] == 4


def test_what_ends_a_text_follows_a_conversion(native, tmp_path):
    source = shutil.copytree(native, tmp_path / "source")
    (source / "generation_config.json").write_text('{"eos_token_id": [2, 3], "temperature": 0.6}')
    out = convert(source, tmp_path / "out", require_own_config(source), to="bf16").folder
    assert written(out)["eos_token_id"] == [2, 3]
    other = load_config([source], ["eos_token_id=5"])
    out = convert(source, tmp_path / "other", other, to="bf16").folder
    assert load_config([out]).fields["eos_token_id"] == written(out)["eos_token_id"] == 5
    assert json.loads((out / "generation_config.json").read_text()) == {"eos_token_id": 5, "temperature": 0.6}


def loaded(folder, monkeypatch):
    """The model as transformers makes it of a checkpoint; FP8 and FP4 decoded on loading, for which it needs nothing else."""
    described = DeepseekV4Config.from_pretrained(folder).to_dict().get("quantization_config") or {}
    options = {}
    if described.get("quant_method") == "fp8":
        monkeypatch.setattr("transformers.quantizers.quantizer_finegrained_fp8.is_accelerate_available", lambda: True)
        options["quantization_config"] = FineGrainedFP8Config(dequantize=True)
    return DeepseekV4ForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).float().eval()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_transformers_computes_the_same_logits_from_every_flavour_that_it_knows(flavour, tmp_path, monkeypatch):
    """Against what it computes from the same checkpoint decoded by us. It has no W8A8, and takes the codes for weights."""
    sizes = ["vocab_size=512", "hidden_size=128", "moe_intermediate_size=128", *SMALL[1:]]
    folder = init_checkpoint(load_config(["tiny"], sizes), tmp_path / "made", flavour=flavour)
    decoded = convert(folder, tmp_path / "decoded", require_own_config(folder), to="f32").folder
    ids = torch.arange(30)[None]
    with torch.no_grad():
        got, expected = (loaded(path, monkeypatch)(ids, use_cache=False).logits for path in (folder, decoded))
    error = float((got - expected).norm() / expected.norm())
    assert error > 0.5 if flavour == "w8a8" else error < 1e-6
