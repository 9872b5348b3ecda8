"""Checkpoints as other tools write them: read as they are meant, or refused by name in one finding; never taken for another."""

import functools
import itertools
import json
import random
import re
import shutil
import struct

import pytest
import torch
from other_tools import (
    DESCRIPTION,
    INDEX,
    INT8,
    SHARD,
    as_compressed_tensors,
    as_modelslim,
    change_config,
    computed,
    description,
    same_files,
    tensors_of,
    written_again,
)
from safetensors.torch import save_file
from sampled import sampled

from runner.base.errors import CheckpointError, ConfigError
from runner.base.tensor_spec import DTYPE_BYTES, TensorSpec
from runner.checkpoint.checkpoint import Checkpoint
from runner.checkpoint.convert import convert
from runner.checkpoint.encodings import encode
from runner.checkpoint.headers import INDEX_NAME, OTHER_BITS, Stored
from runner.checkpoint.inspect import inspect_checkpoint
from runner.checkpoint.own_config import require_own_config
from runner.checkpoint.random import init_checkpoint
from runner.checkpoint.stored import how_stored
from runner.config.config import load_config
from runner.driver.driver import resolve
from runner.models.deepseek_v4.tensors import encoding, expected_tensors

pytestmark = pytest.mark.usefixtures("same_programs")

SIZES = ["vocab_size=64", "n_routed_experts=4", "num_hidden_layers=3", "compress_ratios=[0,4,128]", "num_hash_layers=1"]
EXPERT = "layers.0.ffn.experts.2.w1"


@pytest.fixture(scope="module")
def config():
    return load_config(["tiny"], SIZES)


@pytest.fixture(scope="module")
def folders(config, tmp_path_factory):
    base = tmp_path_factory.mktemp("tools")
    return {flavour: init_checkpoint(config, base / flavour, flavour=flavour) for flavour in ("bf16", "w8a8", "fp8-e8m0", "fp4")}


@pytest.fixture(scope="module")
def expected(folders):
    """Tokens and logits of our own spelling."""
    return {flavour: computed(folder) for flavour, folder in folders.items()}


@pytest.fixture(scope="module")
def known():
    """What folders compute that no test changes, each worked out once."""
    return functools.cache(computed)


@pytest.fixture(scope="module")
def converted(folders, tmp_path_factory):
    """Folders of our own spelling converted to a flavour, each once."""
    out = tmp_path_factory.mktemp("converted")

    @functools.cache
    def folder(flavour, to):
        ours = folders[flavour]
        return convert(ours, out / f"{flavour}-{to}", require_own_config(ours), to=to).folder

    return folder


def problems(folder):
    """What `inspect` finds; with a configuration, `generate` and `convert` refuse for the same."""
    found = [str(problem) for problem in inspect_checkpoint(folder).problems]
    with pytest.raises(CheckpointError) as refused:
        convert(folder, folder.parent / "refused", require_own_config(folder), to="f32")
    assert str(refused.value).splitlines() == "\n".join(found).splitlines()
    with pytest.raises(CheckpointError) as refused:
        computed(folder)
    assert str(refused.value).splitlines() == "\n".join(found).splitlines()
    return found


def same(got, wanted):
    return got[0] == wanted[0] and torch.equal(got[1], wanted[1])


# Ascend's ModelSlim

LAYOUTS = [
    {},
    {"offset": None},
    {"offset": torch.int8},
    {"offset": torch.bfloat16, "column": False},
    {"described": False},
    {"offset": None, "described": False},
    {"offset": None, "described": False, "column": False, "index": None},
    {"zero_point": ".weight_zero_point", "described": False, "index": None},
    {"index": INDEX_NAME},
    {"index": None},
]


def named(layout):
    return "-".join(f"{key}={value}" for key, value in layout.items())


@pytest.mark.parametrize("layout", sampled(LAYOUTS, LAYOUTS[::3] + LAYOUTS[7:8]), ids=named)
def test_int8_of_other_tools_is_w8a8(folders, converted, tmp_path, layout):
    """The same conversions, byte for byte, as from our own spelling."""
    theirs = as_modelslim(folders["w8a8"], tmp_path / "theirs", **layout)
    found = inspect_checkpoint(theirs)
    assert found.problems == () and (found.flavour, found.runs_as) == ("w8a8", "w8a8")
    says = f"{DESCRIPTION} and its tensors" if layout.get("described", True) else "its tensors"
    assert f"\nflavour     w8a8, by {says}\n" in str(found)
    for flavour in ("w8a8", "fp8"):
        made = convert(theirs, tmp_path / flavour, require_own_config(theirs), to=flavour).folder
        assert same_files(made, converted("w8a8", flavour))


