"""Expressions against Python's own arithmetic on fractions, and everything that is refused."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.base.errors import Mark
from runner.language.expressions import ExprError, parse, parse_indices

VALUES = {"a": 7, "b": 3, "n": 33, "ratio": 2.5, "flag": True, "layer": 1, "none": None}
VALUES |= {"layout": "padded", "ratios": [0, 4, 128]}


def evaluate(text: str):
    return parse(text).evaluate(VALUES.__getitem__)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3 - 4", 3),
        ("a // b + a % b", 3),
        ("-a // b", -3),
        ("6 / 3", 2),
        ("n / 16", Fraction(33, 16)),
        ("ceil(n / 16) * 16", 48),
        ("floor(-n / 16)", -3),
        ("min(a, b, 5) + max(a)", 10),
        ("a if a < b else b", 3),
        ("0 < b <= 3 and not a == b", True),
        ("0 or b > 5", False),
        ("ratios[layer + 1]", 128),
        ("layout == 'padded'", True),
        ("layout != 'padded' or 'x' == 'y'", False),
        ("'text'", "text"),
        ("'i8' if layout == 'ragged' else 'f32'", "f32"),
        ("flag + 1", 2),
        ("true + false", 1),
        ("ratio * 2", 5.0),
        (" ( a\n + b ) ", 10),
        ("none", None),
        ("1.5e0", 1.5),
    ],
)
def test_values(text, value):
    assert evaluate(text) == value


def test_exact_division_of_whole_numbers_gives_integers():
    assert type(evaluate("6 / 3")) is int
    assert type(evaluate("(n / 16) * 16")) is int


OPERATORS = {"+": 2, "-": 2, "*": 2, "/": 2, "//": 2, "%": 2, "<": 2, "==": 2, "min": 2, "ceil": 1, "neg": 1, "if": 3}
trees = st.recursive(
    st.integers(0, 50),
    lambda inner: st.sampled_from(sorted(OPERATORS)).flatmap(lambda op: st.tuples(st.just(op), *[inner] * OPERATORS[op])),
    max_leaves=12,
)


def written(tree) -> str:
    if isinstance(tree, int):
        return str(tree)
    op, *args = (tree[0], *map(written, tree[1:]))
    if op == "if":
        return f"({args[0]} if {args[1]} else {args[2]})"
    if op in ("min", "ceil"):
        return f"{op}({', '.join(args)})"
    return f"(-{args[0]})" if op == "neg" else f"({args[0]} {op} {args[1]})"


def computed(tree) -> Fraction:
    """The value by Python's fractions, which know nothing of the evaluator."""
    if isinstance(tree, int):
        return Fraction(tree)
    if tree[0] == "if":
        return computed(tree[1]) if computed(tree[2]) else computed(tree[3])
    op, *args = (tree[0], *map(computed, tree[1:]))
    operations = {
        "+": lambda: args[0] + args[1],
        "-": lambda: args[0] - args[1],
        "*": lambda: args[0] * args[1],
        "/": lambda: args[0] / args[1],
        "//": lambda: Fraction(args[0] // args[1]),
        "%": lambda: args[0] % args[1],
        "<": lambda: Fraction(args[0] < args[1]),
        "==": lambda: Fraction(args[0] == args[1]),
        "min": lambda: min(args),
        "ceil": lambda: Fraction(math.ceil(args[0])),
        "neg": lambda: -args[0],
    }
    return operations[op]()


@given(trees)
def test_arithmetic_is_exact(tree):
    try:
        expected = computed(tree)
    except ZeroDivisionError:
        with pytest.raises(ExprError, match="division by zero"):
            evaluate(written(tree))
        return
    assert evaluate(written(tree)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a +", "is not a valid expression"),
        ("(" * 300 + "a" + ")" * 300, "is not a valid expression"),
        ("a.b", "attribute access '.b' is not allowed"),
        ("a ** b", "'**' is not allowed"),
        ("__import__('os')", "a call other than ceil, floor, min, max, log is not allowed"),
        ("min(*ratios)", "'starred' is not allowed"),
        ("max(a, key=b)", "a call other than ceil, floor, min, max, log is not allowed"),
        ("ceil(a, b)", "'ceil' takes 1 argument, got 2"),
        ("min()", "'min' takes at least 1 argument, got 0"),
        ("ceil + 1", "function 'ceil' needs its arguments"),
        ("lambda: 1", "'lambda' is not allowed"),
        ("[1, 2]", "a list is not allowed"),
        ("[i for i in ratios]", "'listcomp' is not allowed"),
        ("(a := 1)", "'namedexpr' is not allowed"),
        ("a << b", "a bit operation is not allowed"),
        ("a in ratios", "'in' or 'is' is not allowed"),
        ("'x' + 'y'", "text can only be compared with '==' or '!=', or chosen by an 'if'"),
        ("layout < 'x'", "text can only be compared"),
        ("f'{a}'", "'joinedstr' is not allowed"),
        ("ratios[0:1]", "a range ':' is not allowed"),
        ("a # comment", "character '#' is not allowed"),
        ("a; b", "is not a valid expression"),
        ("né", "character 'é' is not allowed"),
        ("None", "None is not allowed"),
        ("-" * 40 + "1", "nesting deeper than 32 is not allowed"),
        ("1 + " * 300 + "1", "characters long, at most 1,000 are allowed"),
        ("9" * 20, "the number is too large"),
    ],
)
def test_what_is_refused_when_parsed(text, message):
    with pytest.raises(ExprError) as error:
        parse(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("missing + 1", "unknown name 'missing'"),
        ("a / 0", "division by zero"),
        ("a % (b - 3)", "division by zero"),
        ("layout + 1", "needs a number here, got text"),
        ("ratios * 2", "needs a number here, got a list"),
        ("none + 1", "needs a number here, got no value"),
        ("ratios[3]", "index 3 is outside 'ratios', which has 3 elements"),
        ("ratios[-1]", "index -1 is outside 'ratios', which has 3 elements"),
        ("ratios[1 / 2]", "an index must be an integer"),
        ("ratios[0, 1]", "'ratios' is a list and takes one index, got 2"),
        ("a[0]", "'a' cannot be indexed: it is neither a list nor a tensor"),
        ("n * n * n * n * n * n * n * n * n * n * n * n * n", "the number is too large"),
        ("ratio * 1e308 * 1e308", "the number is too large"),
        ("layout < 3", "needs a number here, got text"),
    ],
)
def test_what_has_no_value(text, message):
    with pytest.raises(ExprError) as error:
        evaluate(text)
    assert error.value.message == message


