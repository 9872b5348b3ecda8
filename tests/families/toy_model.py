"""A family of models as small as can be, as another package would bring it: two sizes, one tensor."""

from pathlib import Path

import torch

from runner.base.tensor_spec import TensorSpec
from runner.models.protocols import Normalised

FIELDS = {
    "width": {"type": ["integer", "string"], "minimum": 1},
    "depth": {"type": ["integer", "string"], "minimum": 1},
    "n_embd": {"type": ["integer", "string"], "x-alias": True},
    "batch": {"type": ["integer", "string"], "minimum": 1},
    "deploy": {"type": "string"},
}


class Layout:
    """See `CheckpointLayout`: `emb`, and a matrix a block that any quantised flavour quantises; `trace.*` is for nobody."""

    plain = ("emb",)
    unused = "a trace"

    def canonical(self, stored_name):
        return stored_name.removeprefix("toy.")

    def is_unused(self, name):
        return name.startswith("trace.")

    def encoding(self, name, flavour):
        return flavour if name.startswith("block.") and flavour not in ("f32", "bf16") else "plain"

    def expected(self, values, dtype="f32"):
        width = values["width"]
        blocks = {f"block.{i}.weight": TensorSpec(dtype, (width, width)) for i in range(values["depth"])}
        return {"emb": TensorSpec(dtype, (7, width)), **blocks}

    def unusable(self, name, value, values):
        return "is too large" if value.abs().max() > 100 else None

    def further_layers(self, names, values):
        return ()

    def without_unused(self, values):
        return values

    def flavour(self, values):
        return "f32"

    def random(self, name, spec, values, generator):
        return torch.rand(spec.shape, generator=generator).to(torch.float32 if spec.dtype == "f32" else torch.bfloat16)

    def config_json(self, values, dtype, flavour, described):
        return {**described, "model_type": "toy_small", "n_embd": values["width"], "depth": values["depth"], "stored": flavour}


class Toy:
    """See `ModelFamily`."""

    name = "toy"
    model_types = ("toy_small", "toy_large")
    layout = Layout()
    base_layer = Path(__file__).with_name("toy_base.yaml")

    def fields(self):
        return FIELDS

    def normalise(self, given, *, whole):
        result = Normalised({key: (value, key) for key, value in given.items() if key not in ("n_embd", "model_type")})
        if "n_embd" in given:
            result.fields["width"] = given["n_embd"], "n_embd"
        if given.get("depth") == 13:
            result.problems.append(("depth", "'depth' is 13, which brings bad luck"))
        if whole:
            result.fields.setdefault("depth", (2, "depth"))
        return result

    def impossible(self, values, given, deploy):
        if "width" in values and values["width"] < values["depth"]:
            return [given["width"].problem("C104", f"'width' is less than 'depth' in {deploy}")]
        return []


def family():
    """The entry point may be a function too."""
    return Toy()


def broken():
    raise RuntimeError("no such luck")