@pytest.mark.parametrize("layout", sampled(LAYOUTS, (LAYOUTS[0], LAYOUTS[3], LAYOUTS[7])), ids=named)
def test_int8_of_other_tools_computes_what_w8a8_does(folders, expected, tmp_path, layout):
    """The same logits, bit for bit, as in our own spelling."""
    assert same(computed(as_modelslim(folders["w8a8"], tmp_path / "theirs", **layout)), expected["w8a8"])


# compressed-tensors


@pytest.fixture(scope="module", params=["deepseek", "qwen3"])
def w8a8(request, folders, tmp_path_factory):
    """A W8A8 checkpoint of each of the two readers of `config.json`."""
    if request.param == "deepseek":
        return folders["w8a8"]
    config = load_config(["qwen3-tiny"], ["precision=w8a8", "num_hidden_layers=2"])
    return init_checkpoint(config, tmp_path_factory.mktemp("qwen3") / "w8a8", flavour="w8a8")


def test_int8_activations_of_compressed_tensors_run_as_w8a8(w8a8, known, tmp_path):
    theirs = as_compressed_tensors(w8a8, tmp_path / "theirs")
    found = inspect_checkpoint(theirs)
    assert found.problems == () and (found.flavour, found.runs_as) == ("w8a8", "w8a8")
    assert resolve([str(theirs)]).origin("precision").startswith(f"{theirs}")
    assert same(computed(theirs), known(w8a8))


@pytest.mark.parametrize("activations", [None, INT8 | {"type": "float"}])
def test_activations_that_no_description_quantises_stay_as_they_are(w8a8, known, tmp_path, activations):
    """Weights in INT8 alone: the codes are decoded, though codes without a description run as W8A8."""
    theirs = as_compressed_tensors(w8a8, tmp_path / "theirs", activations)
    assert inspect_checkpoint(theirs).runs_as in ("f32", "bf16")
    assert same(computed(theirs), known(w8a8, "precision=full"))


@pytest.mark.parametrize(
    ("activations", "keys", "message"),
    [
        (INT8 | {"num_bits": 4}, {}, "has input_activations with num_bits 4 (an integer), expected 8"),
        (INT8 | {"dynamic": False}, {}, "has input_activations with scales that were fixed in advance, which are not supported"),
        (INT8 | {"strategy": "tensor"}, {}, "has input_activations with strategy 'tensor' (a string), expected 'token'"),
        (INT8 | {"symmetric": False}, {}, "has input_activations with zero points, which are not supported"),
        (INT8, {"transform_config": {"config_groups": {"R1": {}}}}, "has a transform_config: transforms of activations are not"),
        (
            INT8,
            {"config_groups": {"group_0": {"output_activations": INT8}}},
            "has output_activations: results that are quantised",
        ),
        (INT8, {"config_groups": [1]}, "for config_groups, expected an object of objects"),
        (INT8, {"config_groups": {"group_0": 1}}, "for config_groups, expected an object of objects"),
        (INT8, {"quant_method": 8}, "has 8 (an integer) for quant_method, expected a string or null"),
    ],
)
def test_activations_that_cannot_be_quantised_so_are_refused(w8a8, tmp_path, activations, keys, message):
    theirs = as_compressed_tensors(w8a8, tmp_path / "theirs", activations, **keys)
    with pytest.raises(ConfigError, match=re.escape(message)) as refused:
        require_own_config(theirs)
    assert f"{theirs / 'config.json'}:1:" in str(refused.value) and "error C102: 'quantization_config' has" in str(refused.value)


def test_scales_beside_weights_that_were_decoded_are_one_finding(w8a8, tmp_path):
    def decode(tensors):
        for name, codes in tensors.items():
            if codes.dtype == torch.int8:
                tensors[name] = codes.float() * tensors[f"{name}_scale"]

    theirs = written_again(as_compressed_tensors(w8a8, tmp_path / "theirs"), tmp_path / "decoded", decode)
    change_config(theirs, quantization_config=None)
    (found,) = problems(theirs)
    assert re.search(r"^error K102: tensor '.*' and \d+ more: scales or offsets of weights that are stored as floats", found)


