"""Configurations of no model: fields that layers declare, against an independent reading of random declarations and layers."""

import json
from fractions import Fraction
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.base.errors import ConfigError
from runner.config.config import load_config
from runner.config.schema import layer_schema
from runner.driver.driver import resolve
from runner.driver.face import Driver

GRAPHS = Path(__file__).parents[2] / "graphs"
NAMES = ("alpha", "beta", "gamma", "delta", "n_taps", "x")
KINDS = ("integer", "number", "string", "boolean")
INTEGERS, NUMBERS = st.integers(-50, 50), st.floats(-50, 50, allow_nan=False).map(lambda value: round(value, 3))
TEXTS = st.sampled_from(["hann", "none", "a b", "on", "1e", ""])
VALUES = {"integer": INTEGERS, "number": st.one_of(INTEGERS, NUMBERS), "string": TEXTS, "boolean": st.booleans()}
ANY = st.one_of(*VALUES.values(), st.none(), st.lists(INTEGERS, max_size=3))


@st.composite
def rules(draw):
    """What a field is, as a layer has it."""
    kind = draw(st.sampled_from([*KINDS, "list"]))
    rule = {"type": kind}
    if kind in ("integer", "number"):
        for key in draw(st.lists(st.sampled_from(["minimum", "maximum", "above", "below"]), max_size=2, unique=True)):
            rule[key] = draw(INTEGERS)
    if kind in ("integer", "string") and draw(st.booleans()):
        rule["choices"] = draw(st.lists(VALUES[kind], min_size=1, max_size=4, unique=True))
    if kind == "list":
        rule["items"] = draw(st.sampled_from(KINDS))
        for key in draw(st.lists(st.sampled_from(["shortest", "longest"]), max_size=1)):
            rule[key] = draw(st.integers(0, 3))
    elif draw(st.booleans()):
        rule["type"] = [kind, None]
    if draw(st.booleans()):
        rule["default"] = draw(likely(rule))
    return rule


def likely(rule):
    """Values for a field, most of which fit."""
    kinds = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
    if kinds == ["list"]:
        return st.one_of(st.lists(VALUES[rule["items"]], max_size=4), ANY)
    fitting = [VALUES[kind] if kind is not None else st.none() for kind in kinds]
    return st.one_of(*fitting, *fitting, *([st.sampled_from(rule["choices"])] * 3 if "choices" in rule else ()), ANY)


@st.composite
def layers(draw):
    """A declaration, and values over it: some missing, some of fields that there are not."""
    declared = draw(st.dictionaries(st.sampled_from(NAMES), rules(), min_size=1))
    given_values = {name: draw(likely(rule)) for name, rule in declared.items() if draw(st.integers(0, 9))}
    strangers = draw(st.lists(st.sampled_from([name for name in NAMES if name not in declared] or ["zeta"]), max_size=1))
    return declared, given_values, strangers


def fits(rule, value):
    """Whether a value is one of a field, by the words of docs/configuration.md; a text in a number is an expression."""
    kinds = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
    if value is None:
        return None in kinds and ("choices" not in rule or None in rule["choices"])
    if isinstance(value, list):
        length = rule.get("shortest", 0) <= len(value) <= rule.get("longest", 99)
        return "list" in kinds and length and all(fits({"type": rule["items"]}, entry) for entry in value)
    of = {
        "boolean": isinstance(value, bool),
        "string": isinstance(value, str),
        "integer": isinstance(value, int | float) and not isinstance(value, bool) and value == int(value),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
    }
    if not any(of.get(kind) for kind in kinds) or ("choices" in rule and value not in rule["choices"]):
        return False
    if isinstance(value, str | bool):
        return True
    bounds = (value >= rule.get("minimum", value), value <= rule.get("maximum", value))
    return all(bounds) and not ("above" in rule and value <= rule["above"]) and not ("below" in rule and value >= rule["below"])


def is_expression(rule, value):
    """Whether a text stands where a number or a truth value is wanted: what it comes to is another test's matter."""
    kinds = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
    if isinstance(value, list) and "list" in kinds:
        return any(is_expression({"type": rule["items"]}, entry) for entry in value)
    return isinstance(value, str) and bool({"integer", "number", "boolean"} & {*kinds}) and "string" not in kinds


