"""The quick half of validation against jsonschema: what it accepts is valid, and it accepts what people write."""

import json
import random
from copy import deepcopy
from pathlib import Path

import pytest
from jsonschema import Draft7Validator
from places import ROOT
from sampled import sampled

from runner.base.json_schema import surely_fits
from runner.language.structure import schema, to_data
from runner.language.yaml_source import read_source

SHIPPED = sorted((ROOT / "graphs" / "deepseek_v4").glob("*.yaml"))
ODD = (None, True, False, 0, 1, -1, 1.0, 2.5, "", " ", "x", "f32[T]", "2x", "default", [], ["x"], {}, {"op": "x"}, {"x": 1})


def data_of(path: Path):
    source = read_source(path.read_bytes(), str(path), 10)
    assert source.root is not None
    return to_data(source.root)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_graphs_need_no_second_look(path):
    assert surely_fits(data_of(path), schema(), schema())


def mutated(value, rng):
    """The data with one place changed: a value replaced, a key taken away, renamed or added."""
    value = deepcopy(value)
    at = value
    while isinstance(at, dict | list) and at:
        key = rng.choice(list(at) if isinstance(at, dict) else range(len(at)))
        if rng.random() < 0.25 or not isinstance(at[key], dict | list):
            match rng.randrange(4):
                case 0:
                    at[key] = rng.choice(ODD)
                case 1:
                    del at[key]
                case 2 if isinstance(at, dict):
                    at[rng.choice(("op", "for", "use", "alloc", "then", "nothing", "2x"))] = at.pop(key)
                case _ if isinstance(at, dict):
                    at[rng.choice(("op", "scope", "if", "body", "in", "out", "nothing"))] = rng.choice(ODD)
            return value
        at = at[key]
    return rng.choice(ODD)


@pytest.mark.parametrize("num", sampled((15, 60), (15,)))
def test_what_it_accepts_is_valid(num):
    rng, validator, accepted, refused = random.Random(3), Draft7Validator(schema()), 0, 0
    for path in SHIPPED:
        data = data_of(path)
        for _ in range(num):
            changed = mutated(data, rng)
            fits, valid = surely_fits(changed, schema(), schema()), validator.is_valid(changed)
            assert valid or not fits, (path.name, changed)
            accepted, refused = accepted + fits, refused + (not valid)
    assert accepted > 5 * num // 3 and refused > 5 * num


FIELDS = json.loads((ROOT / "graphs" / "schema" / "config.schema.json").read_text("utf-8"))["properties"]


@pytest.mark.parametrize("name", FIELDS)
def test_a_rule_of_a_field_accepts_only_what_is_valid(name):
    rule = FIELDS[name]
    values = [*ODD, *rule.get("enum", ()), rule.get("minimum", 0), 10**30, float("nan"), float("inf"), [1, 2], [1, "x"], [1.5]]
    fits = [surely_fits(value, rule, rule) for value in values]
    assert all(Draft7Validator(rule).is_valid(value) for value, fit in zip(values, fits, strict=True) if fit)
    assert any(fits)


@pytest.mark.parametrize(
    "rule", [{"maximum": 3}, {"not": {}}, {"$ref": "other.json"}, {"if": {}, "then": {}, "else": {"not": {}}}]
)
def test_what_it_does_not_know_it_never_accepts(rule):
    assert not surely_fits(1, rule, rule)
