"""Flavours of checkpoints: decoders on every code, encoders against slow searches, conversion between all of them."""

import itertools
import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DeepseekV4ForCausalLM
from transformers.models.deepseek_v4.configuration_deepseek_v4 import DeepseekV4Config

from runner.base.errors import CheckpointError
from runner.checkpoint import convert as conversion
from runner.checkpoint.checkpoint import Checkpoint
from runner.checkpoint.convert import convert
from runner.checkpoint.encodings import (
    FLAVOURS,
    decode,
    decode_fp4,
    decode_fp8,
    dequantise_rows,
    encode,
    encode_fp4,
    encode_fp8,
    quantise_rows,
    stored_tensors,
)
from runner.checkpoint.headers import INDEX_NAME
from runner.checkpoint.inspect import inspect_checkpoint
from runner.checkpoint.own_config import require_own_config
from runner.checkpoint.random import init_checkpoint
from runner.checkpoint.weights import load_weights
from runner.config.config import load_config
from runner.models.deepseek_v4 import FAMILY
from runner.models.deepseek_v4.hf_config import config_json
from runner.models.deepseek_v4.tensors import encoding, expected_tensors

SIZES = [
    "vocab_size=40",
    "hidden_size=160",
    "moe_intermediate_size=192",
    "n_routed_experts=4",
    "num_hidden_layers=2",
    "compress_ratios=[0,4]",
    "num_hash_layers=1",
]
EXPERT, DENSE = "layers.0.ffn.experts.2.w1", "layers.1.attn.wo_b"
QUANTISED = ("w8a8", "fp8", "fp8-e8m0", "fp4")


@pytest.fixture(scope="module")
def config():
    return load_config(["tiny"], SIZES)


@pytest.fixture(scope="module")
def folders(config, tmp_path_factory):
    """The same model in every flavour."""
    base = tmp_path_factory.mktemp("flavours")
    return {flavour: init_checkpoint(config, base / flavour, flavour=flavour, max_shard_bytes=400_000) for flavour in FLAVOURS}


# Every code


def e4m3(code):
    """The value of an F8_E4M3 code by its definition: bias 7, no infinities, all ones is NaN."""
    sign, exponent, mantissa = -1 if code & 0x80 else 1, (code >> 3) & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return math.nan
    return sign * (mantissa / 8 * 2**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


def e8m0(code):
    return math.nan if code == 255 else 2.0 ** (code - 127)


def e2m1(code):
    """The value of an E2M1 code by its definition: bias 1, subnormals, no special values."""
    sign, exponent, mantissa = -1 if code & 8 else 1, (code >> 1) & 3, code & 1
    return sign * (mantissa / 2 if exponent == 0 else (1 + mantissa / 2) * 2.0 ** (exponent - 1))


def same(got, expected):
    return torch.equal(got.nan_to_num(nan=-12345.0), torch.tensor(expected).float().nan_to_num(nan=-12345.0))


CODES = torch.arange(256, dtype=torch.uint8)


@pytest.mark.parametrize("scale", [torch.tensor([[0.75]]), torch.tensor([[130]], dtype=torch.uint8).view(torch.float8_e8m0fnu)])
def test_all_fp8_codes(scale):
    got = decode_fp8(CODES.view(torch.float8_e4m3fn).view(16, 16), scale).flatten()
    factor = 0.75 if scale.dtype == torch.float32 else 8.0
    assert same(got, [e4m3(code) * factor for code in range(256)])
    assert torch.equal(got.nan_to_num(), (CODES.view(torch.float8_e4m3fn).float() * factor).nan_to_num())


def test_all_fp4_codes_in_pairs():
    """Every byte: the low four bits are the even column."""
    scale = torch.full((16, 1), 127, dtype=torch.uint8).view(torch.float8_e8m0fnu)
    got = decode_fp4(CODES.view(torch.int8).view(16, 16), scale).flatten()
    assert same(got, [e2m1(code) for byte in range(256) for code in (byte & 15, byte >> 4)])


def test_all_scale_codes():
    scale = CODES.view(torch.float8_e8m0fnu).view(256, 1)
    ones = torch.full((256, 16), 0x22, dtype=torch.uint8).view(torch.int8)
    assert same(decode_fp4(ones, scale)[:, 5], [e8m0(code) for code in range(256)])
    block = torch.ones(128, 256 * 128).to(torch.float8_e4m3fn)
    assert same(decode_fp8(block, scale.view(1, 256))[7, ::128], [e8m0(code) for code in range(256)])


def test_all_int8_codes():
    got = dequantise_rows(CODES.view(torch.int8).view(2, 128), torch.tensor([0.5, 3.0]))
    assert same(got.flatten(), [code * 0.5 for code in range(128)] + [(code - 256) * 3.0 for code in range(128, 256)])


def test_block_scales_lie_where_they_should():
    codes, scale = torch.ones(300, 200).to(torch.float8_e4m3fn), torch.arange(1.0, 7.0).view(3, 2)
    got = decode_fp8(codes, scale)
    for row, column in ((0, 0), (127, 127), (128, 0), (127, 128), (255, 199), (256, 128), (299, 199)):
        assert got[row, column] == scale[row // 128, column // 128]
    assert torch.equal(decode_fp8(codes[130:290], scale[1:], 130), got[130:290])


# Encoders


def test_rows_are_scaled_to_127_and_rounded_to_even():
    codes, scale = quantise_rows(torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5], [0, 0, 0, 0, 0, 0], [-254, 3, 5, 0, 0, 1]]))
    assert scale.tolist() == [1.0, 1.0, 2.0]
    assert codes.tolist() == [[127, 0, 2, 2, 0, -2], [0] * 6, [-127, 2, 2, 0, 0, 0]]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_rows_that_are_not_finite_stay_so(value):
    codes, scale = quantise_rows(torch.tensor([[1.0, value], [1.0, 2.0]]))
    assert dequantise_rows(codes, scale).isfinite().all(dim=1).tolist() == [False, True]


