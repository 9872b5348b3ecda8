"""Checkpoints: names against transformers, what is random in them, and every way in which one can be broken."""

import json
import math
import os
import random
import shutil
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import DeepseekV4ForCausalLM
from transformers.models.deepseek_v4.configuration_deepseek_v4 import DeepseekV4Config

from runner.base.errors import CheckpointError
from runner.checkpoint.checkpoint import Checkpoint
from runner.checkpoint.encodings import FLAVOURS
from runner.checkpoint.headers import INDEX_NAME
from runner.checkpoint.inspect import inspect_checkpoint
from runner.checkpoint.own_config import require_own_config
from runner.checkpoint.random import init_checkpoint
from runner.config.config import load_config
from runner.models.deepseek_v4 import FAMILY
from runner.models.deepseek_v4.tensors import canonical, expected_tensors

SIZES = ["vocab_size=96", "n_routed_experts=4", "num_hidden_layers=4", "compress_ratios=[0,4,128,4]"]
GIVEN = "layers.1.attn.wq_b.weight"


@pytest.fixture(scope="module")
def config():
    return load_config(["tiny"], SIZES)


@pytest.fixture(scope="module")
def pristine(config, tmp_path_factory):
    """A checkpoint of several shards; not to be changed."""
    return init_checkpoint(config, tmp_path_factory.mktemp("checkpoint") / "model", max_shard_bytes=200_000)


@pytest.fixture
def folder(pristine, tmp_path):
    """A copy to break."""
    return shutil.copytree(pristine, tmp_path / "model")


def theirs(config, seed=0):
    """A random model of transformers of the same configuration."""
    from runner.models.deepseek_v4.hf_config import config_json

    torch.manual_seed(seed)
    return DeepseekV4ForCausalLM(DeepseekV4Config(**config_json(config.values, "f32")))


def shard_of(folder, name):
    return folder / json.loads((folder / INDEX_NAME).read_text())["weight_map"][name]


def change(folder, name, tensor, as_name=None):
    """Replace a tensor (None: remove it) in its shard; the index follows."""
    index = json.loads((folder / INDEX_NAME).read_text())
    path = folder / index["weight_map"].pop(name)
    tensors = load_file(path)
    del tensors[name]
    if tensor is not None:
        tensors[as_name or name] = tensor
        index["weight_map"][as_name or name] = path.name
    save_file(tensors, path)
    (folder / INDEX_NAME).write_text(json.dumps(index))


def problems(folder, config):
    return [str(problem) for problem in Checkpoint.open(folder).check(config)]


# Names and layout


@pytest.mark.parametrize("shard_size", ["5GB", "100KB"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_transformers_saves_is_exactly_what_is_expected(config, tmp_path, shard_size, dtype):
    theirs(config).to(dtype).save_pretrained(tmp_path, max_shard_size=shard_size)
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.check(config) == []
    assert set(checkpoint.tensors) == set(expected_tensors(config.values))
    assert checkpoint.flavour == {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype]
    own = load_config([tmp_path])
    assert checkpoint.check(own) == []
    assert len(checkpoint.shards) > 1 or shard_size == "5GB"


@pytest.mark.parametrize(
    "sets",
    [
        [],
        ["num_attention_heads=6", "o_groups=3", "head_dim=40", "qk_rope_head_dim=8", "q_lora_rank=24"],
        ["compress_ratios=[128,128,4,0]", "num_hash_layers=0", "num_experts_per_tok=1"],
        ["num_hash_layers=4", "hc_mult=2", "moe_intermediate_size=24", "index_n_heads=3", "index_head_dim=64"],
    ],
)
def test_transformers_loads_what_we_write_and_saves_it_back(tmp_path, sets):
    """Both directions through the disk: no key is missing or left over, and every value survives."""
    config = load_config(["tiny"], [*SIZES, *sets])
    init_checkpoint(config, tmp_path / "ours", flavour="f32", seed=3)
    model, report = DeepseekV4ForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    model.save_pretrained(tmp_path / "theirs")
    ours, again = Checkpoint.open(tmp_path / "ours"), Checkpoint.open(tmp_path / "theirs")
    assert set(ours.tensors) == set(again.tensors)
    assert [name for name in ours.tensors if not torch.equal(ours.raw(name), again.raw(name))] == []


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        ("model.embed_tokens.weight", "embed.weight"),
        ("model.embed.weight", "embed.weight"),
        ("lm_head.weight", "head.weight"),
        ("head.weight", "head.weight"),
        ("model.norm.weight", "norm.weight"),
        ("model.hc_head.hc_fn", "hc_head_fn"),
        ("model.hc_head_scale", "hc_head_scale"),
        ("model.layers.3.attn.norm.weight", "layers.3.attn.kv_norm.weight"),
        ("layers.3.attn.kv_norm.weight", "layers.3.attn.kv_norm.weight"),
        ("layers.3.attn_norm.weight", "layers.3.attn_norm.weight"),
        ("layers.3.attn.compressor.norm.weight", "layers.3.attn.compressor.norm.weight"),
        ("layers.3.attn.indexer.compressor.norm.weight", "layers.3.attn.indexer.compressor.norm.weight"),
        ("model.layers.3.attn.wq_b.weight_scale_inv", "layers.3.attn.wq_b.scale"),
        ("mtp.0.attn.norm.weight", "mtp.0.attn.kv_norm.weight"),
    ],
)
def test_canonical_names(stored, name):
    assert canonical(stored) == name
    assert canonical(name) == name