def test_errors_point_at_the_culprit():
    with pytest.raises(ExprError) as error:
        parse("a + missing", Mark("f.yaml", 3, 10)).evaluate(VALUES.__getitem__)
    assert str(error.value) == "f.yaml:3:14: error G301: expression 'a + missing': unknown name 'missing'"
    assert error.value.unknown == "missing"


@pytest.mark.parametrize(
    ("text", "message"),
    [("n / 16", "is 2.0625, expected an integer"), ("layout", "is 'padded', expected an integer")],
)
def test_a_dim_must_be_an_integer(text, message):
    with pytest.raises(ExprError, match=message):
        parse(text).integer(VALUES.__getitem__)


def test_names():
    expr = parse("ceil(count[e, 0] / tile) + (ratios[layer] if a else 'x' == layout)")
    assert expr.names() == {"count", "e", "tile", "ratios", "layer", "a", "layout"}
    assert expr.indexed() == {"count", "ratios"}


def test_elements_of_tensors_come_from_a_function():
    asked = []

    def count(index):
        asked.append(index)
        return 40

    assert parse("ceil(count[2, b] / 16)").evaluate({**VALUES, "count": count}.__getitem__) == 3
    assert asked == [(2, 3)]


def test_indices():
    name, (row, (lo, hi), (first, last)) = parse_indices("x[a - 1, 16*b : 16*b + 16, :]")
    assert (name, first, last) == ("x", None, None)
    assert [expr.integer(VALUES.__getitem__) for expr in (row, lo, hi)] == [6, 48, 64]


@pytest.mark.parametrize("text", ["x", "x[1][2]", "x.y[1]", "x[a:b:2]", "3[1]"])
def test_what_is_no_index(text):
    with pytest.raises(ExprError):
        parse_indices(text)
