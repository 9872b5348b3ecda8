"""Weights of hand-made programs out of checkpoints: stacked, sharded, converted; and what is refused."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from runner.base.errors import CheckpointError, Mark
from runner.base.tensor_spec import TensorSpec
from runner.checkpoint.checkpoint import Checkpoint
from runner.checkpoint.random import init_checkpoint
from runner.checkpoint.weights import load_weights
from runner.config.config import load_config
from runner.program.program import Program, Span, Task, Tensor, Trips

SIZES = ["vocab_size=95", "n_routed_experts=8", "num_hidden_layers=2", "compress_ratios=[0,4]", "num_hash_layers=1"]
W1 = "layers.0.ffn.experts.{expert}.w1"
WQ_B = "layers.1.attn.wq_b"


@pytest.fixture(scope="module")
def config():
    return load_config(["tiny"], SIZES)


@pytest.fixture(scope="module")
def folder(config, tmp_path_factory):
    return init_checkpoint(config, tmp_path_factory.mktemp("weights") / "model", flavour="f32")


@pytest.fixture(scope="module")
def stored(folder):
    """Every tensor, read by safetensors itself."""
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def weight(source, dtype, *shape, name="w", **outside):
    return name, TensorSpec(dtype, shape), "weight", source, outside


def program(*weights, reads=None):
    """One task that reads all weights."""
    tensors = tuple(
        Tensor(number, name, spec, kind, source, Mark("graph.yaml", number + 1), **outside)
        for number, (name, spec, kind, source, outside) in enumerate(weights)
    )
    reads = tuple(range(len(tensors))) if reads is None else reads
    return Program("p", tensors, (Task(0, "t", None, reads=reads),), Span("root", "", (0,)))


def load(folder, config, *weights, **options):
    found = load_weights(program(*weights), Checkpoint.open(folder), config, **options)
    return [found[number] for number in range(len(weights))]


def refused(folder, config, *weights, **options):
    with pytest.raises(CheckpointError) as caught:
        load(folder, config, *weights, **options)
    return str(caught.value).split("\n")


def test_weights_as_they_are(folder, config, stored):
    got = load(
        folder,
        config,
        weight("embed.weight", "f32", 95, 64),
        weight("hc_head_scale", "f32", 1),
        weight("layers.0.hc_attn_fn", "f32", 24, 256),
    )
    for tensor, name in zip(got, ("embed.weight", "hc_head_scale", "layers.0.hc_attn_fn"), strict=True):
        assert torch.equal(tensor, stored[name])


def test_a_source_is_a_name_on_disk_before_it_is_the_familys(config, tmp_path, stored):
    """Whatever a family would make of it: a prefix that it takes away, a part that it renames, experts that are stacked."""
    tensors = {"model.w": torch.randn(3, 4), "lm_head.weight": torch.randn(95, 64), "model.hc_head.hc_scale": torch.randn(1)}
    tensors |= {
        f"model.layers.0.ffn.experts.{expert}.w1.weight": stored[f"{W1}.weight".format(expert=expert)] for expert in range(8)
    }
    save_file(tensors, tmp_path / "model.safetensors")
    got = load(
        tmp_path,
        config,
        weight("model.w", "f32", 3, 4),
        weight("w", "f32", 3, 4),
        weight("lm_head.weight", "f32", 95, 64),
        weight("head.weight", "f32", 48, 64, shard=0),
        weight("lm_head.weight", "f32", 48, 64, shard=0),
        weight("model.hc_head.hc_scale", "f32", 1),
        weight(f"model.{W1}.weight", "f32", 4, 32, 64, stack="expert"),
        weight(f"{W1}.weight", "f32", 4, 32, 64, stack="expert"),
        size=2,
    )
    experts = torch.stack([tensors[f"model.layers.0.ffn.experts.{expert}.w1.weight"] for expert in range(4)])
    head = tensors["lm_head.weight"]
    expected = [tensors["model.w"]] * 2 + [head, head[:48], head[:48], tensors["model.hc_head.hc_scale"], experts, experts]
    for tensor, value in zip(got, expected, strict=True):
        assert torch.equal(tensor, value)
    assert refused(tmp_path, config, weight("model.v", "f32", 3, 4)) == ["error K101: tensor 'model.v' f32[3, 4] is missing"]


def test_dtypes_are_converted(folder, config, stored):
    bf16, table = load(folder, config, weight("head.weight", "bf16", 95, 64), weight("layers.0.ffn.gate.tid2eid", "i32", 95, 3))
    assert torch.equal(bf16, stored["head.weight"].bfloat16())
    assert table.dtype == torch.int32 and torch.equal(table.long(), stored["layers.0.ffn.gate.tid2eid"])


def test_a_weight_declared_with_more_dimensions(folder, config, stored):
    (grouped,) = load(folder, config, weight("layers.0.attn.wo_a.weight", "f32", 2, 16, 64))
    assert torch.equal(grouped.flatten(0, 1), stored["layers.0.attn.wo_a.weight"])


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_experts_are_stacked_by_rank(folder, config, stored, size):
    held = 8 // size
    for rank in range(size):
        (got,) = load(folder, config, weight(f"{W1}.weight", "f32", held, 32, 64, stack="expert"), rank=rank, size=size)
        expected = [stored[f"layers.0.ffn.experts.{expert}.w1.weight"] for expert in range(rank * held, (rank + 1) * held)]
        assert torch.equal(got, torch.stack(expected))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 90])
def test_the_head_is_sharded_and_padded(folder, config, stored, size):
    held = -(-95 // size)
    parts = [
        load(folder, config, weight("head.weight", "f32", held, 64, shard=0), rank=rank, size=size)[0] for rank in range(size)
    ]
    joined = torch.cat(parts)
    assert torch.equal(joined[:95], stored["head.weight"])
    assert not joined[95:].any()


def test_sharding_another_dimension(folder, config, stored):
    parts = [
        load(folder, config, weight("layers.0.attn.wq_a.weight", "f32", 32, 22, shard=1), rank=rank, size=3)[0]
        for rank in range(3)
    ]
    joined = torch.cat(parts, 1)
    assert torch.equal(joined[:, :64], stored["layers.0.attn.wq_a.weight"]) and not joined[:, 64:].any()


def test_scales_are_ones_in_full_precision(folder, config):
    for dtype in ("f32", "bf16"):
        _, scale = load(folder, config, weight(f"{WQ_B}.weight", dtype, 128, 32), weight(f"{WQ_B}.scale", "f32", 128))
        assert scale.dtype == torch.float32 and torch.equal(scale, torch.ones(128))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_int8_from_a_full_precision_checkpoint(folder, config, stored, order):
    """Scale amax / 127 of every row; every code the nearest one, ties to even."""
    both = [
        weight(f"{W1}.weight", "i8", 4, 32, 64, stack="expert"),
        weight(f"{W1}.scale", "f32", 4, 32, stack="expert"),
    ]
    got = load(folder, config, *(both[place] for place in order), rank=1, size=2)
    codes, scale = (got[order.index(place)] for place in (0, 1))
    full = torch.stack([stored[f"layers.0.ffn.experts.{expert}.w1.weight"] for expert in range(4, 8)])
    assert torch.equal(scale, full.abs().amax(-1) / 127)
    assert codes.dtype == torch.int8 and codes.abs().amax(-1).eq(127).all()
    assert torch.equal(codes.float(), (full / scale[..., None]).round())


def test_int8_with_more_dimensions_keeps_its_scales(folder, config, stored):
    codes, scale = load(folder, config, weight(f"{WQ_B}.weight", "i8", 4, 32, 32), weight(f"{WQ_B}.scale", "f32", 4, 32))
    error = codes * scale[..., None] - stored[f"{WQ_B}.weight"].view(4, 32, 32)
    assert error.abs().max() <= scale.max() / 2 * 1.0001


def test_only_what_tasks_touch_is_read(folder, config):
    weights = (weight("nowhere", "f32", 3), weight("norm.weight", "f32", 64))
    assert list(load_weights(program(*weights, reads=(1,)), Checkpoint.open(folder), config)) == [1]


def test_what_only_a_trip_count_reads(folder, config):
    made = program(weight("norm.weight", "f32", 64), reads=())
    trips = Trips("t", (0,), (), 1, lambda read: 1)
    made = Program("p", made.tensors, (), Span("root", "", (Span("dynamic", "", (), trips=trips),)))
    assert list(load_weights(made, Checkpoint.open(folder), config)) == [0]


def test_each_rank_reads_its_part_only(folder, config, monkeypatch):
    read = []
    raw = Checkpoint.raw
    monkeypatch.setattr(Checkpoint, "raw", lambda self, name, rows=None: (read.append((name, rows)), raw(self, name, rows))[1])
    weights = (weight(f"{W1}.weight", "f32", 2, 32, 64, stack="expert"), weight("head.weight", "f32", 24, 64, shard=0))
    load(folder, config, *weights, rank=2, size=4)
    assert read == [
        ("layers.0.ffn.experts.4.w1.weight", None),
        ("layers.0.ffn.experts.5.w1.weight", None),
        ("head.weight", (48, 72)),
    ]


def test_programs_share_what_they_both_use(folder, config):
    loaded = {}
    (first,) = load(folder, config, weight("embed.weight", "bf16", 95, 64), loaded=loaded)
    (second,) = load(folder, config, weight("embed.weight", "bf16", 95, 64), loaded=loaded)
    (other,) = load(folder, config, weight("embed.weight", "f32", 95, 64), loaded=loaded)
    assert first is second and other is not first


def test_progress_counts_bytes(folder, config):
    calls = []
    weights = (weight("embed.weight", "f32", 95, 64), weight("norm.weight", "f32", 64))
    load(folder, config, *weights, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(95 * 64 * 4, 96 * 64 * 4), (96 * 64 * 4, 96 * 64 * 4)]


# Refusals


def test_declarations_that_contradict_the_model_are_all_named(folder, config):
    found = refused(
        folder,
        config,
        weight("nowhere.weight", "f32", 3, name="a"),
        weight("embed.weight", "f32", 95, 65, name="b"),
        weight("head.weight", "f32", 40, 64, name="c", shard=0),
        weight("norm.weight", "i32", 64, name="d"),
        weight("layers.0.ffn.gate.tid2eid", "f32", 95, 3, name="e"),
        weight(f"{W1}.weight", "f32", 4, 32, 65, name="f", stack="expert"),
        weight(f"{WQ_B}.weight", "f32", 32, 128, name="g"),
        rank=0,
        size=2,
    )
    assert found == [
        "error K101: tensor 'nowhere.weight' f32[3] is missing",
        "graph.yaml:2:1: error K109: weight 'b' is declared f32[95, 65], but tensor 'embed.weight' is f32[95, 64]",
        "graph.yaml:3:1: error K109: weight 'c' is declared f32[40, 64], but tensor 'head.weight' is f32[95, 64],"
        " of which rank 0 of 2 holds [48, 64]",
        "graph.yaml:4:1: error K109: weight 'd' is declared i32[64], but tensor 'norm.weight' is f32[64]",
        "graph.yaml:5:1: error K109: weight 'e' is declared f32[95, 3], but tensor 'layers.0.ffn.gate.tid2eid' is i64[95, 3]",
        *(
            "graph.yaml:6:1: error K109: weight 'f' is declared f32[4, 32, 65],"
            f" but tensor 'layers.0.ffn.experts.{expert}.w1.weight' is f32[32, 64]"
            for expert in range(4)
        ),
        f"graph.yaml:7:1: error K109: weight 'g' is declared f32[32, 128], but tensor '{WQ_B}.weight' is f32[128, 32]",
    ]


def test_what_is_missing_or_wrong_in_the_checkpoint(config, tmp_path, stored):
    tensors = dict(stored)
    del tensors["layers.0.ffn.experts.3.w1.weight"]
    tensors[f"{WQ_B}.weight"] = torch.zeros(128, 31)
    tensors["norm.weight"] = torch.zeros(64, dtype=torch.int8)
    tensors["layers.0.attn.wq_b.weight"] = torch.zeros(128, 32, dtype=torch.int8)
    save_file(tensors, tmp_path / "model.safetensors")
    found = refused(
        tmp_path,
        config,
        weight(f"{W1}.weight", "f32", 8, 32, 64, stack="expert"),
        weight(f"{WQ_B}.weight", "i8", 128, 32),
        weight(f"{WQ_B}.scale", "f32", 128),
        weight("norm.weight", "f32", 64),
        weight("layers.0.attn.wq_b.weight", "f32", 128, 32),
    )
    assert found == [
        "error K101: tensor 'layers.0.ffn.experts.3.w1.weight' f32[32, 64] is missing",
        f"error K103: tensor '{WQ_B}.weight' is f32[128, 31], expected f32[128, 32]",
        "error K104: tensor 'norm.weight' is i8[64], expected f32[64]: this one is never quantised",
        "error K101: tensor 'layers.0.attn.wq_b.scale' f32[128] is missing: 'layers.0.attn.wq_b.weight' is i8[128, 32]",
    ]


def test_broken_files_are_told_too(config, tmp_path, stored):
    save_file(dict(stored), tmp_path / "model.safetensors")
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    (line, *_) = refused(tmp_path, config, weight("norm.weight", "f32", 64))
    assert line.startswith("error K105: tensor '") and " is truncated: it ends at byte " in line


def test_expert_ids_out_of_range(config, tmp_path, stored):
    tensors = dict(stored)
    tensors["layers.0.ffn.gate.tid2eid"] = tensors["layers.0.ffn.gate.tid2eid"].clone()
    tensors["layers.0.ffn.gate.tid2eid"][5, 1] = 8
    save_file(tensors, tmp_path / "model.safetensors")
    assert refused(tmp_path, config, weight("layers.0.ffn.gate.tid2eid", "i32", 95, 3)) == [
        "error K110: tensor 'layers.0.ffn.gate.tid2eid' has 8, expected experts from 0 to 7"
    ]