def test_names_of_the_published_layout():
    """Spelled out from the model's description, for the first layers of flash."""
    expected = expected_tensors(load_config(["flash"]).values)
    shapes = {name: spec.shape for name, spec in expected.items()}
    assert shapes["embed.weight"] == shapes["head.weight"] == (129280, 4096)
    assert shapes["layers.0.attn.wq_a.weight"] == (1024, 4096)
    assert shapes["layers.0.attn.wq_b.weight"] == (64 * 512, 1024)
    assert shapes["layers.0.attn.wkv.weight"] == (512, 4096)
    assert shapes["layers.0.attn.wo_a.weight"] == (8 * 1024, 4096)
    assert shapes["layers.0.attn.wo_b.weight"] == (4096, 8 * 1024)
    assert shapes["layers.2.attn.compressor.wkv.weight"] == (1024, 4096)
    assert shapes["layers.2.attn.compressor.ape"] == (4, 1024)
    assert shapes["layers.2.attn.indexer.wq_b.weight"] == (64 * 128, 1024)
    assert shapes["layers.2.attn.indexer.compressor.ape"] == (4, 256)
    assert shapes["layers.3.attn.compressor.ape"] == (128, 512)
    assert shapes["layers.2.ffn.gate.tid2eid"] == (129280, 6)
    assert shapes["layers.3.ffn.gate.bias"] == (256,)
    assert shapes["layers.42.ffn.experts.255.w2.weight"] == (4096, 2048)
    assert "layers.3.ffn.gate.tid2eid" not in shapes and "layers.2.ffn.gate.bias" not in shapes
    assert "layers.3.attn.indexer.wq_b.weight" not in shapes and "layers.0.attn.compressor.ape" not in shapes


# Random checkpoints