def nearest(value, values):
    """Index of the nearest value; of two, the one with an even index."""
    return min(range(len(values)), key=lambda index: (abs(values[index] - value), index % 2))


def test_fp4_codes_are_the_nearest():
    magnitudes = [e2m1(code) for code in range(8)]
    weight = torch.cat((torch.arange(0, 6.01, 0.125), -torch.arange(0, 6.01, 0.125), torch.zeros(30))).view(4, 32)
    weight[:, 0] = 6.0
    packed, scale = encode_fp4(weight)
    assert scale.float().tolist() == [[1.0]] * 4
    expected = [[math.copysign(magnitudes[nearest(abs(x), magnitudes)], x) for x in row] for row in weight.tolist()]
    assert decode_fp4(packed, scale).tolist() == expected


@pytest.mark.parametrize("exponent", [-40, -1, 0, 3, 60])
def test_power_of_two_scales_are_the_least_that_hold_the_block(exponent):
    for largest, factor in ((6.0, 1), (6.0001, 2), (3.0, 0.5), (5.0, 1)):
        weight = torch.zeros(1, 32)
        weight[0, 3] = largest * 2.0**exponent
        _, scale = encode_fp4(weight)
        assert scale.float().item() == factor * 2.0**exponent
    for largest, factor in ((448.0, 1), (448.1, 2), (224.0, 0.5)):
        _, scale = encode_fp8(torch.full((2, 2), largest * 2.0**exponent), power_of_two=True)
        assert scale.float().item() == factor * 2.0**exponent


@pytest.mark.parametrize("how", QUANTISED)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_encoding_what_was_decoded_changes_nothing(how, scale):
    weight = torch.randn(200, 160, generator=torch.Generator().manual_seed(1)) * scale
    once = decode(*encode(weight, how), how)
    assert torch.equal(decode(*encode(once, how), how), once)
    bound = {"w8a8": 0.01, "fp8": 0.04, "fp8-e8m0": 0.04, "fp4": 0.15}[how]
    assert (once / scale - weight / scale).norm() < bound * (weight / scale).norm()


@pytest.mark.parametrize("how", QUANTISED)
def test_zeros_stay_zeros(how):
    codes, scale = encode(torch.zeros(130, 160), how)
    assert not decode(codes, scale, how).any()


