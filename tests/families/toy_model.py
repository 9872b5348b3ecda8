"""A family of models as small as can be, as another package would bring it: two sizes, one tensor."""

from pathlib import Path

from runner.models.protocols import Normalised

FIELDS = {
    "width": {"type": ["integer", "string"], "minimum": 1},
    "depth": {"type": ["integer", "string"], "minimum": 1},
    "n_embd": {"type": ["integer", "string"], "x-alias": True},
    "batch": {"type": ["integer", "string"], "minimum": 1},
    "deploy": {"type": "string"},
}


class Toy:
    """See `ModelFamily`."""

    name = "toy"
    model_types = ("toy_small", "toy_large")
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