def test_init_has_the_real_layout(pristine, config):
    names = sorted(path.name for path in pristine.iterdir())
    shards = [name for name in names if name.endswith(".safetensors")]
    count = len(shards)
    assert count > 3
    assert shards == [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    assert set(names) == {*shards, INDEX_NAME, "config.json"}
    index = json.loads((pristine / INDEX_NAME).read_text())
    found = {}
    for shard in shards:
        with safe_open(pristine / shard, framework="pt") as file:
            found |= {name: (shard, file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    assert {name: shard for name, (shard, _) in found.items()} == index["weight_map"]
    assert sum(tensor.nbytes for _, tensor in found.values()) == index["metadata"]["total_size"]
    assert problems(pristine, config) == []


def test_init_is_deterministic_and_independent_of_sharding(pristine, config, tmp_path):
    again = Checkpoint.open(init_checkpoint(config, tmp_path / "again", max_shard_bytes=50_000))
    other = Checkpoint.open(init_checkpoint(config, tmp_path / "other", seed=1))
    first = Checkpoint.open(pristine)
    assert all(torch.equal(first.raw(name), again.raw(name)) for name in first.tensors)
    assert not any(torch.equal(first.raw(name), other.raw(name)) for name in first.tensors)


def test_init_dtypes_follow_the_published_layout(config, tmp_path):
    tensors = Checkpoint.open(init_checkpoint(config, tmp_path / "bf16", flavour="bf16")).tensors
    bf16 = ("embed.weight", "layers.0.attn.wq_b.weight", "layers.1.attn.compressor.wkv.weight", "layers.0.attn_norm.weight")
    f32 = ("hc_head_fn", "layers.0.hc_attn_scale", "layers.0.attn.attn_sink", "layers.1.attn.compressor.ape")
    assert {tensors[name].spec.dtype for name in bf16} == {"bf16"}
    assert {tensors[name].spec.dtype for name in (*f32, "layers.0.ffn.gate.weight", "layers.3.ffn.gate.bias")} == {"f32"}
    assert tensors["layers.0.ffn.gate.tid2eid"].spec.dtype == "i64"


def test_hash_tables_hold_distinct_experts_of_every_kind(pristine, config):
    table = Checkpoint.open(pristine).raw("layers.0.ffn.gate.tid2eid")
    assert all(len(set(row)) == config["num_experts_per_tok"] for row in table.tolist())
    assert set(table.flatten().tolist()) == set(range(config["n_routed_experts"]))


def test_random_logits_are_spread(config, tmp_path):
    """Neither all alike nor one token for every position."""
    init_checkpoint(config, tmp_path / "model", flavour="f32")
    model = DeepseekV4ForCausalLM.from_pretrained(tmp_path / "model")
    ids = torch.randint(0, config["vocab_size"], (1, 150), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(ids).logits[0]
    assert 0.5 < logits.std(-1).mean() < 10
    assert len(set(logits.argmax(-1).tolist())) > 20


def test_init_default_flavour_follows_the_configuration(tmp_path):
    config = load_config(["tiny"], [*SIZES, "dtype=bf16"])
    assert Checkpoint.open(init_checkpoint(config, tmp_path / "a")).flavour == "bf16"
    assert Checkpoint.open(init_checkpoint(config.with_(precision="w8a8"), tmp_path / "b")).flavour == "w8a8"


def test_init_reports_progress(config, tmp_path):
    calls = []
    folder = init_checkpoint(config, tmp_path / "model", progress=lambda done, total: calls.append((done, total)))
    total = Checkpoint.open(folder).size_bytes
    assert calls[-1] == (total, total) and sorted(calls) == calls


def test_init_does_not_overwrite(config, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").write_text("mine")
    with pytest.raises(CheckpointError) as caught:
        init_checkpoint(config, tmp_path / "full")
    assert str(caught.value) == f"'{tmp_path / 'full'}' exists already\nhint: remove it, or choose another place"
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thing"]
    (tmp_path / "empty").mkdir()
    assert init_checkpoint(config, tmp_path / "empty") == tmp_path / "empty"


def test_init_writes_whole_or_not_at_all(config, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        init_checkpoint(config, tmp_path / "model", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_init_where_nothing_can_be_written(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"^checkpoint '.*model' cannot be written: (Not a directory|File exists)$"):
        init_checkpoint(config, tmp_path / "file" / "model")


def test_unknown_flavour(config, tmp_path):
    with pytest.raises(CheckpointError) as caught:
        init_checkpoint(config, tmp_path / "model", flavour="int4")
    assert str(caught.value) == f"unknown flavour 'int4', expected one of {', '.join(FLAVOURS)}"


# What is wrong with one


def test_missing_extra_misshapen_and_mistyped_are_all_named(folder, config):
    change(folder, "layers.0.attn.wq_a.weight", None)
    change(folder, "norm.weight", torch.ones(3))
    change(folder, "layers.0.attn.wkv.weight", torch.zeros(32, 64, dtype=torch.int32))
    change(folder, "layers.0.ffn.gate.tid2eid", torch.zeros(96, 3))
    change(folder, "layers.2.attn_norm.weight", torch.ones(64), as_name="layers.2.attn_nrm.weight")
    assert problems(folder, config) == [
        "error K101: tensor 'layers.0.attn.wq_a.weight' f32[32, 64] is missing",
        "error K101: tensor 'layers.2.attn_norm.weight' f32[64] is missing",
        "error K104: tensor 'layers.0.attn.wkv.weight' is i32[32, 64], expected f16 or bf16 or f32 or f64",
        "error K104: tensor 'layers.0.ffn.gate.tid2eid' is f32[96, 3], expected i32 or i64",
        "error K103: tensor 'norm.weight' is f32[3], expected f32[64]",
        "error K102: tensor 'layers.2.attn_nrm.weight' f32[64] is not part of the model",
    ]
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder).require(config)
    assert str(caught.value).count("error K") == 6


def test_another_configuration_does_not_fit(pristine, config):
    more = config.with_(num_hidden_layers=5, compress_ratios=[0, 4, 128, 4, 0])
    found = problems(pristine, more)
    assert len(found) == sum(name.startswith("layers.4.") for name in expected_tensors(more.values))
    assert all(" is missing" in problem for problem in found)
    assert "error K103: tensor 'head.weight' is f32[96, 64], expected f32[96, 32]" in problems(
        pristine, config.with_(hidden_size=32)
    )


def test_draft_layer_is_tolerated_and_counted(folder, config):
    save_file({"mtp.0.attn.wq_a.weight": torch.zeros(2, 2), "mtp.0.e_proj.weight": torch.zeros(2)}, folder / "draft.safetensors")
    index = json.loads((folder / INDEX_NAME).read_text())
    index["weight_map"] |= {"mtp.0.attn.wq_a.weight": "draft.safetensors", "mtp.0.e_proj.weight": "draft.safetensors"}
    (folder / INDEX_NAME).write_text(json.dumps(index))
    assert problems(folder, config) == []
    assert inspect_checkpoint(folder).unused_tensors == 2
    assert "\nunused      2 tensors of the draft (MTP) layer\n" in str(inspect_checkpoint(folder))


def header_of(path):
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return length, json.loads(file.read(length))


def test_truncated_shard_names_its_lost_tensors(folder, config):
    path = shard_of(folder, GIVEN)
    length, header = header_of(path)
    del header["__metadata__"]
    size = 8 + length + header[GIVEN]["data_offsets"][0] + 10
    with path.open("r+b") as file:
        file.truncate(size)
    lost = {name for name, entry in header.items() if 8 + length + entry["data_offsets"][1] > size}
    found = problems(folder, config)
    end = 8 + length + header[GIVEN]["data_offsets"][1]
    message = f"tensor '{GIVEN}' is truncated: it ends at byte {end:,} of shard '{path.name}', which has {size:,}"
    assert f"error K105: {message}" in found
    assert len(found) == len(lost) > 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is truncated: it has 0 bytes, its header needs more"),
        (b"\x01\x02", "is truncated: it has 2 bytes, its header needs more"),
        (struct.pack("<Q", 1000) + b"{}", "has a corrupt or truncated header: 1,000 bytes of 10"),
        (struct.pack("<Q", 2**60) + b"{}", f"has a corrupt or truncated header: {2**60:,} bytes of 10"),
        (struct.pack("<Q", 4) + b"{{{{", "has a corrupt header: it is not JSON"),
        (struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc", "has a corrupt header: it is not JSON"),
        (struct.pack("<Q", 2) + b"[]", "has a corrupt header: it is not a JSON object"),
        (None, "is missing"),
    ],
)
def test_unusable_shard_names_every_tensor_in_it(folder, config, content, expected):
    path = shard_of(folder, GIVEN)
    index = json.loads((folder / INDEX_NAME).read_text())["weight_map"]
    inside = [name for name, shard in index.items() if shard == path.name]
    path.unlink() if content is None else path.write_bytes(content)
    found = problems(folder, config)
    assert found[0] == f"error K106: shard '{path}' {expected}"
    assert found[1:] == [f"error K105: tensor '{name}' cannot be read: it lies in shard '{path.name}'" for name in sorted(inside)]


def rewrite_header(path, edit):
    length, header = header_of(path)
    data = path.read_bytes()[8 + length :]
    edit(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


CORRUPT = "error K106: tensor '{name}' has a corrupt entry in the header of shard '{shard}': "
NUMBERS = CORRUPT + "expected 'shape' and two 'data_offsets' as numbers from 0"


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda h: h[GIVEN].update(dtype="F12"), CORRUPT + "dtype 'F12', which is not known"),
        (lambda h: h[GIVEN].update(dtype=["F32"]), CORRUPT + "dtype ['F32'], which is not known"),
        (lambda h: h.update({GIVEN: 3}), CORRUPT + "dtype None, which is not known"),
        (lambda h: h[GIVEN].update(shape=[1]), CORRUPT + "f32[1] takes 4 bytes, but its offsets hold 16,384"),
        (lambda h: h[GIVEN].update(dtype="BF16"), CORRUPT + "bf16[128, 32] takes 8,192 bytes, but its offsets hold 16,384"),
        (lambda h: h[GIVEN].update(shape="12"), NUMBERS),
        (lambda h: h[GIVEN].update(shape=[math.inf, 1]), NUMBERS),
        (lambda h: h[GIVEN].update(shape=[-128, -32]), NUMBERS),
        (lambda h: h[GIVEN].update(shape=[2**70, 0]), NUMBERS),
        (lambda h: h[GIVEN].update(data_offsets=[0, math.nan]), NUMBERS),
        (lambda h: h[GIVEN].update(data_offsets=[0, 1, 2]), NUMBERS),
        (lambda h: h[GIVEN].pop("data_offsets"), NUMBERS),
        (
            lambda h: h[GIVEN].update(shape=[64, 64], dtype="F32"),
            "error K103: tensor '{name}' is f32[64, 64], expected f32[128, 32]",
        ),
        (
            lambda h: h[GIVEN].update(dtype="I32"),
            "error K104: tensor '{name}' is i32[128, 32], expected f16 or bf16 or f32 or f64",
        ),
    ],
)
def test_mislabelled_tensors(folder, config, edit, expected):
    path = shard_of(folder, GIVEN)
    rewrite_header(path, edit)
    assert problems(folder, config) == [expected.format(name=GIVEN, shard=path.name)]


def test_overlapping_tensors_are_refused(folder, config):
    path = shard_of(folder, GIVEN)

    def shift(header):
        header[GIVEN]["data_offsets"] = [offset - 4 for offset in header[GIVEN]["data_offsets"]]

    rewrite_header(path, shift)
    (found,) = problems(folder, config)
    assert found.startswith(f"error K106: tensor '{GIVEN}' begins at byte ")


def test_bytes_behind_the_last_tensor_are_refused(folder, config):
    path = shard_of(folder, GIVEN)
    path.write_bytes(path.read_bytes() + b"1234")
    assert problems(folder, config) == [f"error K106: shard '{path}' has 4 bytes behind its last tensor"]


def test_swapped_shards_are_noticed(folder, config):
    first, second = sorted(folder.glob("*.safetensors"))[:2]
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)
    index = json.loads((folder / INDEX_NAME).read_text())["weight_map"]
    swapped = [name for name, shard in index.items() if shard in (first.name, second.name)]
    found = problems(folder, config)
    assert len(found) == len(swapped)
    name = "embed.weight"
    assert index[name] == first.name
    assert f"error K107: tensor '{name}' lies in shard '{second.name}', but the index says '{first.name}'" in found


def test_index_that_disagrees_with_its_shards(folder, config):
    index = json.loads((folder / INDEX_NAME).read_text())
    shard = index["weight_map"].pop("norm.weight")
    index["weight_map"]["layers.9.ghost"] = shard
    index["weight_map"]["layers.9.outside"] = "../x.safetensors"
    (folder / INDEX_NAME).write_text(json.dumps(index))
    assert problems(folder, config) == [
        "error K107: tensor 'layers.9.outside' lies in '../x.safetensors' according to the index, expected a file name",
        f"error K107: tensor 'norm.weight' lies in shard '{shard}', but the index does not list it",
        f"error K107: tensor 'layers.9.ghost' is listed in shard '{shard}', but is not there",
    ]


def test_a_shard_that_is_a_pipe_is_not_waited_for(folder, config):
    path = shard_of(folder, GIVEN)
    path.unlink()
    os.mkfifo(path)
    assert problems(folder, config)[0] == f"error K106: shard '{path}' is not a file"


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "it is not JSON"),
        ("\xff", "it is not JSON"),
        ("[]", "it has no object 'weight_map'"),
        ("{}", "it has no object 'weight_map'"),
        ('{"weight_map": 3}', "it has no object 'weight_map'"),
    ],
)
def test_unreadable_index(folder, text, message):
    (folder / INDEX_NAME).write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=rf"^error K107: index '.*' cannot be read: {message}$"):
        Checkpoint.open(folder)


