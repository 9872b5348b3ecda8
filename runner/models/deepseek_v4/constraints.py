"""Combinations of fields that the model or the graphs cannot be: each refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from runner.base.errors import Diagnostic
from runner.language.given import Given

Values = Mapping[str, Any]


def impossible(values: Values, given: Mapping[str, Given], deploy: str) -> list[Diagnostic]:
    """One diagnostic for every rule that `values` break, at the place of the field that a user most likely changed.

    Values that could not be evaluated are absent; the rules that need them are left out.
    """
    found: list[tuple[str, tuple[str, ...]]] = []
    for rules in (_attention(values), _rotation(values), _layers(values), _experts(values), _tokens(values, deploy)):
        with suppress(KeyError):
            found.extend(rules)
    return [_blame(message, names, given) for message, names in found]


def _blame(message: str, names: tuple[str, ...], given: Mapping[str, Given]) -> Diagnostic:
    """The problem told at an option if one gave any of `names`, else at the first that a file gave."""
    involved = [given[name] for name in names if name in given]
    options = [item for item in involved if item.option is not None]
    written = [item for item in involved if not item.is_default]
    blamed = (options or written or involved)[0]
    return blamed.problem("C104", message)


Problems = Iterator[tuple[str, tuple[str, ...]]]


def _attention(v: Values) -> Problems:
    heads, groups, rope = v["num_attention_heads"], v["o_groups"], v["qk_rope_head_dim"]
    if heads % groups:
        message = f"'num_attention_heads' ({heads}) is not divisible by 'o_groups' ({groups})"
        yield message, ("o_groups", "num_attention_heads")
    if rope % 2:
        yield f"'qk_rope_head_dim' is {rope}, expected an even number: rotation is by pairs", ("qk_rope_head_dim",)
    for name in ("head_dim", "index_head_dim"):
        if rope > v[name] and (name == "head_dim" or _has_indexer(v)):
            yield f"'qk_rope_head_dim' ({rope}) is larger than '{name}' ({v[name]})", ("qk_rope_head_dim", name)
    width = v["index_head_dim"]
    if v["precision"] == "w8a8" and _has_indexer(v) and width & (width - 1):
        message = (
            f"'index_head_dim' is {width}, expected a power of two in 'precision' w8a8: its rows are rotated by a Hadamard matrix"
        )
        yield message, ("index_head_dim", "precision")


def _rotation(v: Values) -> Problems:
    if v["rope_type"] == "yarn" and v["compress_rope_theta"] == 1:
        yield "'compress_rope_theta' is 1, from which yarn has no frequencies", ("compress_rope_theta", "rope_type")


def _has_indexer(v: Values) -> bool:
    return v["CSA_RATIO"] in v["compress_ratios"][: v["num_hidden_layers"]]


def _layers(v: Values) -> Problems:
    ratios, layers = v["compress_ratios"], v["num_hidden_layers"]
    csa, hca = v["CSA_RATIO"], v["HCA_RATIO"]
    if len(ratios) < layers:
        message = f"'compress_ratios' has {len(ratios)} entries, expected one for each of 'num_hidden_layers' ({layers})"
        yield message, ("compress_ratios", "num_hidden_layers")
    for layer, ratio in enumerate(ratios):
        if ratio not in (0, csa, hca):
            yield f"'compress_ratios[{layer}]' is {ratio}, expected 0, {csa} or {hca}", ("compress_ratios",)


def _experts(v: Values) -> Problems:
    experts, ep, topk = v["n_routed_experts"], v["ep"], v["num_experts_per_tok"]
    if experts % ep:
        yield f"'n_routed_experts' ({experts}) is not divisible by 'ep' ({ep})", ("ep", "n_routed_experts")
    if topk > experts:
        message = f"'num_experts_per_tok' ({topk}) is larger than 'n_routed_experts' ({experts})"
        yield message, ("num_experts_per_tok", "n_routed_experts")


def _tokens(v: Values, deploy: str) -> Problems:
    if v["T"] != v["batch"] * v["seq"]:
        message = f"'T' is {v['T']}, but deployment '{deploy}' has batch {v['batch']} x seq {v['seq']} = {v['batch'] * v['seq']}"
        yield message, ("T", "batch", "seq")
    if v["seq"] > v["max_context"]:
        yield f"'max_context' ({v['max_context']}) is less than one step's 'seq' ({v['seq']})", ("max_context", "seq")
