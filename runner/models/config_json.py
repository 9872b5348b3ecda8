"""What `config.json` files of all families have in common: floats that JSON cannot say, and what quantises activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.language.given import describe

OURS, COMPRESSED_TENSORS = "w8a8", "compressed-tensors"
"""Values of `quant_method` that say of activations what no tensor of the checkpoint does."""


def special_floats(value: Any) -> Any:
    """The value with `{"__float__": "Infinity"}` and the like, which JSON has no number for, as the number."""
    if isinstance(value, dict):
        if value.keys() == {"__float__"} and value["__float__"] in ("Infinity", "-Infinity", "NaN"):
            return float(value["__float__"])
        return {key: special_floats(item) for key, item in value.items()}
    return [special_floats(item) for item in value] if isinstance(value, list) else value


def precision(quantisation: Any) -> str | None:
    """The precision that a `quantization_config` asks for: `w8a8`, `full`, or None where it leaves that to what is stored."""
    method = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
    if method == COMPRESSED_TENSORS:
        return "w8a8" if any(scheme.get("type", "int") == "int" for scheme in _schemes(quantisation)) else "full"
    return "w8a8" if method == OURS else None


def not_runnable(quantisation: Any) -> str | None:
    """What a `quantization_config` asks for beyond whole rows of activations in INT8, one scale each; None if nothing."""
    if not isinstance(quantisation, dict):
        return None
    method = quantisation.get("quant_method")
    if not isinstance(method, str | None):
        return f"has {describe(method)} for quant_method, expected a string or null"
    if method != COMPRESSED_TENSORS:
        return None
    groups = quantisation.get("config_groups")
    if not isinstance(groups, dict) or not all(isinstance(group, dict) for group in groups.values()):
        return f"has {describe(groups)} for config_groups, expected an object of objects"
    if quantisation.get("transform_config"):
        return "has a transform_config: transforms of activations are not supported"
    if any(group.get("output_activations") for group in groups.values()):
        return "has output_activations: results that are quantised are not supported"
    return next((problem for scheme in _schemes(quantisation) if (problem := _scheme_problem(scheme))), None)


def _schemes(quantisation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How the activations that go into products are quantised, of every group of layers that says so."""
    groups = quantisation.get("config_groups")
    each = [group for group in groups.values() if isinstance(group, dict)] if isinstance(groups, dict) else []
    return [scheme for group in each if isinstance(scheme := group.get("input_activations"), dict)]


def _scheme_problem(scheme: Mapping[str, Any]) -> str | None:
    """Floats are left as they are: their weights are decoded."""
    if scheme.get("type", "int") != "int":
        return None
    bits = scheme.get("num_bits", 8)
    if bits != 8:
        return f"has input_activations with num_bits {describe(bits)}, expected 8"
    if scheme.get("dynamic", False) is not True:
        return "has input_activations with scales that were fixed in advance, which are not supported"
    if scheme.get("strategy") not in ("token", None):
        return f"has input_activations with strategy {describe(scheme['strategy'])}, expected 'token'"
    if scheme.get("symmetric", True) is not True:
        return "has input_activations with zero points, which are not supported"
    return None