def test_two_names_of_one_tensor(tmp_path):
    save_file({"model.norm.weight": torch.ones(2), "norm.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    (found,) = Checkpoint.open(tmp_path, FAMILY.layout).problems
    assert found.message == (
        "tensor 'norm.weight' is there twice: 'model.norm.weight' in 'model.safetensors' and 'norm.weight' in 'model.safetensors'"
    )


def test_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"^checkpoint '.*nowhere': no such folder$"):
        Checkpoint.open(tmp_path / "nowhere")
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(tmp_path)
    assert str(caught.value) == (
        f"error K108: checkpoint '{tmp_path}' has no safetensors files\n"
        "hint: a checkpoint is a folder with model.safetensors, or shards and their index"
    )


def test_shards_without_an_index(folder, config):
    (folder / INDEX_NAME).unlink()
    assert problems(folder, config) == []


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_is_told_or_harmless(pristine, config, tmp_path, seed):
    """Bytes of a header or of the index changed, or a file cut short: what opens without a problem can be read."""
    rng = random.Random(seed)
    folder = shutil.copytree(pristine, tmp_path / "model")
    path = rng.choice([folder / INDEX_NAME, *folder.glob("*.safetensors")])
    content = bytearray(path.read_bytes())
    head = len(content) if path.name == INDEX_NAME else 8 + header_of(path)[0]
    if rng.random() < 0.3:
        content = content[: rng.randrange(len(content))]
    else:
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(head)] = rng.choice([rng.randrange(256), *b'0123456789[]{}",:'])
    path.write_bytes(content)
    try:
        checkpoint = Checkpoint.open(folder)
        checkpoint.require(config)
        for name in checkpoint.tensors:
            checkpoint.weight(name)
    except CheckpointError as error:
        assert str(error)