def test_what_is_asked_for_wins_over_what_the_tensors_say(folders, expected, known, tmp_path):
    theirs = as_modelslim(folders["w8a8"], tmp_path / "theirs")
    full = computed(theirs, "precision=full")
    assert same(full, known(folders["w8a8"], "precision=full")) and not torch.equal(full[1], expected["w8a8"][1])
    said = resolve([str(theirs)])
    assert said["precision"] == "w8a8" and said.origin("precision") == f"tensors of '{theirs}'"


def test_generate_says_what_it_runs(folders, tmp_path, call):
    theirs = as_modelslim(folders["w8a8"], tmp_path / "theirs")
    arguments = ("generate", "--checkpoint", theirs, "--prompt-ids", "1,2", "--max-new-tokens", 1)
    words = " ".join(call(*arguments)[1].split())  # a narrow terminal folds the row
    assert "w8a8 by quant_model_description.json and its tensors; runs as w8a8" in words
    told = json.loads(call(*arguments, "--json")[1])
    assert (told["flavour"], told["flavour_source"], told["runs_as"]) == ("w8a8", f"{DESCRIPTION} and its tensors", "w8a8")


def changed(tensors, name, value):
    tensors[name] = value(tensors[name]) if name in tensors else value(None)


SCALE, OFFSET, WEIGHT = f"{EXPERT}.weight_scale", f"{EXPERT}.weight_offset", f"{EXPERT}.weight"
ASYMMETRIC = (
    f"error K110: tensor '{OFFSET}': values that are not zero; asymmetric INT8 is not supported\n"
    "hint: quantise symmetrically, or give the unquantised checkpoint"
)
STATIC = "activations with scales fixed in advance are not supported"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (OFFSET, lambda t: t.index_fill(0, torch.tensor([3]), 1.0), ASYMMETRIC),
        (OFFSET, lambda t: t.index_fill(0, torch.tensor([3]), float("nan")), ASYMMETRIC),
        (OFFSET, lambda t: t.to(torch.int8).index_fill(0, torch.tensor([31]), -1), ASYMMETRIC),
        (OFFSET, lambda t: t[1:], f"error K103: tensor '{OFFSET}' is f32[31, 1], expected f32[32]"),
        (OFFSET, lambda t: t.bool(), f"error K104: tensor '{OFFSET}' is bool[32, 1], expected f32[32]"),
        (SCALE, lambda t: t.T, f"error K103: tensor '{EXPERT}.scale' is f32[1, 32], expected f32[32]"),
        (SCALE, lambda t: t[:1], f"error K103: tensor '{EXPERT}.scale' is f32[1, 1], expected f32[32]"),
        (SCALE, lambda t: t.repeat(1, 2), f"error K103: tensor '{EXPERT}.scale' is f32[32, 2], expected f32[32]"),
        (SCALE, lambda t: t.byte(), f"error K104: tensor '{EXPERT}.scale' is u8[32, 1], expected f32[32]"),
        (
            WEIGHT,
            lambda t: t.view(torch.uint8),
            f"error K104: tensor '{WEIGHT}' is u8[32, 64], expected i8[32, 64]: 8-bit codes have a sign",
        ),
        (
            f"{EXPERT}.input_scale",
            lambda t: torch.ones(1),
            f"error K102: tensor '{EXPERT}.input_scale': {STATIC}",
        ),
        (
            "norm.weight_offset",
            lambda t: torch.zeros(64),
            "error K102: tensor 'norm.weight_offset' f32[64] is not part of the model",
        ),
    ],
)
def test_other_int8_is_refused_by_name(folders, tmp_path, name, value, message):
    theirs = as_modelslim(folders["w8a8"], tmp_path / "theirs", index=None, described=False)
    broken = written_again(theirs, tmp_path / "broken", lambda tensors: changed(tensors, name, value))
    assert problems(broken) == [message]


def test_a_missing_scale_is_named(folders, tmp_path):
    def drop(tensors):
        del tensors[SCALE]

    theirs = written_again(as_modelslim(folders["w8a8"], tmp_path / "theirs", index=None, described=False), tmp_path / "b", drop)
    assert problems(theirs) == [f"error K101: tensor '{EXPERT}.scale' f32[32] is missing: '{WEIGHT}' is i8[32, 64]"]