@settings(max_examples=150, deadline=None)
@given(case=layers())
def test_random_declarations_and_layers(tmp_path_factory, case):
    declared, values, strangers = case
    path = tmp_path_factory.mktemp("own") / "own.yaml"
    path.write_text(yaml.safe_dump({"fields": declared, **values, **dict.fromkeys(strangers, 3)}, sort_keys=False))
    taken = {
        name: values[name] if name in values else rule["default"]
        for name, rule in declared.items()
        if name in values or "default" in rule
    }
    wrong = {name for name, value in taken.items() if is_expression(declared[name], value) or not fits(declared[name], value)}
    missing = declared.keys() - taken.keys()
    if not (wrong or missing or strangers):
        config = load_config([path])
        assert dict(config.fields) == taken and config.family.name == "none"
        assert all(config.origin(name).startswith(str(path)) for name in taken)
        jsonschema.validate(yaml.safe_load(path.read_text()), layer_schema([path]))
        return
    with pytest.raises(ConfigError) as caught:
        load_config([path])
    text = str(caught.value)
    assert all(f"'{name}" in text for name in wrong | missing | {*strangers}), "every problem is told at once"
    told = sum(problem.code in ("C101", "C102", "C103", "C106") for problem in caught.value.diagnostics)
    assert told == len(wrong) + len(strangers), text


def own(tmp_path, text, name="own.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def refusal(*layers, sets=()):
    with pytest.raises(ConfigError) as caught:
        load_config(layers, sets)
    return str(caught.value)


def test_expressions_over_fields_and_dims(tmp_path):
    text = """
fields:
  n: {type: integer, default: 2 * HALF}
  share: {type: number, default: n / 3}
  odd: {type: boolean, default: n % 2 == 1}
  widths: {type: list, items: integer, default: {each: n * (i + 1), count: 3}}
  names: {type: list, items: {choices: [a, b]}, default: {each: "'a' if i < HALF - 3 else 'b'", count: n // 2}}
  mixed: {type: list, items: number, default: [1, n / 4, 0.5]}
  nothing: {type: [integer, null], default: null}
dims: {HALF: 4}
"""
    config = load_config([own(tmp_path, text)])
    assert (config["n"], config["share"], config["odd"]) == (8, float(Fraction(8, 3)), False)
    assert config["widths"] == [8, 16, 24] and config["names"] == ["a", "b", "b", "b"] and config["mixed"] == [1, 2, 0.5]
    assert config.with_(sets=["HALF=5"])["widths"] == [10, 20, 30] and config["nothing"] is None
    again = load_config([own(tmp_path, text)], ["widths={each: i, count: n}", "odd=true"])
    assert again["widths"] == list(range(8)) and again["odd"] is True


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("integr", "error C102: field 'a': type 'integr' (a string), expected integer, number, string, boolean, null, list"),
        ("{minimum: 3}", "error C102: field 'a' has no type"),
        ("{type: integer, minimun: 3}", "error C101: field 'a': unknown key 'minimun'"),
        ("{type: string, minimum: 3}", "error C102: field 'a': 'minimum' is of numbers, which it is not"),
        ("{type: integer, shortest: 3}", "error C102: field 'a': 'shortest' is of lists, which it is not"),
        ("{type: integer, minimum: x}", "error C102: field 'a': 'minimum' is 'x' (a string), expected a number"),
        ("{choices: 3}", "error C102: field 'a': 'choices' is 3 (an integer), expected a list of values"),
        ("{type: integer, default: x / 0}", "error C106: 'a': expression 'x / 0'"),
        ("{type: integer, default: a + 1}", "error C106: 'a' needs its own value: a -> a"),
        ("{type: list, items: {minimum: 3}}", "error C102: field 'a': 'items' has no type"),
        ("{type: list, items: integer, default: {each: i, count: 99999}}", "error C103: 'a': 'count' is 99999 (an integer)"),
    ],
)
def test_what_is_wrong_with_a_declaration(tmp_path, field, expected):
    text = refusal(own(tmp_path, f"fields:\n  a: {field}\n  x: {{type: integer, default: 1}}\n"))
    assert expected in text and f"{tmp_path}/own.yaml:2:" in text


def test_names_that_no_field_can_have(tmp_path):
    text = refusal(own(tmp_path, "fields: {dims: integer, a-b: integer, if: integer, deploy: string}\n"))
    assert text.count("error C101") == 4


def test_what_fields_have_to_fulfil_together(tmp_path):
    text = "fields: {n: integer, bands: integer}\nrequires:\n  - {that: n % bands == 0, because: bands are alike}\n"
    path = own(tmp_path, text + "n: 12\nbands: 4\n")
    assert load_config([path])["n"] == 12
    assert refusal(path, sets=["n=13"]) == (
        f"{path}:5:1: error C104: 'n % bands == 0' does not hold: bands are alike (bands is 4, n is 13)\nbands: 4\n^"
    )