# Reading


def test_reading_rows_and_whole_tensors(pristine):
    checkpoint = Checkpoint.open(pristine)
    whole = load_file(shard_of(pristine, GIVEN))[GIVEN]
    assert torch.equal(checkpoint.raw(GIVEN), whole)
    assert torch.equal(checkpoint.weight(GIVEN, (3, 17)), whole[3:17])
    unmapped = Checkpoint.open(pristine, mapped=False)
    for name in checkpoint.tensors:
        assert torch.equal(unmapped.raw(name), checkpoint.raw(name))
        assert torch.equal(unmapped.raw(name, (1, 3)), checkpoint.raw(name, (1, 3)))


def test_reading_is_lazy(pristine, config, monkeypatch):
    """Opening and checking read no tensor but tables of integers, whose values may be ones that cannot be used."""

    read, raw = [], Checkpoint.raw
    monkeypatch.setattr(Checkpoint, "raw", lambda self, name, rows=None: (read.append(name), raw(self, name, rows))[1])
    assert Checkpoint.open(pristine).check(config) == []
    assert read == ["layers.0.ffn.gate.tid2eid", "layers.1.ffn.gate.tid2eid"]


def test_shard_that_breaks_after_opening(folder):
    for mapped in (True, False):
        checkpoint = Checkpoint.open(folder, mapped=mapped)
        path = shard_of(folder, GIVEN)
        content = path.read_bytes()
        path.write_bytes(b"")
        with pytest.raises(CheckpointError, match=rf"^tensor '{GIVEN}' cannot be read from shard '.*': "):
            checkpoint.raw(GIVEN)
        path.write_bytes(content)