def test_one_finding_for_what_is_alike(folders, tmp_path):
    """All zero points are not zero, all activations have scales: a finding each, not hundreds."""

    def edit(tensors):
        for name in [name for name in tensors if name.endswith(".weight_offset")]:
            tensors[name] = torch.ones_like(tensors[name])
            tensors[name.replace(".weight_offset", ".input_scale")] = torch.ones(1)
            tensors[name.replace(".weight_offset", ".deq_scale")] = torch.ones(1)

    theirs = as_modelslim(folders["w8a8"], tmp_path / "theirs", index=None, described=False)
    found = problems(written_again(theirs, tmp_path / "broken", edit))
    count = sum(name.endswith(".weight_offset") for name in tensors_of(theirs))
    assert len(found) == 2 and count > 20
    assert found[0].endswith(f".deq_scale' and {2 * count - 1} more: {STATIC}")
    assert f".weight_offset' and {count - 1} more: values that are not zero;" in found[1]


@pytest.mark.parametrize(
    ("edit", "messages"),
    [
        (
            lambda d: d.update({WEIGHT: "FLOAT"}),
            [f"error K112: tensor '{WEIGHT}': '{DESCRIPTION}' says FLOAT, but the tensors are stored w8a8"],
        ),
        (
            lambda d: d.update({"head.weight": "W8A8_DYNAMIC"}),
            [f"error K112: tensor 'head.weight': '{DESCRIPTION}' says W8A8_DYNAMIC, but the tensors are stored plain"],
        ),
        (
            lambda d: d.update({WEIGHT: "W4A8_DYNAMIC", f"{EXPERT[:-1]}3.weight": "W4A8_DYNAMIC"}),
            [
                f"error K112: tensor '{WEIGHT}' and 1 more: '{DESCRIPTION}' says W4A8_DYNAMIC, which is not supported,"
                " expected FLOAT or W8A8_DYNAMIC"
            ],
        ),
        (
            lambda d: d.update({WEIGHT: 8}),
            [f"error K112: tensor '{WEIGHT}': '{DESCRIPTION}' says 8, which is not supported, expected FLOAT or W8A8_DYNAMIC"],
        ),
        (
            lambda d: [d.pop(name) for name in list(d) if "." in name] and d.update(model_quant_type="W8A16"),
            [f"error K112: the whole: '{DESCRIPTION}' says W8A16, which is not supported, expected FLOAT or W8A8_DYNAMIC"],
        ),
        (
            lambda d: [d.pop(name) for name in list(d) if "." in name] and d.update(model_quant_type="FLOAT"),
            [f"error K112: the whole: '{DESCRIPTION}' says FLOAT, but the tensors are stored w8a8"],
        ),
        (lambda d: [d.pop(name) for name in list(d) if "." in name], []),
        (lambda d: d.update({"model.layers.0.ffn.experts.2.w1.weight": d.pop(WEIGHT)}), []),
        (lambda d: d.update(nothing="W4A8_DYNAMIC"), []),
        (lambda d: d.clear(), []),
    ],
)
def test_a_description_is_held_against_the_tensors(folders, tmp_path, edit, messages):
    theirs = as_modelslim(folders["w8a8"], tmp_path / "theirs")
    said = json.loads((theirs / DESCRIPTION).read_text())
    edit(said)
    (theirs / DESCRIPTION).write_text(json.dumps(said))
    if messages:
        assert problems(theirs) == messages
    else:
        assert inspect_checkpoint(theirs).fits


