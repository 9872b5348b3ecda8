"""Every flavour, as we and transformers' `save_pretrained` write it, through convert, inspect and generate, three times over.

`pytest -s -m slow tests/checkpoint/test_round_trips.py` runs all of them and prints the table.
"""

import json

import pytest
import torch
from other_tools import PROMPT, computed, same_files
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM
from transformers.utils.quantization_config import FineGrainedFP8Config

from runner.checkpoint.checkpoint import Checkpoint
from runner.checkpoint.convert import convert
from runner.checkpoint.encodings import FLAVOURS
from runner.checkpoint.inspect import inspect_checkpoint
from runner.checkpoint.own_config import require_own_config
from runner.checkpoint.random import init_checkpoint
from runner.config.config import load_config
from runner.models.deepseek_v4.hf_config import config_json

SIZES = ["vocab_size=512", "hidden_size=128", "moe_intermediate_size=128", "n_routed_experts=4", "num_hidden_layers=3"]
LAYERS = ["compress_ratios=[0,4,128]", "num_hash_layers=1"]
SAVED = ("f32", "bf16")
"""Dtypes that transformers saves without a quantised model of its own, which needs a GPU."""
ROUTES = [(writer, source, to) for writer in ("ours", "save_pretrained") for source in FLAVOURS for to in FLAVOURS]


@pytest.fixture(scope="module")
def config():
    return load_config(["tiny"], [*SIZES, *LAYERS])


@pytest.fixture(scope="module")
def written(config, tmp_path_factory):
    """A checkpoint by writer and flavour; what transformers saves of a quantised flavour is that flavour, decoded by it."""
    base, made = tmp_path_factory.mktemp("written"), {}

    def find(writer, flavour):
        if (writer, flavour) not in made:
            folder = base / f"{writer}-{flavour}"
            if writer == "ours":
                init_checkpoint(config, folder, flavour=flavour)
            elif flavour in SAVED:
                torch.manual_seed(0)
                model = DeepseekV4ForCausalLM(DeepseekV4Config(**config_json(config.values, flavour)))
                model.to({"f32": torch.float32, "bf16": torch.bfloat16}[flavour]).save_pretrained(folder)
            elif flavour == "w8a8":
                return None
            else:
                model = DeepseekV4ForCausalLM(DeepseekV4Config(**config_json(config.values, "f32")))
                model.load_state_dict(loaded(find("ours", flavour)).state_dict())
                model.save_pretrained(folder)  # one that was decoded on loading cannot be saved itself: "Undefined Operation"
            made[writer, flavour] = folder
        return made[writer, flavour]

    return find


def loaded(folder):
    """The model as transformers makes it of a checkpoint, FP8 and FP4 decoded on loading."""
    described = json.loads((folder / "config.json").read_text()).get("quantization_config") or {}
    options = {}
    with pytest.MonkeyPatch.context() as patched:
        if described.get("quant_method") == "fp8":
            patched.setattr("transformers.quantizers.quantizer_finegrained_fp8.is_accelerate_available", lambda: True)
            options["quantization_config"] = FineGrainedFP8Config(dequantize=True)
        return DeepseekV4ForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).float().eval()


def round_trip(source, to, out):
    """Converts three times, with the same bytes each time, inspects, and generates.

    Returns relative errors: of the worst tensor of the first conversion, and of our logits in f32 beside those that transformers
    computes of the same files. It has no W8A8: that is decoded by us for both.
    """
    folder, made = source, []
    for number in range(3):
        made.append(convert(folder, out / str(number), require_own_config(folder), to=to))
        folder = made[-1].folder
    first, *again = (conversion.folder for conversion in made)
    assert all(same_files(first, other) for other in again) and not any(conversion.changed for conversion in made[1:])
    found = inspect_checkpoint(first)
    assert found.fits and found.flavour == to and found.notes == () and len(computed(first, tokens=3)[0]) == 3
    readable = first if to != "w8a8" else convert(first, out / "decoded", require_own_config(first), to="f32").folder
    _, ours = computed(first, "dtype=f32", "precision=full", tokens=1)
    with torch.no_grad():
        theirs = loaded(readable)(torch.tensor([PROMPT]), use_cache=False).logits[0]
    return max(error.relative for error in made[0].errors), float((ours - theirs).norm() / theirs.norm())


def check(written, writer, source, to, out):
    """One row of the table; None where transformers cannot write the source."""
    folder = written(writer, source)
    if folder is None:
        return None
    assert inspect_checkpoint(folder).fits
    changed, beside = round_trip(folder, to, out)
    assert beside < 2e-5
    assert changed < 0.2 and (changed == 0 or (Checkpoint.open(folder).flavour != to and to != "f32"))
    return changed, beside


@pytest.mark.parametrize(
    ("writer", "source", "to"),
    [("ours", "fp8", "fp4"), ("save_pretrained", "f32", "w8a8"), ("save_pretrained", "fp4", "fp8-e8m0")],
)
def test_round_trips(written, writer, source, to, tmp_path):
    assert check(written, writer, source, to, tmp_path) is not None


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_round_trips(written, tmp_path):
    print(f"\n{'written by':<16} {'source':<9} {'to':<9} {'worst tensor':>13} {'transformers':>13}  2nd, 3rd")
    rows = 0
    for writer, source, to in ROUTES:
        row = check(written, writer, source, to, tmp_path / f"{writer}-{source}-{to}")
        if row is None:
            print(f"{writer:<16} {source:<9} {to:<9} not loaded by transformers, which takes the codes for weights")
            continue
        rows += 1
        print(f"{writer:<16} {source:<9} {to:<9} {row[0]:>13.2g} {row[1]:>13.2g}  equal")
    assert rows == len(ROUTES) - len(FLAVOURS)