# Inspection


def test_inspection_of_a_sound_checkpoint(pristine, config):
    found = inspect_checkpoint(pristine)
    assert found.fits and found.flavour == "f32" and found.config == "model"
    assert found.total.tensors == len(expected_tensors(config.values))
    assert found.total.size_bytes == sum(amount.size_bytes for amount in found.dtypes.values())
    assert found.total.size_bytes == sum(amount.size_bytes for amount in found.shards.values())
    text = str(found)
    assert text.startswith(f"checkpoint  {pristine}\nflavour     f32, by its tensors\n") and text.endswith("fits        model")
    assert json.loads(json.dumps(found.as_json()))["fits"] is True


def test_inspection_says_what_does_not_fit(folder, config):
    change(folder, "norm.weight", None)
    found = inspect_checkpoint(folder)
    assert not found.fits
    assert str(found).endswith("fits        model: no, one problem\nerror K101: tensor 'norm.weight' f32[64] is missing")
    other = inspect_checkpoint(folder, config.with_(vocab_size=95))
    assert len(other.problems) == 5


def test_inspection_without_a_configuration(folder):
    (folder / "config.json").unlink()
    found = inspect_checkpoint(folder)
    assert not found.fits and str(found).endswith("fits        not checked: no configuration")
    with pytest.raises(CheckpointError, match=r"^checkpoint '.*' has no config\.json\n"):
        require_own_config(folder)


def test_inspection_with_a_broken_configuration(folder):
    (folder / "config.json").write_text("{")
    found = inspect_checkpoint(folder)
    assert not found.fits and found.problems[0].code == "C100"