def test_a_description_of_a_checkpoint_that_is_not_quantised(folders, tmp_path):
    plain = written_again(folders["bf16"], tmp_path / "plain")
    (plain / DESCRIPTION).write_text(json.dumps({"model_quant_type": "W8A8_DYNAMIC"}))
    assert problems(plain) == [f"error K112: the whole: '{DESCRIPTION}' says W8A8_DYNAMIC, but the tensors are stored plain"]
    (plain / DESCRIPTION).write_text(json.dumps(description(tensors_of(plain)) | {"model_quant_type": "FLOAT"}))
    assert inspect_checkpoint(plain).fits


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({DESCRIPTION: "{"}, f"DIR/{DESCRIPTION}:1:2: not JSON: Expecting property name enclosed in double quotes"),
        ({DESCRIPTION: "[]"}, f"error K112: description 'DIR/{DESCRIPTION}' cannot be read: it is not a JSON object"),
        (
            {"quant_model_description_w8a8.json": "{}"},
            f"error K112: checkpoint 'DIR' is described 2 times: '{DESCRIPTION}', 'quant_model_description_w8a8.json',"
            " expected once",
        ),
        (
            {"more.safetensors.index.json": "{}"},
            f"error K107: checkpoint 'DIR' has several indexes: 'more.safetensors.index.json', '{INDEX}', expected one",
        ),
        (
            {INDEX: json.dumps({"weight_map": {"norm.weight": "a.safetensors", "head.weight": "b.safetensors"}})},
            "error K106: checkpoint 'DIR' has none of the 2 shards that its index lists, such as 'a.safetensors'\n"
            f"hint: '{SHARD}' is there; if it is a shard of this checkpoint, the index is of another one",
        ),
    ],
)
def test_files_beside_the_tensors(folders, tmp_path, files, message):
    theirs = as_modelslim(folders["w8a8"], tmp_path / "theirs")
    for name, text in files.items():
        (theirs / name).write_text(text)
    with pytest.raises(CheckpointError) as refused:
        inspect_checkpoint(theirs)
    assert str(refused.value) == message.replace("DIR", str(theirs))


# FP4, and scales in other dtypes


def stored_otherwise(kind):
    """An edit that stores an FP4 checkpoint's codes or scales in other dtypes."""

    def edit(tensors):
        for name, value in tensors.items():
            if name.endswith(".weight") and value.dtype == torch.int8:
                codes = {"f4": value.view(torch.float4_e2m1fn_x2), "u8": value.view(torch.uint8)}
                tensors[name] = codes.get(kind.partition("+")[0], value)
            elif value.dtype == torch.float8_e8m0fnu:
                scales = {"u8": value.view(torch.uint8), "f32": value.float(), "bf16": value.bfloat16()}
                tensors[name] = scales.get(kind.partition("+")[2], value)

    return edit


KINDS = [f"{codes}+{scale}" for codes in ("f4", "u8", "i8") for scale in ("e8m0", "u8", "f32", "bf16")]


@pytest.mark.parametrize("kind", sampled(KINDS, ("f4+e8m0", "u8+u8", "i8+f32", "f4+bf16")))
def test_fp4_in_other_dtypes(folders, converted, tmp_path, kind):
    """Narrow weights too: a scale of one column is that of INT8 rows as well, and the model's columns tell."""
    theirs = written_again(folders["fp4"], tmp_path / "theirs", stored_otherwise(kind))
    narrow = tensors_of(theirs)["layers.0.ffn.experts.0.w2.scale"]
    assert narrow.shape[-1] == 1
    found = inspect_checkpoint(theirs)
    assert found.problems == () and (found.flavour, found.runs_as) == ("fp4", "bf16")
    made = convert(theirs, tmp_path / "again", require_own_config(theirs), to="fp4").folder
    if not kind.endswith(("f32", "bf16")):
        assert same_files(made, converted("fp4", "fp4"))
    ours, theirs = Checkpoint.open(folders["fp4"]), Checkpoint.open(theirs).of(load_config([theirs]))
    for rows in (None, (3, 17)):
        assert torch.equal(theirs.weight(f"{EXPERT}.weight", rows), ours.weight(f"{EXPERT}.weight", rows))


@pytest.mark.parametrize("kind", sampled(KINDS, ("f4+f32", "u8+u8")))
def test_fp4_in_other_dtypes_computes_what_ours_does(folders, expected, tmp_path, kind):
    theirs = written_again(folders["fp4"], tmp_path / "theirs", stored_otherwise(kind))
    assert same(computed(theirs), expected["fp4"])
    made = convert(theirs, tmp_path / "again", require_own_config(theirs), to="fp4").folder
    assert same(computed(made), expected["fp4"])


@pytest.mark.parametrize("dtype", [torch.uint8])
def test_fp8_with_powers_of_two_as_bytes(folders, expected, tmp_path, dtype):
    theirs = written_again(folders["fp8-e8m0"], tmp_path / "theirs", stored_otherwise("i8+u8"))
    found = inspect_checkpoint(theirs)
    assert found.problems == () and found.flavour == "fp8-e8m0"
    assert same(computed(theirs), expected["fp8-e8m0"])


