"""Hugging Face spellings of the model's fields: those in YAML layers and options to ours, and ours to a `config.json`.

Both generations of DeepSeek-V4 configurations are taken: the checkpoints' own (`compress_ratios`, `num_hash_layers`,
`qk_rope_head_dim`, `rope_scaling`) and the one that transformers saves (`layer_types`, `mlp_layer_types`, `compress_rates`,
`partial_rotary_factor`, `rope_parameters` with `main` and `compress`). `hf_file` reads a complete `config.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import floor, isfinite, isinf, log, nextafter
from typing import Any

from runner.models.protocols import Normalised

LAYER_TYPES = ("sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention")
SWA, CSA, HCA = LAYER_TYPES
YARN_FIELDS = {
    "factor": "rope_factor",
    "original_max_position_embeddings": "rope_original_max_position_embeddings",
    "beta_fast": "rope_beta_fast",
    "beta_slow": "rope_beta_slow",
    "attention_factor": "rope_attention_factor",
}
RENAMED = {"num_local_experts": "n_routed_experts", "intermediate_size": "moe_intermediate_size"}
DEFAULTS: dict[str, Any] = {
    "vocab_size": 129280,
    "hidden_size": 4096,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 43,
    "num_attention_heads": 64,
    "num_key_value_heads": 1,
    "head_dim": 512,
    "q_lora_rank": 1024,
    "num_experts_per_tok": 6,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "scoring_func": "sqrtsoftplus",
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "max_position_embeddings": 1048576,
    "rope_theta": 10000.0,
    "compress_rope_theta": 160000.0,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "hc_eps": 1e-6,
    "swiglu_limit": 10.0,
    "sliding_window": 128,
    "o_groups": 8,
    "o_lora_rank": 1024,
    "index_n_heads": 64,
    "index_head_dim": 128,
    "index_topk": 512,
    "num_nextn_predict_layers": 1,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
}
"""Fields that the class and we call the same, with its defaults."""
RATE_FIELDS = {CSA: "compress_rate_csa", HCA: "compress_rate_hca"}
EITHER = ("rope_theta", "compress_rope_theta")
"""Numbers that the class takes as integers too."""
CODES = {SWA: 0, CSA: 4, HCA: 128}
"""What `compress_ratios` of a `config.json` says of a layer, whatever the rates are; those are in `compress_rates`."""
STALE = ("torch_dtype", "quantization_config", "expert_dtype", "rope_scaling", *RENAMED, *RATE_FIELDS.values())
"""Keys of the configuration that a checkpoint was made from which say otherwise, or again, what we write."""
DTYPES = {"float32": "f32", "bfloat16": "bf16"}
IGNORED = (
    "architectures",
    "attention_dropout",
    "auto_map",
    "expert_dtype",
    "model_type",
    "output_router_logits",
    "quantization_config",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "topk_method",
    "torch_dtype",
    "transformers_version",
    "use_cache",
)
"""Keys that say nothing about how the model is run here; a YAML layer may carry them."""
MODEL_TYPE = "deepseek_v4"


def normalise(given: Mapping[str, Any]) -> Normalised:
    """Fields of a YAML layer or an option, Hugging Face spellings replaced by ours; unknown keys are kept as they are."""
    result = Normalised({key: (value, key) for key, value in given.items() if key not in (*_CONVERT, *IGNORED)})
    result.problems += another_model(given)
    for key, convert in _CONVERT.items():
        if key in given:
            try:
                convert(given, result)
            except (TypeError, ValueError, AttributeError, KeyError) as error:
                result.problems.append((key, f"'{key}' cannot be understood: {error}"))
    return result


def another_model(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Key and message where fields say that they are of another model."""
    found = []
    kind, classes = given.get("model_type"), given.get("architectures")
    if kind not in (None, MODEL_TYPE):
        found.append(("model_type", f"'model_type' is '{kind}', expected '{MODEL_TYPE}'"))
    named = [str(name) for name in (classes if isinstance(classes, list) else [classes]) if name is not None]
    if named and not any("deepseekv4" in name.lower() for name in named):
        message = f"'architectures' is {', '.join(named)}, expected one of DeepSeek-V4, as DeepseekV4ForCausalLM"
        found.append(("architectures", message))
    return found


