"""The rotary embedding of a complete `config.json`: one width, two bases, and YaRN's numbers, as the reference derives them.

Source: transformers 5.23.0, `modeling_rope_utils.py` (`convert_rope_params_to_dict`, `_compute_yarn_parameters`).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, log
from typing import Any

from runner.language.given import describe
from runner.models.deepseek_v4.hf_config import DEFAULTS, YARN_FIELDS
from runner.models.protocols import Normalised

ROTATED_FRACTION = 0.125
BETAS = {"beta_fast": 32, "beta_slow": 1}
DEFAULT = ""
"""Where a value comes from that the file does not give."""


class Refused(Exception):  # noqa: N818
    """A key whose value cannot be taken."""

    def __init__(self, key: str, message: str):
        super().__init__(message)
        self.key, self.message = key, message


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def derive_rope(values: Mapping[str, Any], result: Normalised) -> None:
    """A `rope_scaling` that holds something before `rope_parameters`; flat, or with `main` and `compress`."""
    for name, value in (("rope_type", "default"), ("rope_factor", 1.0), ("rope_attention_factor", 1.0)):
        result.fields[name] = value, DEFAULT
    result.fields["rope_original_max_position_embeddings"] = "max_position_embeddings", DEFAULT
    for name, value in BETAS.items():
        result.fields[YARN_FIELDS[name]] = value, DEFAULT
    result.fields["qk_rope_head_dim"] = f"floor(head_dim * {ROTATED_FRACTION})", DEFAULT
    fraction, origin = _fraction(values, result)
    key = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
    rope = values.get(key) or {}
    if not isinstance(rope, dict):
        raise Refused(key, f"'{key}' is {describe(rope)}, expected an object")
    parts = {name: rope[name] for name in ("main", "compress") if name in rope}
    for name, part in parts.items():
        if part is not None and not isinstance(part, dict):
            raise Refused(key, f"'{key}' has {describe(part)} for {name}, expected an object")
    if len(parts) == 2 and None not in parts.values():
        compress, fraction, origin = _nested(key, parts, fraction, origin, values, result)
        is_completed = True
    else:
        is_completed = not parts
        compress = _flat(rope, is_completed)
    if origin != DEFAULT:
        result.fields["qk_rope_head_dim"] = _width(origin, result.fields["head_dim"][0], fraction), origin
    result.fields["rope_type"] = compress["rope_type"], key if rope else DEFAULT
    if compress["rope_type"] == "yarn":
        _yarn(key, compress, result, is_completed)


def _fraction(values: Mapping[str, Any], result: Normalised) -> tuple[float, str]:
    """The part of a head that is rotated, and the key that says so."""
    fraction, width, head_dim = values.get("partial_rotary_factor"), values.get("qk_rope_head_dim"), result.fields["head_dim"][0]
    if fraction is not None:
        return fraction, "partial_rotary_factor"
    if width is None:
        return ROTATED_FRACTION, DEFAULT
    if not is_number(width) or not isfinite(width) or head_dim == 0:
        raise Refused("qk_rope_head_dim", f"'qk_rope_head_dim' is {describe(width)}, expected an integer")
    return width / head_dim, "qk_rope_head_dim"


def _flat(rope: Mapping[str, Any], is_completed: bool) -> dict[str, Any]:
    """The rotation of layers with a compressor from flat parameters; the class does not complete them (`is_completed`) where one
    of `main` and `compress` stands beside them."""
    compress = {name: value for name, value in rope.items() if name not in ("main", "compress")}
    compress.setdefault("rope_type", compress.get("type", "default") if is_completed else "default")
    if compress["rope_type"] == "yarn":
        compress.setdefault("attention_factor", 1.0)
    return compress


def _nested(
    key: str, parts: Mapping[str, Any], fraction: float, origin: str, values: Mapping[str, Any], result: Normalised
) -> tuple[dict[str, Any], float, str]:
    """The compress part with its kind, the part of a head that both rotate, and the key that says so."""
    main, compress = parts["main"], parts["compress"]
    for part in (main, compress):
        part.setdefault("rope_type", part.get("type", "default"))
    if main["rope_type"] != "default":
        raise Refused(key, f"'{key}' cannot be understood: main has rope_type '{main['rope_type']}', expected 'default'")
    for part, name in ((main, "rope_theta"), (compress, "compress_rope_theta")):
        result.fields[name] = (part["rope_theta"], key) if "rope_theta" in part else (DEFAULTS["rope_theta"], DEFAULT)
        if "rope_theta" not in part and "rope_theta" in values:
            result.fields[name] = values["rope_theta"], "rope_theta"
    top = values.get("partial_rotary_factor")
    otherwise = 1.0 if top is None else top
    computed = fraction if compress["rope_type"] == "yarn" else otherwise
    fractions = main.get("partial_rotary_factor", otherwise), compress.get("partial_rotary_factor", computed)
    if not all(map(is_number, fractions)):
        raise Refused(key, f"'{key}' has a 'partial_rotary_factor' that is no number")
    widths = [_width(key, result.fields["head_dim"][0], part) for part in fractions]
    if widths[0] != widths[1]:
        message = f"'{key}' rotates {widths[0]} columns of a head in main and {widths[1]} in compress, expected as many"
        raise Refused(key, message)
    given = "partial_rotary_factor" in main or "partial_rotary_factor" in compress
    return compress, fractions[0], key if given or top is None else origin


def _width(key: str, head_dim: int, fraction: float) -> int:
    try:
        return int(head_dim * fraction)
    except (ValueError, OverflowError):
        raise Refused(key, f"'partial_rotary_factor' is {fraction}, expected a finite number") from None


def _yarn(key: str, rope: Mapping[str, Any], result: Normalised, is_completed: bool) -> None:
    """YaRN's numbers; what the class derives of others where it is absent or null is derived here."""

    def number(name: str, value: Any) -> float:
        if not is_number(value):
            raise Refused(key, f"'{key}' has {describe(value)} for {name}, expected a number")
        return value

    longest = result.fields["max_position_embeddings"][0]
    if "original_max_position_embeddings" not in rope and not is_completed:
        raise Refused(key, f"'{key}' has no original_max_position_embeddings, which yarn needs")
    original = number("original_max_position_embeddings", rope.get("original_max_position_embeddings", longest))
    if "factor" not in rope or not original:
        missing = "factor" if original else "original_max_position_embeddings"
        raise Refused(key, f"'{key}' has no {missing}, which yarn needs")
    factor = longest / original if rope["factor"] is None else number("factor", rope["factor"])
    attention = rope.get("attention_factor")
    if attention is None:
        attention = _magnitude(key, factor, rope.get("mscale"), rope.get("mscale_all_dim"))
    found = {"factor": factor, "original_max_position_embeddings": original}
    found["attention_factor"] = number("attention_factor", attention)
    found |= {name: number(name, rope.get(name) or default) for name, default in BETAS.items()}
    for name, value in found.items():
        result.fields[YARN_FIELDS[name]] = value, key


def _magnitude(key: str, factor: float, mscale: Any, mscale_all_dim: Any) -> float:
    """YaRN's factor on cosines and sines where none is given."""

    def of(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * log(factor) + 1.0

    if not (mscale and mscale_all_dim):
        return of(1.0)
    if not (is_number(mscale) and is_number(mscale_all_dim) and of(mscale_all_dim)):
        raise Refused(key, f"'{key}' has mscale and mscale_all_dim from which no attention_factor follows")
    return of(mscale) / of(mscale_all_dim)