@pytest.mark.parametrize("how", ["fp8", "fp8-e8m0"])
def test_fp8_codes_are_the_nearest(how):
    values = [e4m3(code) for code in range(127)]
    weight = torch.rand(20, 20, generator=torch.Generator().manual_seed(2)) * 300
    codes, scale = encode_fp8(weight, power_of_two=how != "fp8")
    for code, value in zip(codes.flatten().view(torch.uint8).tolist(), (weight / scale.float()).flatten().tolist(), strict=True):
        assert code == nearest(value, values)


# Flavours on disk


def test_layouts_of_the_published_flavours():
    """The examples of the model's description, for flash."""
    values = load_config(["flash"]).values
    w1 = "layers.0.ffn.experts.0.w1"

    def specs(flavour, module):
        stored = stored_tensors(FAMILY.layout, values, flavour)
        return str(stored[f"{module}.weight"]), str(stored[f"{module}.scale"])

    assert specs("fp8", w1) == ("f8e4m3[2048, 4096]", "f32[16, 32]")
    assert specs("fp8-e8m0", w1) == ("f8e4m3[2048, 4096]", "f8e8m0[16, 32]")
    assert specs("fp4", w1) == ("i8[2048, 2048]", "f8e8m0[2048, 128]")
    assert specs("fp4", "layers.0.attn.wq_b")[0] == "f8e4m3[32768, 1024]"
    assert specs("w8a8", w1) == ("i8[2048, 4096]", "f32[2048]")


def test_what_w8a8_quantises(config):
    stored = stored_tensors(FAMILY.layout, config.values, "w8a8")
    leaves = {name.split(".", 2)[2] for name, spec in stored.items() if spec.dtype == "i8"}
    experts = {f"ffn.experts.{expert}.w{i}.weight" for expert in range(4) for i in (1, 2, 3)}
    shared = {f"ffn.shared_experts.w{i}.weight" for i in (1, 2, 3)}
    assert leaves == experts | shared | {"attn.wq_b.weight", "attn.wo_b.weight", "attn.indexer.wq_b.weight"}


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_flavour_is_recognised_and_fits(folders, config, flavour):
    checkpoint = Checkpoint.open(folders[flavour])
    assert checkpoint.flavour == flavour
    assert checkpoint.check(config) == []
    assert inspect_checkpoint(folders[flavour]).fits
    assert {name: item.spec for name, item in checkpoint.tensors.items()} == stored_tensors(FAMILY.layout, config.values, flavour)


@pytest.mark.parametrize("flavour", QUANTISED)
def test_every_flavour_of_a_seed_is_the_same_model(folders, flavour):
    reference, checkpoint = Checkpoint.open(folders["bf16"]), Checkpoint.open(folders[flavour])
    for name in reference.tensors:
        before, after = reference.weight(name).double(), checkpoint.weight(name).double()
        if encoding(name, flavour) == "plain":
            assert torch.equal(before, after)
        else:
            assert 0 < (after - before).norm() < 0.15 * before.norm()


@pytest.mark.parametrize("flavour", QUANTISED)
@pytest.mark.parametrize("name", [f"{EXPERT}.weight", f"{DENSE}.weight"])
def test_rows_of_quantised_weights(folders, flavour, name):
    checkpoint = Checkpoint.open(folders[flavour])
    whole = checkpoint.weight(name)
    for rows in ((0, 5), (100, 140), (128, 160), (131, 132)):
        assert torch.equal(checkpoint.weight(name, rows), whole[rows[0] : rows[1]])


def test_transformers_runs_the_decoded_model(folders, config, tmp_path):
    """A quantised checkpoint decoded to f32 loads elsewhere, and its logits are near the full model's."""
    ids = torch.randint(0, 40, (1, 30), generator=torch.Generator().manual_seed(0))
    logits = {}
    for flavour in ("bf16", "w8a8", "fp8"):
        out = tmp_path / flavour
        convert(folders[flavour], out, config, to="f32")
        with torch.no_grad():
            logits[flavour] = DeepseekV4ForCausalLM.from_pretrained(out)(ids).logits
    for flavour, bound in (("w8a8", 0.1), ("fp8", 0.3)):
        error = (logits[flavour] - logits["bf16"]).norm() / logits["bf16"].norm()
        assert 1e-6 < error < bound