def _layer_types(given: Mapping[str, Any], result: Normalised) -> None:
    types = given["layer_types"]
    if types is None:
        return
    rates = given.get("compress_rates") or {}
    ratios = ratios_of(*(rates.get(kind, given.get(name, CODES[kind])) for kind, name in RATE_FIELDS.items()))
    unknown = sorted({str(kind) for kind in types if kind not in ratios})
    if unknown:
        raise ValueError(f"{', '.join(unknown)} is not one of {', '.join(LAYER_TYPES)}")
    result.fields["compress_ratios"] = [ratios[kind] for kind in types], "layer_types"


def ratios_of(csa: Any, hca: Any) -> dict[str, Any]:
    """What our `compress_ratios` says of a layer, by kind: its rate; where both rates are the same, its code."""
    return CODES if csa == hca else {SWA: 0, CSA: csa, HCA: hca}


def _compress_rates(given: Mapping[str, Any], result: Normalised) -> None:
    for kind, name in ((CSA, "compress_rate_csa"), (HCA, "compress_rate_hca")):
        if kind in (given["compress_rates"] or {}):
            result.fields[name] = given["compress_rates"][kind], "compress_rates"


def _mlp_layer_types(given: Mapping[str, Any], result: Normalised) -> None:
    types = given["mlp_layer_types"]
    if types is None:
        return
    unknown = sorted({str(kind) for kind in types} - {"hash_moe", "moe"})
    if unknown:
        raise ValueError(f"{', '.join(unknown)} is not one of hash_moe, moe")
    hashed = types.count("hash_moe")
    if "hash_moe" in types[hashed:]:
        raise ValueError("a hash_moe layer follows a moe layer; hash layers come first")
    result.fields["num_hash_layers"] = hashed, "mlp_layer_types"


def _partial_rotary_factor(given: Mapping[str, Any], result: Normalised) -> None:
    factor = given["partial_rotary_factor"]
    if factor is not None:
        result.fields["qk_rope_head_dim"] = f"floor(head_dim * {float(factor)!r})", "partial_rotary_factor"


ROPES = ("rope_scaling", "rope_parameters")


def endless(value: Any, name: str = "") -> str | None:
    """What is wrong with the parameters of a rotation if any number among them, used or not, is NaN or infinite."""
    if isinstance(value, dict):
        found = (endless(item, f"{name}.{key}" if name else key) for key, item in value.items())
        return next(filter(None, found), None)
    if not isinstance(value, float) or isfinite(value):
        return None
    return f"has {value!r} for {name or 'its value'}, expected a finite number"


def _rope_scaling(given: Mapping[str, Any], result: Normalised) -> None:
    for key in ROPES:
        if problem := endless(given.get(key)):
            raise ValueError(problem)
    key = "rope_parameters" if given.get("rope_parameters") is not None else "rope_scaling"
    rope = given[key]
    if rope is None:
        result.fields["rope_type"] = "default", key
    elif isinstance(rope.get("main"), dict) and isinstance(rope.get("compress"), dict):
        _nested_rope(rope, result)
    else:
        _yarn(rope, result, key)


def _nested_rope(rope: Mapping[str, Any], result: Normalised) -> None:
    main, compress = rope["main"], rope["compress"]
    if main.get("rope_type", "default") != "default":
        raise ValueError(f"main has rope_type '{main['rope_type']}', expected 'default'")
    for part, name in ((main, "rope_theta"), (compress, "compress_rope_theta")):
        if "rope_theta" in part:
            result.fields[name] = part["rope_theta"], "rope_parameters"
    _yarn({"rope_type": "default", **compress}, result, "rope_parameters")
    if compress.get("rope_type") == "yarn" and compress.get("attention_factor") is None:
        result.fields["rope_attention_factor"] = 0.1 * log(compress["factor"]) + 1.0, "rope_parameters"