def stored(name, dtype, *shape):
    return Stored(name, name, None, TensorSpec(dtype, shape), 0, 0, dtype)


@pytest.mark.parametrize("seed", range(30))
def test_codes_of_any_shape_are_told_apart(seed):
    """Random sizes, every dtype of codes and scales, with and without the model: neither INT8 nor FP4 passes for the other."""
    rng = random.Random(seed)
    rows, columns = rng.choice([1, 2, 16, 32, rng.randint(1, 300)]), 32 * rng.choice([1, 1, 2, rng.randint(1, 40)])
    model = {"x.weight": TensorSpec("f32", (rows, columns))}
    for codes, scale, is_flat in itertools.product(("i8", "u8"), ("f8e8m0", "u8", "f32", "bf16"), (True, False)):
        shape = (rows,) if is_flat else (rows, 1)
        int8 = {"x.weight": stored("x.weight", codes, rows, columns), "x.scale": stored("x.scale", scale, *shape)}
        packed = stored("x.weight", codes, rows, columns // 2)
        fp4 = {"x.weight": packed, "x.scale": stored("x.scale", scale, rows, columns // 32)}
        assert how_stored("x.weight", int8, model) == "w8a8"
        assert how_stored("x.weight", fp4, model) == how_stored("x.weight", {"x.weight": packed}, model) == "fp4"
        assert how_stored("x.weight", int8, {}) == "w8a8" or columns < 32
        assert how_stored("x.weight", fp4, {}) == "fp4" or (columns == 32 and scale in ("f32", "bf16"))


# Dtypes that are not read


def header_of(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_dtype(folder, out, dtype, *names):
    """A copy whose tensors `names` have another dtype of safetensors, of as many bytes; the last dimension follows."""
    written_again(folder, out)
    path = out / "model.safetensors"
    header, data = header_of(path)
    for name in names:
        begin, end = header[name]["data_offsets"]
        header[name] |= {"dtype": dtype, "shape": [(end - begin) * 8 // OTHER_BITS[dtype]]}
        rows = header[name]["shape"][0]
        header[name]["shape"] = [2, rows // 2] if rows % 2 == 0 else [rows]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return out


READABLE = "\nhint: dtypes that are read are BOOL, I8, U8, I16, I32, I64, F8_E4M3, F8_E8M0, F16, BF16, F32, F64, F4"


@pytest.mark.parametrize("dtype", [dtype for dtype in OTHER_BITS if dtype not in ("F4", "F6_E2M3", "F6_E3M2")])
def test_dtypes_that_are_valid_and_not_supported(folders, config, tmp_path, dtype):
    """One finding for all tensors of a dtype; none about their scales, and nothing is called corrupt."""
    experts = [name for name in expected_tensors(config.values) if ".ffn.experts." in name]
    theirs = with_dtype(folders["w8a8"], tmp_path / "theirs", dtype, *experts)
    first = f"error K104: tensor '{experts[0]}' and {len(experts) - 1} more: dtype {dtype} is not supported{READABLE}"
    assert problems(theirs) == [first]
    one = with_dtype(folders["bf16"], tmp_path / "one", dtype, "head.weight")
    assert problems(one) == [f"error K104: tensor 'head.weight': dtype {dtype} is not supported{READABLE}"]


def test_a_scale_whose_dtype_is_not_supported(folders, tmp_path):
    theirs = with_dtype(folders["w8a8"], tmp_path / "theirs", "U16", f"{EXPERT}.scale")
    assert problems(theirs) == [f"error K104: tensor '{EXPERT}.scale': dtype U16 is not supported{READABLE}"]


def test_a_packed_tensor_where_none_is_quantised(folders, tmp_path):
    theirs = with_dtype(folders["bf16"], tmp_path / "theirs", "F4", "norm.weight")
    assert problems(theirs) == ["error K104: tensor 'norm.weight' is f4[2, 128], expected f32[64]: this one is never quantised"]


DRAFT = "mtp.0.attn.wq_a.weight"


def with_draft(folder, tmp_path, dtype):
    """A checkpoint with a tensor of a draft layer, of a dtype."""

    def add(tensors):
        tensors[DRAFT] = torch.arange(192, dtype=torch.uint8).view(8, 24)

    return with_dtype(written_again(folder, tmp_path / "theirs", add), tmp_path / "odd", dtype, DRAFT)


@pytest.mark.parametrize("dtype", OTHER_BITS)
def test_dtypes_of_the_draft_layer(folders, tmp_path, dtype):
    """A tensor that nothing runs may have any dtype that there is, and is copied as it lies there."""
    theirs = with_draft(folders["bf16"], tmp_path, dtype)
    found = inspect_checkpoint(theirs)
    assert found.problems == () and found.unused_tensors == 1
    made = convert(theirs, tmp_path / "out", require_own_config(theirs), to="fp8").folder
    before, after = (Checkpoint.open(folder).tensors[DRAFT] for folder in (theirs, made))
    assert (before.header_dtype, before.spec) == (after.header_dtype, after.spec) and before.header_dtype == dtype
    assert after.shard.read_bytes()[after.begin : after.end] == bytes(range(192))


@pytest.mark.parametrize("dtype", sampled(OTHER_BITS, ("F4", "U16")))
def test_no_dtype_of_the_draft_layer_changes_what_is_computed(folders, expected, tmp_path, dtype):
    assert same(computed(with_draft(folders["bf16"], tmp_path, dtype)), expected["bf16"])


def test_a_dtype_that_there_is_not_in_the_draft_layer(folders, tmp_path):
    theirs = with_draft(folders["bf16"], tmp_path, "U16")
    path = theirs / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"U16"', b'"F12"'))
    assert "has a corrupt entry in the header" in problems(theirs)[0]


def test_packed_columns_lie_in_pairs(tmp_path):
    save_file({"x": torch.zeros(3, 2, dtype=torch.uint8)}, tmp_path / "model.safetensors")
    path = tmp_path / "model.safetensors"
    header, data = header_of(path)
    header["x"] |= {"dtype": "F4", "shape": [4, 3]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    (found,) = Checkpoint.open(tmp_path).problems
    assert found.message.endswith("f4[4, 3] has an odd number of columns, of which two lie in a byte")


# Shards of ranks


@pytest.mark.parametrize("shard", ["model{}-mp2.safetensors", "model-rank-{}-part-0.safetensors", "model{}-mp16.safetensors"])
@pytest.mark.parametrize("indexed", [True, False])
def test_shards_split_over_ranks_are_one_finding(folders, tmp_path, shard, indexed):
    theirs = written_again(folders["fp4"], tmp_path / "theirs", shard=shard.format(1))
    shutil.copyfile(theirs / shard.format(1), theirs / shard.format(0))
    if indexed:
        weight_map = dict.fromkeys(tensors_of(theirs), shard.format(0))
        (theirs / INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}))
    for act in (inspect_checkpoint, computed):
        with pytest.raises(CheckpointError) as refused:
            act(theirs)
        assert str(refused.value) == (
            f"error K111: checkpoint '{theirs}' is split over ranks: '{shard.format(0)}' holds one rank's part of each tensor\n"
            "hint: give the checkpoint that it was split from; each rank reads its part of whole tensors"
        )


def test_split_shards_are_told_before_a_missing_configuration(folders, tmp_path, call):
    """The official inference code writes none beside them."""
    theirs = written_again(folders["fp4"], tmp_path / "theirs", shard="model0-mp2.safetensors")
    (theirs / "config.json").unlink()
    for command in (("inspect", theirs), ("convert", theirs, tmp_path / "out")):
        status, _, error = call("checkpoint", *command)
        assert status == 1 and "error K111: " in error and "config.json" not in error


def test_a_single_rank_has_whole_tensors(folders, expected, tmp_path):
    theirs = written_again(folders["fp4"], tmp_path / "theirs", shard="model0-mp1.safetensors")
    assert same(computed(theirs), expected["fp4"])


# The first layers


@pytest.mark.parametrize(("flavour", "layers"), sampled(itertools.product(("w8a8", "fp4"), (1, 2)), [("w8a8", 1)]))
def test_fewer_layers_than_the_checkpoint_has(folders, config, tmp_path, layers, flavour, call):
    """They compute what a checkpoint of these layers alone does, which also is what conversion makes of them."""
    short = load_config(["tiny"], [*SIZES, f"num_hidden_layers={layers}"])
    alone = init_checkpoint(short, tmp_path / "alone", flavour=flavour)
    sets = f"num_hidden_layers={layers}"
    wanted = computed(alone)
    assert same(computed(folders[flavour], sets), wanted)
    left = "2 layers" if layers == 1 else "1 layer"
    note = f"note: '{folders[flavour]}' has {left} behind the last one of the configuration, left out\n"
    arguments = ("--checkpoint", folders[flavour], "--prompt-ids", "1", "--max-new-tokens", 1, "--set", sets)
    assert note in call("generate", *arguments)[1]
    status, out, _ = call("checkpoint", "inspect", folders[flavour], "--set", sets)
    assert status == 0 and note in out
    status, out, _ = call("checkpoint", "convert", folders[flavour], tmp_path / "out", "--to", flavour, "--set", sets)
    assert status == 0 and note in out
    assert set(Checkpoint.open(tmp_path / "out").tensors) == set(Checkpoint.open(alone).tensors)
    assert inspect_checkpoint(tmp_path / "out").notes == () and inspect_checkpoint(tmp_path / "out").fits
    assert same(computed(tmp_path / "out"), wanted)


def test_a_model_that_is_cut_loses_its_draft_layer(folders, config, tmp_path):
    """The draft layer goes on from the last layer, which is not the last one any more."""

    def add(tensors):
        tensors["mtp.0.attn.wq_a.weight"] = torch.zeros(3)

    theirs = written_again(folders["bf16"], tmp_path / "theirs", add)
    change_config(theirs, num_nextn_predict_layers=1, compress_ratios=[0, 4, 128, 0])
    (note,) = inspect_checkpoint(theirs, load_config([theirs], ["num_hidden_layers=2"])).notes
    assert note.endswith("left out, and the draft (MTP) layer")
    made = convert(theirs, tmp_path / "out", load_config([theirs], ["num_hidden_layers=2"]), to="bf16").folder
    assert not any(name.startswith("mtp.") for name in Checkpoint.open(made).tensors)
    held = json.loads((made / "config.json").read_text())
    assert (held["num_nextn_predict_layers"], held["compress_ratios"]) == (0, [0, 4])
    assert inspect_checkpoint(made).fits


@pytest.mark.parametrize(
    "stray",
    [
        "layers.3.norm.weight",
        "layers.4.attn_norm.weight",
        "layers.99999999999999999999.x",
        "layer.3.attn_norm.weight",
    ],
)
def test_a_stray_tensor_is_no_layer(folders, tmp_path, stray):
    def add(tensors):
        tensors[stray] = torch.zeros(64)

    theirs = written_again(folders["bf16"], tmp_path / "theirs", add)
    assert problems(theirs) == [f"error K102: tensor '{stray}' f32[64] is not part of the model"]


# What inspect finds


@pytest.mark.parametrize("expert", [4, -1, 2**40])
def test_experts_that_do_not_exist(folders, tmp_path, expert):
    def edit(tensors):
        tensors["layers.0.ffn.gate.tid2eid"][7, 1] = expert

    theirs = written_again(folders["bf16"], tmp_path / "theirs", edit)
    message = f"error K110: tensor 'layers.0.ffn.gate.tid2eid' has {expert}, expected experts from 0 to 3"
    assert problems(theirs) == [message]


def test_values_are_told_beside_what_else_is_wrong(folders, tmp_path):
    def edit(tensors):
        tensors["layers.0.ffn.gate.tid2eid"][7, 1] = 4
        del tensors["norm.weight"]

    found = problems(written_again(folders["bf16"], tmp_path / "theirs", edit))
    assert [problem[:10] for problem in found] == ["error K101", "error K110"]


def test_an_error_in_a_file_of_one_line_shows_the_place(folders, tmp_path):
    theirs = written_again(folders["bf16"], tmp_path / "theirs")
    change_config(theirs, padding=["x" * 20] * 200, num_attention_heads="many", more=["x" * 20] * 200)
    (problem,) = inspect_checkpoint(theirs).problems
    text = str(problem).splitlines()
    assert len(text[1]) < 180 and text[1].startswith("... ") and text[1].endswith(" ...")
    assert text[1][len(text[2]) - 1 :].startswith('"num_attention_heads": "many"')


def test_every_flavour_names_its_encodings(folders, config):
    """What these tests store otherwise is what the flavours quantise."""
    assert encoding(f"{EXPERT}.weight", "fp4") == "fp4" and not {"F4", *OTHER_BITS} & set(DTYPE_BYTES)
    codes, _ = encode(torch.randn(4, 32), "fp4")
    assert codes.shape == (4, 16)