def broken(folder, tmp_path, edit):
    """A single-file copy with changed tensors."""
    tensors = {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
    edit(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    return Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("flavour", "edit", "expected"),
    [
        (
            "w8a8",
            lambda t: t.pop(f"{EXPERT}.scale"),
            [f"error K101: tensor '{EXPERT}.scale' f32[192] is missing: '{EXPERT}.weight' is i8[192, 160]"],
        ),
        (
            "fp8",
            lambda t: t.pop(f"{EXPERT}.scale"),
            [f"error K101: tensor '{EXPERT}.scale' f32[2, 2] is missing: '{EXPERT}.weight' is f8e4m3[192, 160]"],
        ),
        (
            "fp8",
            lambda t: t.update({f"{EXPERT}.scale": torch.ones(2, 1)}),
            [f"error K103: tensor '{EXPERT}.scale' is f32[2, 1], expected f32[2, 2]"],
        ),
        (
            "fp4",
            lambda t: t.update({f"{EXPERT}.weight": t[f"{EXPERT}.weight"][:, :-1]}),
            [f"error K103: tensor '{EXPERT}.weight' is i8[192, 79], expected i8[192, 80] (stored as fp4)"],
        ),
        (
            "w8a8",
            lambda t: t.update({f"{EXPERT}.scale": torch.ones(192, dtype=torch.int32)}),
            [f"error K104: tensor '{EXPERT}.scale' is i32[192], expected f32[192]"],
        ),
        (
            "bf16",
            lambda t: t.update({f"{EXPERT}.scale": torch.ones(192)}),
            [
                f"error K102: tensor '{EXPERT}.scale': scales or offsets of weights that are stored as floats; "
                "nothing tells whether they have been applied"
            ],
        ),
        (
            "bf16",
            lambda t: t.update({"embed.weight": t["embed.weight"].to(torch.float8_e4m3fn)}),
            ["error K104: tensor 'embed.weight' is f8e4m3[40, 160], expected f32[40, 160]: this one is never quantised"],
        ),
    ],
)
def test_broken_flavours(folders, config, tmp_path, flavour, edit, expected):
    assert [str(problem) for problem in broken(folders[flavour], tmp_path, edit).check(config)] == expected


def test_scales_with_a_trailing_dimension_are_accepted(folders, config, tmp_path):
    def reshape(tensors):
        for name in [name for name in tensors if name.endswith(".scale")]:
            tensors[name] = tensors[name].unsqueeze(-1)

    checkpoint = broken(folders["w8a8"], tmp_path, reshape)
    assert checkpoint.check(config) == []
    assert torch.equal(checkpoint.weight(f"{EXPERT}.weight"), Checkpoint.open(folders["w8a8"]).weight(f"{EXPERT}.weight"))


def test_fp4_needs_whole_groups_of_columns(tmp_path):
    config = load_config(["tiny"], [*SIZES, "moe_intermediate_size=40"])
    with pytest.raises(CheckpointError) as caught:
        init_checkpoint(config, tmp_path / "model", flavour="fp4")
    message = "tensor 'layers.0.ffn.experts.0.w2.weight' has 40 columns, expected a multiple of 32 in flavour fp4"
    assert str(caught.value) == message


# Conversion


@pytest.mark.parametrize(("source", "to"), list(itertools.product(FLAVOURS, FLAVOURS)))
def test_conversion_between_all_flavours(folders, config, tmp_path, source, to):
    """The result is exactly the encoding of what the source decodes to, and the report says how far that is off."""
    made = convert(folders[source], tmp_path / "out", config, to=to, dtype="bf16")
    before, after = Checkpoint.open(folders[source]), Checkpoint.open(tmp_path / "out")
    assert after.flavour == to and after.check(config) == []
    assert [error.name for error in made.errors] == list(expected_tensors(config.values))
    for error in made.errors:
        full, again = before.weight(error.name).float(), after.weight(error.name).float()
        how = encoding(error.name, to)
        if how == "plain":
            assert torch.equal(again, full.bfloat16().float() if error.stored_as == "bf16" else full)
        else:
            assert torch.equal(again, decode(*encode(full, how), how))
        assert error.relative == pytest.approx(((again - full).double().norm() / full.double().norm()).item(), rel=1e-4, abs=1e-9)
        assert error.largest == (again - full).abs().max()


def test_converting_equals_writing_that_flavour(folders, config, tmp_path):
    """bf16 weights quantised on the way, or before they were written."""
    for flavour in QUANTISED:
        convert(folders["bf16"], tmp_path / flavour, config, to=flavour)
        made, written = Checkpoint.open(tmp_path / flavour), Checkpoint.open(folders[flavour])
        assert set(made.tensors) == set(written.tensors)
        for name in written.tensors:
            assert torch.equal(made.raw(name).view(torch.uint8), written.raw(name).view(torch.uint8)), name


def test_full_precision_round_trips(folders, config, tmp_path):
    convert(folders["w8a8"], tmp_path / "full", config, to="f32")
    convert(tmp_path / "full", tmp_path / "back", config, to="w8a8", dtype="bf16")
    first, back = Checkpoint.open(folders["w8a8"]), Checkpoint.open(tmp_path / "back")
    for name in first.tensors:
        if name.endswith(".weight"):
            assert torch.equal(first.raw(name), back.raw(name)), name


def test_a_checkpoint_saved_by_transformers_converts(config, tmp_path):
    torch.manual_seed(0)
    DeepseekV4ForCausalLM(DeepseekV4Config(**config_json(config.values, "f32"))).save_pretrained(tmp_path / "theirs")
    own = require_own_config(tmp_path / "theirs")
    made = convert(tmp_path / "theirs", tmp_path / "out", own)
    assert made.flavour == "w8a8" and 0 < made.changed[0].relative < 0.02
    found = inspect_checkpoint(tmp_path / "out")
    assert found.fits and found.flavour == "w8a8"
    again = require_own_config(tmp_path / "out")
    assert (again["precision"], again["dtype"]) == ("w8a8", "f32")
    assert (tmp_path / "out" / "generation_config.json").is_file()


def test_the_draft_layer_is_copied(folders, config, tmp_path):
    source = shutil.copytree(folders["bf16"], tmp_path / "source")
    index = json.loads((source / INDEX_NAME).read_text())
    save_file({"mtp.0.attn.wq_b.weight": torch.arange(6.0).view(2, 3)}, source / "draft.safetensors")
    index["weight_map"]["mtp.0.attn.wq_b.weight"] = "draft.safetensors"
    (source / INDEX_NAME).write_text(json.dumps(index))
    convert(source, tmp_path / "out", config)
    assert torch.equal(Checkpoint.open(tmp_path / "out").raw("mtp.0.attn.wq_b.weight"), torch.arange(6.0).view(2, 3))


def test_an_interrupted_conversion_goes_on(folders, config, tmp_path):
    def stop(done, total):
        if done > total / 2:
            raise KeyboardInterrupt

    limit = {"max_shard_bytes": 300_000}
    with pytest.raises(KeyboardInterrupt):
        convert(folders["bf16"], tmp_path / "out", config, progress=stop, **limit)
    assert not (tmp_path / "out").exists()
    made = convert(folders["bf16"], tmp_path / "out", config, **limit)
    whole = convert(folders["bf16"], tmp_path / "whole", config, **limit)
    assert made.shards_kept > 1 and made.shards_written > 0 and whole.shards_kept == 0
    assert made.shards_kept + made.shards_written == whole.shards_written
    assert made.errors == whole.errors
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert all((tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in names)
    assert not (tmp_path / "out.partial").exists()


def test_a_shard_half_written_is_written_again(folders, config, tmp_path, monkeypatch):
    """Interrupted inside a tensor: what is there of the shard is not taken for the whole."""
    calls = itertools.count()

    def stop(weight, how):
        if next(calls) == 20:
            raise KeyboardInterrupt
        return encode(weight, how)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(conversion, "encode", stop)
        convert(folders["bf16"], tmp_path / "out", config)
    assert not list((tmp_path / "out.partial").glob("*.safetensors"))
    (tmp_path / "out.partial" / ".ringgraph-1-ab.partial.safetensors").write_bytes(b"of a conversion that was killed")
    with pytest.raises(CheckpointError, match=r"out.partial' is an unfinished conversion\nhint: "):
        Checkpoint.open(tmp_path / "out.partial")
    made = convert(folders["bf16"], tmp_path / "out", config)
    assert made.shards_kept == 0 and inspect_checkpoint(tmp_path / "out").fits
    assert not list((tmp_path / "out").glob(".*")) and not list((tmp_path / "out").glob("*.partial*"))


def test_another_conversion_in_the_way(folders, config, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(folders["bf16"], tmp_path / "out", config, progress=stop)
    for source, options in (("f32", {}), ("bf16", {"to": "fp8"}), ("bf16", {"max_shard_bytes": 1000})):
        with pytest.raises(CheckpointError) as caught:
            convert(folders[source], tmp_path / "out", config, **options)
        assert str(caught.value) == (
            f"'{tmp_path / 'out.partial'}' holds an unfinished conversion of another checkpoint, or to another flavour\n"
            "hint: remove it to start afresh"
        )


def test_two_conversions_at_once(folders, config, tmp_path):
    def again(done, total):
        with pytest.raises(CheckpointError, match=r"out\.partial' is in use: another conversion to it is running$"):
            convert(folders["bf16"], tmp_path / "out", config)

    convert(folders["bf16"], tmp_path / "out", config, progress=again)


def test_conversion_does_not_overwrite(folders, config, tmp_path):
    with pytest.raises(CheckpointError, match=r"w8a8' exists already\nhint: remove it, or choose another place$"):
        convert(folders["bf16"], folders["w8a8"], config)


def test_conversion_needs_a_checkpoint_that_fits(folders, config, tmp_path):
    with pytest.raises(CheckpointError, match=r"^error K103: "):
        convert(folders["bf16"], tmp_path / "out", config.with_(vocab_size=41))
    with pytest.raises(CheckpointError, match=r"^unknown flavour 'int4', expected one of f32, "):
        convert(folders["bf16"], tmp_path / "out", config, to="int4")
    with pytest.raises(CheckpointError, match=r"^unknown dtype 'f16' of plain weights, expected f32 or bf16$"):
        convert(folders["bf16"], tmp_path / "out", config, dtype="f16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_named(folders, config, tmp_path, value):
    def edit(tensors):
        tensors[f"{EXPERT}.weight"][3, 5] = value
        tensors["norm.weight"][0] = value

    broken(folders["bf16"], tmp_path, edit)
    with pytest.raises(CheckpointError) as caught:
        convert(tmp_path, tmp_path / "out", config)
    assert str(caught.value) == (
        f"error K110: tensor '{EXPERT}.weight' has values that are not finite\n"
        "error K110: tensor 'norm.weight' has values that are not finite"
    )


def test_conversion_holds_a_few_rows_only(config, folders, tmp_path, monkeypatch):
    """With pieces of 128 rows, nothing larger is ever encoded, and the result is the same."""
    largest = 0

    def watch(weight, how):
        nonlocal largest
        largest = max(largest, weight.shape[0])
        return encode(weight, how)

    monkeypatch.setattr(conversion, "encode", watch)
    monkeypatch.setattr(conversion, "PIECE_BYTES", 1)
    convert(folders["bf16"], tmp_path / "out", config, to="fp8")
    assert largest == 128
    made, written = Checkpoint.open(tmp_path / "out"), Checkpoint.open(folders["fp8"])
    assert all(torch.equal(made.weight(name), written.weight(name)) for name in written.tensors if name.endswith(".weight"))


# Weights of programs


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "i8"])
def test_programs_take_any_flavour(folders, config, flavour, dtype):
    from test_weights import program, weight

    made = program(
        weight("layers.0.ffn.experts.{expert}.w1.weight", dtype, 2, 192, 160, stack="expert"),
        weight("layers.0.ffn.experts.{expert}.w1.scale", "f32", 2, 192, stack="expert"),
        weight(f"{DENSE}.weight", dtype, 160, 32),
        weight(f"{DENSE}.scale", "f32", 160),
    )
    checkpoint = Checkpoint.open(folders[flavour])
    got = load_weights(made, checkpoint, config, rank=1, size=2)
    experts = torch.stack([checkpoint.weight(f"layers.0.ffn.experts.{expert}.w1.weight").float() for expert in (2, 3)])
    for codes, scale, full in ((got[0], got[1], experts), (got[2], got[3], checkpoint.weight(f"{DENSE}.weight").float())):
        value = codes.float() * scale[..., None]
        if dtype == "i8":
            assert (value - full).abs().max() <= full.abs().max() / 127 / 2 * 1.001
            assert flavour != "w8a8" or torch.equal(value, full)
        else:
            assert torch.equal(value, full.bfloat16().float() if dtype == "bf16" else full)