def _yarn(rope: Mapping[str, Any], result: Normalised, key: str) -> None:
    kind = rope.get("rope_type", rope.get("type"))
    if kind is not None:
        result.fields["rope_type"] = kind, key
    for name, ours in YARN_FIELDS.items():
        if rope.get(name) is not None:
            result.fields[ours] = rope[name], key


def _rename(given: Mapping[str, Any], result: Normalised) -> None:
    for name, ours in RENAMED.items():
        if name in given:
            result.fields.setdefault(ours, (given[name], name))


_CONVERT = {
    "layer_types": _layer_types,
    "compress_rates": _compress_rates,
    "mlp_layer_types": _mlp_layer_types,
    "partial_rotary_factor": _partial_rotary_factor,
    "rope_scaling": _rope_scaling,
    "rope_parameters": _rope_scaling,
    **dict.fromkeys(RENAMED, _rename),
}


def config_json(values: Mapping[str, Any], dtype: str, quantisation: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The `config.json` of a checkpoint of the model that `values` describe, in both generations' fields.

    `dtype` is `f32` or `bf16`: what the plain tensors are stored in. transformers loads the result as it is.
    """
    layers = values["num_hidden_layers"]
    kind_of = {0: SWA, values["CSA_RATIO"]: CSA, values["HCA_RATIO"]: HCA}
    kinds = [kind_of[ratio] for ratio in values["compress_ratios"]]
    hashed = min(values["num_hash_layers"], layers)
    factor = _partial_factor(values["qk_rope_head_dim"], values["head_dim"])
    result = {
        "architectures": ["DeepseekV4ForCausalLM"],
        "model_type": MODEL_TYPE,
        "dtype": {ours: theirs for theirs, ours in DTYPES.items()}[dtype],
        **{name: _number(name, values[name]) for name in DEFAULTS},
        "qk_rope_head_dim": values["qk_rope_head_dim"],
        "partial_rotary_factor": factor,
        "num_hash_layers": hashed,
        "compress_ratios": [CODES[kind] for kind in kinds],
        "layer_types": kinds[:layers],
        "compress_rates": {CSA: values["compress_rate_csa"], HCA: values["compress_rate_hca"]},
        "mlp_layer_types": ["hash_moe"] * hashed + ["moe"] * (layers - hashed),
        "rope_parameters": _rope_parameters(values, factor),
    }
    if quantisation is not None:
        result["quantization_config"] = dict(quantisation)
    return result


def quantisation_config(flavour: str) -> dict[str, Any] | None:
    """What `config.json` says about quantised weights."""
    if flavour in ("f32", "bf16"):
        return None
    if flavour == "w8a8":
        return {"quant_method": "w8a8", "weights": "int8 per output channel", "activations": "int8 per token"}
    scales = "ue8m0" if flavour in ("fp8-e8m0", "fp4") else "float"
    result = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "scale_fmt": scales}
    return result | ({"expert_dtype": "fp4"} if flavour == "fp4" else {})


def _rope_parameters(values: Mapping[str, Any], factor: float) -> dict[str, Any]:
    compress = {"rope_type": values["rope_type"], "rope_theta": values["compress_rope_theta"], "partial_rotary_factor": factor}
    if values["rope_type"] == "yarn":
        compress |= {theirs: values[ours] for theirs, ours in YARN_FIELDS.items()}
    main = {"rope_type": "default", "rope_theta": values["rope_theta"], "partial_rotary_factor": factor}
    return {"main": main, "compress": compress}


def _partial_factor(rope_width: int, head_dim: int) -> float:
    """`rope_width / head_dim`, rounded so that `int(head_dim * factor)` gives `rope_width` back."""
    factor = rope_width / head_dim
    return factor if floor(head_dim * factor) == rope_width else nextafter(factor, 2.0)


def _number(name: str, value: Any) -> Any:
    """A field's value as transformers takes it: no integer where it wants a float, infinity as it writes it."""
    if not isinstance(DEFAULTS[name], float) or (name in EITHER and not isinstance(value, float)):
        return value
    return {"__float__": "Infinity"} if isinf(value) else float(value)