def test_what_has_no_value_is_told_at_the_field_that_a_requirement_names(tmp_path):
    entry = '{that: "sizes[n - 1] > 0", at: sizes, because: each has one}'
    path = own(
        tmp_path, f"fields: {{n: integer, sizes: {{type: list, items: integer}}}}\nrequires:\n  - {entry}\nn: 2\nsizes: [1, 2]\n"
    )
    assert load_config([path])["n"] == 2
    assert refusal(path, sets=["sizes=[1]"]) == (
        "error C106: 'that': expression 'sizes[n - 1] > 0': index 1 is outside 'sizes', which has 1 elements: each has one"
        " (from --set sizes=[1])"
    )


def test_layers_of_no_model_are_one_together(tmp_path):
    base = own(tmp_path, "fields: {n: integer}\n", "base.yaml")
    more = own(tmp_path, "fields: {m: {type: integer, default: n + 1}}\nn: 3\ndeployments: {a: {n: 4}, b: {n: 5}}\n", "more.yaml")
    config = load_config([base, more], deploy="b")
    assert (config["n"], config["m"], config.name, config.deploy) == (5, 6, "base+more", "b")
    assert load_config([base, more]).deploy == "a", "the first, where none is asked for"
    other = own(tmp_path, "fields: {n: number}\n", "other.yaml")
    assert "error C104: field 'n' is declared otherwise" in refusal(base, other, sets=["n=3"])


def test_fields_beside_those_of_a_family(tmp_path):
    path = own(tmp_path, "fields: {bands: {type: integer, default: hidden_size // 8}}\ndims: {BAND: bands * 2}\n")
    config = load_config(["tiny", path])
    assert (config["bands"], config["BAND"], config.family.name) == (8, 16, "deepseek_v4")
    assert config.with_(sets=["bands=5"])["BAND"] == 10
    assert "declared otherwise by the family 'deepseek_v4'" in refusal("tiny", own(tmp_path, "fields: {hidden_size: string}\n"))
    text = refusal("tiny", own(tmp_path, "serving: {batch: 3}\n"))
    assert "'serving' stands in the layer that declares a family" in text


def test_a_family_of_a_layer(tmp_path):
    family = own(tmp_path, "family: toys\nmodel_types: [toy]\nfields: {n: integer}\n", "family.yaml")
    mine = own(tmp_path, "model: toys\nn: 3\n")
    config = load_config([mine, family])
    assert config["n"] == 3 and config.family.name == "toys" and config.name == "own"
    described = own(tmp_path, json.dumps({"model_type": "toy", "n": 7, "more": 1}), "config.json")
    assert load_config([family, described])["n"] == 7
    assert "'model' is 'deepseek_v4', but the layers below are of the family 'toys'" in refusal(family, "tiny")
    other = own(tmp_path, json.dumps({"model_type": "lama"}), "other.json")
    assert "'model_type' is 'lama', expected 'deepseek_v4' or 'qwen3' or 'toy'" in refusal(family, other)


def test_graphs_of_a_family_are_taken_under_its_preset(tmp_path):
    family = "family: toys\nfields: {n: integer}\ndims: {N: n}\n"
    own(tmp_path, "model: toys\nn: 3\n", "small.yaml")
    graph = own(tmp_path, 'graph: g\ninputs: {x: "f32[N]"}\noutputs: {y: "f32[N]"}\nbody: []\n', "g.yaml")
    own(tmp_path, family, "family.yaml")
    assert resolve((), graph=graph).name == "none"
    own(tmp_path, family + "preset: small.yaml\n", "family.yaml")
    assert resolve((), graph=graph)["N"] == 3 and resolve((), ["n=4"], graph=graph)["N"] == 4
    assert resolve(("tiny",), graph=graph).name == "tiny"
    text = refusal(own(tmp_path, family + "preset: [small.yaml]\nn: 1\n", "family.yaml"))
    assert "'preset' is a list, expected a preset or a file beside this one" in text
    assert "'preset' stands in the layer that declares a family" in refusal("tiny", own(tmp_path, "preset: tiny\n"))
    linted = Driver().linted(GRAPHS)  # of both families, each graph under its own
    assert not linted.findings and {name.split(",")[0] for name in linted.under} == {"qwen3-tiny", "tiny"}


def test_no_configuration_at_all():
    config = load_config([])
    assert (config.name, config.deploy, dict(config.values), config.family.name) == ("none", "", {}, "none")
    assert config.with_(sets=[]) == config
