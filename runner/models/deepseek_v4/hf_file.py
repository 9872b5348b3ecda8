"""A complete Hugging Face `config.json` in our fields, read as the reference's configuration class reads it.

Every spelling that the class accepts comes to the same derived values here, or is refused by the name of its key; what the
file leaves out, or gives as null, has the class's default. tests/models/deepseek_v4/test_hf_differential.py compares both.

Source: transformers 5.23.0, `models/deepseek_v4/configuration_deepseek_v4.py`, `modeling_rope_utils.py` (order of precedence).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from runner.language.given import BESIDE, FLAVOUR, describe
from runner.models.config_json import not_runnable, precision, special_floats
from runner.models.deepseek_v4.hf_config import (
    CODES,
    CSA,
    DEFAULTS,
    DTYPES,
    EITHER,
    HCA,
    IGNORED,
    LAYER_TYPES,
    MODEL_TYPE,
    RATE_FIELDS,
    RENAMED,
    ROPES,
    SWA,
    another_model,
    endless,
    ratios_of,
)
from runner.models.deepseek_v4.hf_rope import DEFAULT, Refused, derive_rope, is_integer, is_number
from runner.models.protocols import Normalised

NUM_HASH_LAYERS = 3
KINDS = {code: kind for kind, code in CODES.items()}
DEFAULT_RATES = {CSA: 4, HCA: 128}
ABSENT: Any = object()
MAX_LAYERS = 4096
"""More than any model has; lists of this length are made of a number in a small file."""
UNUSED_FLOATS = ("attention_dropout", "router_aux_loss_coef", "router_jitter_noise")
_READ = {*DEFAULTS, *RENAMED, *RATE_FIELDS.values(), "compress_ratios", "compress_rates", "num_hash_layers", "qk_rope_head_dim"}
_READ |= {"partial_rotary_factor", "rope_scaling", "rope_parameters"}
"""Keys whose numbers are counted with."""
UNSUPPORTED = (
    "per_layer_config",
    "default_compress_rates",
    "default_num_hash_layers",
    "default_partial_rotary_factor",
    "default_rope_type",
)
"""Keys with which the class would make layers differ, or take other defaults."""
_KNOWN = {*_READ, *UNSUPPORTED, *UNUSED_FLOATS, *IGNORED, "layer_types", "mlp_layer_types", "dtype"}
"""What a file without `model_type` may hold."""
OFFICIAL = ("dim", "n_layers")
"""Keys that the official inference code uses instead of `hidden_size` and `num_hidden_layers`."""


def read_file(given: Mapping[str, Any]) -> Normalised:
    """A whole `config.json` in our fields, none missing; problems name the key."""
    result = Normalised()
    values = {key: special_floats(value) for key, value in given.items()}
    if problem := _not_a_model(values):
        result.problems.append(problem)
        return result
    result.problems += another_model(values)
    for key, problem in [(key, problem) for key, value in values.items() if (problem := _wrong_type(key, value))]:
        result.problems.append((key, problem))
        del values[key]
    for key in UNSUPPORTED:
        if values.get(key) is not None:
            result.problems.append((key, f"'{key}' is not supported"))
    for name, default in DEFAULTS.items():
        result.fields[name] = (values[name], name) if name in values else (default, DEFAULT)
    for theirs, ours in RENAMED.items():
        if theirs in values:
            result.fields[ours] = values[theirs], theirs
    for step in _STEPS:
        try:
            step(values, result)
        except Refused as error:
            result.problems.append((error.key, error.message))
    return result


# --- what the class refuses by the type of a value


def _not_a_model(values: Mapping[str, Any]) -> tuple[str, str] | None:
    """Key and message for an object that is no `config.json` of a model."""
    if "model_type" in values:
        return None
    official = next((key for key in OFFICIAL if key in values), None)
    if official is not None:
        return official, f"'{official}' is the official inference code's spelling; give the checkpoint's config.json instead"
    if not any(key in DEFAULTS or key in RENAMED for key in values if not key.endswith("_token_id")):
        return "model_type", "this is no config.json of a model: it has neither 'model_type' nor a size"
    strange = next((key for key in values if key not in _KNOWN and not key.startswith(BESIDE)), None)
    if strange is not None:
        return strange, f"'{strange}' is no field of {MODEL_TYPE}, and without a 'model_type' the file may be of another model"
    return None


def _wrong_type(key: str, value: Any) -> str | None:
    if key in _READ and _has_huge(value):
        return f"'{key}' has an integer of more than 64 bits"
    if key in ROPES and (problem := endless(value)):
        return f"'{key}' {problem}"
    expected = _expected(key, value)
    return None if expected is None else f"'{key}' is {describe(value)}, expected {expected}"


def _has_huge(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_has_huge, value.values() if isinstance(value, dict) else value))
    return isinstance(value, int) and abs(value) >= 2**63


def _expected(key: str, value: Any) -> str | None:
    """What the class takes for a key in words, where `value` is something else; None if all is well."""
    if key in ("bos_token_id", "pad_token_id", "eos_token_id"):
        whole = value is None or is_integer(value)
        listed = key == "eos_token_id" and isinstance(value, list) and all(map(is_integer, value))
        return None if whole or listed else "an integer or null" if key != "eos_token_id" else "integers or null"
    if key in ("layer_types", "mlp_layer_types"):
        good = value is None or (isinstance(value, list) and all(isinstance(item, str) for item in value))
        return None if good else "a list of names"
    if key in ("compress_rates", "rope_parameters", "quantization_config"):
        return None if value is None or isinstance(value, dict) else "an object"
    if key in EITHER:
        return None if is_number(value) else "a number"
    if key in UNUSED_FLOATS or (key == "partial_rotary_factor" and value is not None):
        return _not_float(value)
    if key not in DEFAULTS and key not in RENAMED:
        return None
    default = DEFAULTS[RENAMED.get(key, key)]
    if isinstance(default, float):
        return _not_float(value)
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, str):
        return None if isinstance(value, str) else "a string"
    return None if is_integer(value) else "an integer"


def _not_float(value: Any) -> str | None:
    """The class takes no integer for a float; a `config.json` with one would work here and nowhere else."""
    if isinstance(value, float):
        return None
    return f"a number with a point, as in {value}.0" if is_integer(value) else "a number"


# --- layers


def _layer_kinds(values: Mapping[str, Any], result: Normalised) -> None:
    """`layer_types` before `compress_ratios` before the default schedule; rates from `compress_rates` and the older keys."""
    layers = result.fields["num_hidden_layers"][0]
    result.fields["compress_ratios"] = [], DEFAULT
    if layers > MAX_LAYERS:
        raise Refused("num_hidden_layers", f"'num_hidden_layers' is {layers}, expected at most {MAX_LAYERS}")
    result.fields["compress_ratios"] = [0] * layers, DEFAULT
    rates = _rates(values, result)
    kinds, origin = _kinds(values, layers)
    missing = next((kind for kind in kinds[:layers] if kind not in rates), None)
    if missing is not None:
        raise Refused("compress_rates", f"'compress_rates' has no {missing}, which 'num_hidden_layers' has layers of")
    ratios = ratios_of(*(result.fields[name][0] for name in RATE_FIELDS.values()))
    result.fields["compress_ratios"] = [ratios[kind] for kind in kinds], origin


def _rates(values: Mapping[str, Any], result: Normalised) -> dict[str, Any]:
    """Rates that the file has, by kind, and that of no compression; sets both fields."""
    given = values.get("compress_rates")
    rates: Mapping[str, Any] = DEFAULT_RATES if given is None else given
    origins = DEFAULT if given is None else "compress_rates"
    found: dict[str, Any] = {SWA: 0}
    for kind, name in RATE_FIELDS.items():
        older = values.get(name)
        rate, origin = (older, name) if older is not None else (rates.get(kind, ABSENT), origins)
        if rate is ABSENT:
            result.fields[name] = DEFAULT_RATES[kind], DEFAULT
            continue
        if not is_integer(rate):
            raise Refused(origin, f"'{origin}' has {describe(rate)} for {kind}, expected an integer")
        found[kind] = rate
        result.fields[name] = rate, origin
    return found


def _kinds(values: Mapping[str, Any], layers: int) -> tuple[list[str], str]:
    """The kind of each layer, and of draft layers behind them where the file says it; and the key that said it."""
    types, ratios = values.get("layer_types"), values.get("compress_ratios")
    if types is not None:
        kinds = types[:layers]
        unknown = sorted(set(kinds) - set(LAYER_TYPES))
        if unknown:
            raise Refused(
                "layer_types", f"'layer_types' cannot be understood: {', '.join(unknown)} is not one of {', '.join(LAYER_TYPES)}"
            )
        return kinds + (_draft_kinds(ratios, kinds) if len(kinds) == layers else []), "layer_types"
    if ratios is None:
        return [HCA] * min(layers, 2) + [CSA if i % 2 else HCA for i in range(layers - 2)], DEFAULT
    if not isinstance(ratios, list):
        raise Refused("compress_ratios", f"'compress_ratios' is {describe(ratios)}, expected a list")
    for layer, ratio in enumerate(ratios):
        if not is_number(ratio) or ratio not in KINDS:
            message = f"'compress_ratios[{layer}]' is {describe(ratio)}, expected 0, 4 or 128; 'compress_rates' has other rates"
            raise Refused("compress_ratios", message)
    return [KINDS[ratio] for ratio in ratios], "compress_ratios"


def _draft_kinds(ratios: Any, kinds: list[str]) -> list[str]:
    """Kinds of draft layers, of which `layer_types` says nothing, from `compress_ratios` beside it if it is of this model."""
    if not isinstance(ratios, list) or not all(is_number(ratio) and ratio in KINDS for ratio in ratios):
        return []
    every = [KINDS[ratio] for ratio in ratios]
    return every[len(kinds) :] if every[: len(kinds)] == kinds else []


def _hash_layers(values: Mapping[str, Any], result: Normalised) -> None:
    """`mlp_layer_types` before `num_hash_layers`."""
    types, number = values.get("mlp_layer_types"), values.get("num_hash_layers")
    if types is None:
        result.fields["num_hash_layers"] = NUM_HASH_LAYERS, DEFAULT
        if number is None:
            return
        if not is_integer(number):
            raise Refused("num_hash_layers", f"'num_hash_layers' is {describe(number)}, expected an integer")
        result.fields["num_hash_layers"] = number, "num_hash_layers"
        return
    key, layers = "mlp_layer_types", result.fields["num_hidden_layers"][0]
    types = types[:layers]
    hashed = types.count("hash_moe")
    result.fields["num_hash_layers"] = hashed, key
    if len(types) < layers:
        message = f"'{key}' has {len(types)} entries, expected one for each of 'num_hidden_layers' ({layers})"
        raise Refused(key, message)
    unknown = sorted(set(types) - {"hash_moe", "moe"})
    if unknown:
        raise Refused(key, f"'{key}' cannot be understood: {', '.join(unknown)} is not one of hash_moe, moe")
    if "hash_moe" in types[hashed:]:
        raise Refused(key, f"'{key}' cannot be understood: a hash_moe layer follows a moe layer; hash layers come first")


# --- how it runs


def _dtype(values: Mapping[str, Any], result: Normalised) -> None:
    """`dtype` before `torch_dtype`; and whether `quantization_config`, or else the tensors beside the file, say W8A8."""
    key = "dtype" if values.get("dtype") is not None else "torch_dtype"
    if values.get(key) is not None:
        result.fields["dtype"] = DTYPES.get(str(values[key]), values[key]), key
    quantisation = values.get("quantization_config")
    if problem := not_runnable(quantisation):
        raise Refused("quantization_config", f"'quantization_config' {problem}")
    if asked := precision(quantisation):
        result.fields["precision"] = asked, "quantization_config"
    elif values.get(FLAVOUR) == "w8a8":
        result.fields["precision"] = "w8a8", FLAVOUR


def _generation(values: Mapping[str, Any], result: Normalised) -> None:
    """What ends a text, if a `generation_config.json` lies beside the file."""
    key = BESIDE + "eos_token_id"
    if BESIDE in values:
        result.fields["eos_token_id"] = values.get(key), key


Step = Callable[[Mapping[str, Any], Normalised], None]
_STEPS: tuple[Step, ...] = (_layer_kinds, _hash_layers, derive_rope, _dtype, _generation)
