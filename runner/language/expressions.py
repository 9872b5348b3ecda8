"""Expressions of graphs and configurations are parsed with `ast` and evaluated by a small evaluator here, never by `eval`.

Arithmetic (`+ - * / // %`, unary minus), comparisons, `and`/`or`/`not`, `a if c else b`, `ceil`/`floor`/`min`/`max`, the
natural logarithm `log`, and indexing of a list of the configuration (`widths[layer]`) or of a tensor (`counts[e, 0]`). `/` is
exact: `ceil(n / 16)` is right for every n. Text constants may be compared with `==` and `!=`, stand alone, or be what an `if`
chooses.
"""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from runner.base.errors import Diagnostic, GraphError, Mark

SYNTAX_CODE = "G210"
VALUE_CODE = "G310"
UNKNOWN_CODE = "G301"

MAX_LENGTH = 1000
MAX_DEPTH = 32
MAX_NUMBER = 2**63

Lookup = Callable[[str], Any]
"""Gives the value of a name or raises KeyError. What stands for a tensor is a function from an index tuple to an element."""

_Node = Callable[[Lookup], Any]


class _ProblemError(Exception):
    """Something wrong at an offset into the text; `unknown` is the name that has no value."""

    def __init__(self, message: str, offset: int = 0, unknown: str | None = None, code: str = VALUE_CODE):
        super().__init__(message)
        self.message, self.offset, self.unknown, self.code = message, offset, unknown, code


class ExprError(GraphError):
    """An expression that cannot be parsed or evaluated. `message` is the bare reason; `unknown` a name that has no value."""

    def __init__(self, text: str, problem: _ProblemError, mark: Mark | None):
        where = mark.moved(problem.offset) if mark else None
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        super().__init__(Diagnostic(problem.code, f"expression '{shown}': {problem.message}", where))
        self.message = problem.message
        self.unknown = problem.unknown
        self.offset = problem.offset


@dataclass(frozen=True, slots=True)
class Expr:
    """A parsed expression and where its text stands."""

    text: str
    mark: Mark | None
    _node: _Node
    _names: frozenset[str]
    _indexed: frozenset[str]

    def names(self) -> frozenset[str]:
        """All names it needs a value for."""
        return self._names

    def indexed(self) -> frozenset[str]:
        """The names that it indexes: lists of the configuration, or tensors."""
        return self._indexed

    def evaluate(self, lookup: Lookup) -> Any:
        """Its value; raises ExprError. Whole rationals come as int."""
        try:
            return self._node(lookup)
        except _ProblemError as problem:
            raise ExprError(self.text, problem, self.mark) from None

    def integer(self, lookup: Lookup) -> int:
        """Its value, which must be a whole number; raises ExprError."""
        value = self.evaluate(lookup)
        if isinstance(value, int):
            return int(value)
        got = f"{float(value):g}" if isinstance(value, (Fraction, float)) else repr(value)
        raise ExprError(self.text, _ProblemError(f"is {got}, expected an integer"), self.mark)


def parse(text: str, mark: Mark | None = None) -> Expr:
    """`text` as an expression; raises ExprError with the place of the first thing that is not allowed."""
    try:
        node, names, indexed = _parse(text)
    except _ProblemError as problem:
        raise ExprError(text, problem, mark) from None
    return Expr(text, mark, node, names, indexed)


def parse_indices(text: str, mark: Mark | None = None) -> tuple[str, tuple[Expr | tuple[Expr | None, Expr | None], ...]]:
    """`x[i, a : b, :]` as a name and its indices: an Expr, or a pair of Exprs or Nones for a range; raises ExprError."""
    try:
        name, indices = _parse_indices(text)
    except _ProblemError as problem:
        raise ExprError(text, problem, mark) from None

    def expr(offset: int, part: str, found: tuple[_Node, frozenset[str], frozenset[str]]) -> Expr:
        return Expr(part, mark.moved(offset) if mark else None, *found)

    return name, tuple(
        expr(*index) if len(index) == 3 else tuple(None if end is None else expr(*end) for end in index)  # type: ignore
        for index in indices
    )


@lru_cache(maxsize=65536)
def _parse(text: str) -> tuple[_Node, frozenset[str], frozenset[str]]:
    tree, _, shift = _tree(text)
    return _Compiler(shift).run(tree)


@lru_cache(maxsize=65536)
def _parse_indices(text: str) -> tuple[str, tuple[Any, ...]]:
    tree, source, shift = _tree(text)
    if not isinstance(tree, ast.Subscript) or not isinstance(tree.value, ast.Name):
        raise _ProblemError("is not 'name[index, ...]'", code=SYNTAX_CODE)
    compiler = _Compiler(shift)

    def part(node: ast.expr | None) -> tuple[int, str, Any] | None:
        if node is None:
            return None
        found = ast.get_source_segment(source, node) or source
        try:  # its problems are counted from where the part begins, which is the place that its expression has
            return node.col_offset + shift, found, _Compiler(-node.col_offset).run(node)
        except _ProblemError as problem:
            problem.offset += node.col_offset + shift
            raise

    def index(node: ast.expr) -> Any:
        if not isinstance(node, ast.Slice):
            return part(node)
        if node.step is not None:
            raise _ProblemError("a range has no step", compiler.offset(node.step), code=SYNTAX_CODE)
        return (part(node.lower), part(node.upper))

    inner = tree.slice.elts if isinstance(tree.slice, ast.Tuple) else [tree.slice]
    return tree.value.id, tuple(index(node) for node in inner)


def _tree(text: str) -> tuple[ast.expr, str, int]:
    """The parsed text, the text parsed, and how far that lies behind the original's start."""
    if len(text) > MAX_LENGTH:
        raise _ProblemError(f"is {len(text):,} characters long, at most {MAX_LENGTH:,} are allowed", code=SYNTAX_CODE)
    source = text.replace("\n", " ")
    shift = len(source) - len(source.lstrip())
    source = source.strip()
    if not source:
        raise _ProblemError("is empty", code=SYNTAX_CODE)
    bad = next((i for i, char in enumerate(source) if not (char.isascii() and char.isprintable()) or char in "#\\"), None)
    if bad is not None:
        raise _ProblemError(f"character {source[bad]!r} is not allowed", bad + shift, code=SYNTAX_CODE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source, mode="eval").body, source, shift
    except SyntaxError as error:
        offset = min(max((error.offset or 1) - 1, 0), len(source) - 1)
        raise _ProblemError("is not a valid expression", offset + shift, code=SYNTAX_CODE) from None
    except (ValueError, RecursionError, MemoryError):
        raise _ProblemError("is not a valid expression", code=SYNTAX_CODE) from None


def _number(value: Any, offset: int) -> Any:
    if isinstance(value, (int, float, Fraction)):
        return value
    got = (
        "text"
        if isinstance(value, str)
        else "a list"
        if isinstance(value, (list, tuple))
        else "a tensor"
        if callable(value)
        else "no value"
    )
    raise _ProblemError(f"needs a number here, got {got}", offset)


def _checked(value: Any, offset: int) -> Any:
    """Keeps numbers small, so that no expression can take long; whole rationals become int."""
    if type(value) is Fraction:
        if value.denominator == 1:
            value = value.numerator
        elif value.denominator >= MAX_NUMBER or abs(value.numerator) >= MAX_NUMBER:
            raise _ProblemError("the number is too large", offset)
    if (type(value) is int and abs(value) >= MAX_NUMBER) or (type(value) is float and not math.isfinite(value)):
        raise _ProblemError("the number is too large", offset)
    return value


def _divide(a: Any, b: Any) -> Any:
    if isinstance(a, float) or isinstance(b, float):
        return a / b
    return Fraction(a, b)


_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: _divide,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: dict[str, tuple[Callable[..., Any], int | None]] = {
    "ceil": (math.ceil, 1),
    "floor": (math.floor, 1),
    "min": (min, None),
    "max": (max, None),
    "log": (math.log, 1),
}


class _Compiler:
    """Turns one parsed expression into nested closures, collecting its names."""

    def __init__(self, shift: int) -> None:
        self.shift = shift
        self.names: set[str] = set()
        self.indexed: set[str] = set()

    def run(self, tree: ast.expr) -> tuple[_Node, frozenset[str], frozenset[str]]:
        node = self.choice(tree, 0)
        return node, frozenset(self.names), frozenset(self.indexed)

    def offset(self, tree: ast.expr) -> int:
        return tree.col_offset + self.shift

    def refuse(self, tree: ast.expr, what: str) -> _ProblemError:
        return _ProblemError(f"{what} is not allowed", self.offset(tree), code=SYNTAX_CODE)

    def choice(self, tree: ast.expr, depth: int) -> _Node:
        """A whole expression or what an `if` chooses, which may be a text."""
        if isinstance(tree, ast.Constant) and isinstance(tree.value, str):
            text = tree.value
            return lambda look: text
        if not isinstance(tree, ast.IfExp) or depth > MAX_DEPTH:
            return self.compile(tree, depth)
        test = self.compile(tree.test, depth + 1)
        then, other = (self.choice(part, depth + 1) for part in (tree.body, tree.orelse))
        return lambda look: then(look) if test(look) else other(look)

    def compile(self, tree: ast.expr, depth: int) -> _Node:
        if depth > MAX_DEPTH:
            raise self.refuse(tree, f"nesting deeper than {MAX_DEPTH}")
        depth += 1
        match tree:
            case ast.Constant():
                return self.constant(tree)
            case ast.Name():
                return self.name(tree)
            case ast.BinOp() if type(tree.op) in _ARITHMETIC:
                return self.arithmetic(tree, depth)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                return self.sign(tree, depth)
            case ast.UnaryOp(op=ast.Not()):
                inner = self.compile(tree.operand, depth)
                return lambda look: not inner(look)
            case ast.BoolOp():
                return self.boolean(tree, depth)
            case ast.Compare() if all(type(op) in _COMPARISONS for op in tree.ops):
                return self.comparison(tree, depth)
            case ast.IfExp():
                return self.choice(tree, depth)
            case ast.Call():
                return self.call(tree, depth)
            case ast.Subscript():
                return self.subscript(tree, depth)
        raise self.refuse(tree, _describe(tree))

    def constant(self, tree: ast.Constant) -> _Node:
        value = tree.value
        if isinstance(value, str):
            raise _ProblemError(
                "text can only be compared with '==' or '!=', or chosen by an 'if'", self.offset(tree), code=SYNTAX_CODE
            )
        if not isinstance(value, (int, float)):
            raise self.refuse(tree, f"{value!r}")
        value = _checked(int(value) if isinstance(value, bool) else value, self.offset(tree))
        return lambda look: value

    def name(self, tree: ast.Name) -> _Node:
        name, offset = tree.id, self.offset(tree)
        if name in ("true", "false"):
            value = int(name == "true")
            return lambda look: value
        if name in _FUNCTIONS:
            raise _ProblemError(f"function '{name}' needs its arguments", offset, code=SYNTAX_CODE)
        self.names.add(name)

        def get(look: Lookup) -> Any:
            try:
                return look(name)
            except KeyError:
                raise _ProblemError(f"unknown name '{name}'", offset, name, UNKNOWN_CODE) from None

        return get

    def arithmetic(self, tree: ast.BinOp, depth: int) -> _Node:
        left, right = self.compile(tree.left, depth), self.compile(tree.right, depth)
        apply, at_left, at_right, offset = (
            _ARITHMETIC[type(tree.op)],
            self.offset(tree.left),
            self.offset(tree.right),
            self.offset(tree),
        )

        def run(look: Lookup) -> Any:
            a = left(look)
            a = a if type(a) is int else _number(a, at_left)
            b = right(look)
            b = b if type(b) is int else _number(b, at_right)
            try:
                value = apply(a, b)
                return value if type(value) is int and -MAX_NUMBER < value < MAX_NUMBER else _checked(value, offset)
            except ZeroDivisionError:
                raise _ProblemError("division by zero", at_right) from None
            except OverflowError:
                raise _ProblemError("the number is too large", offset) from None

        return run

    def sign(self, tree: ast.UnaryOp, depth: int) -> _Node:
        inner, offset = self.compile(tree.operand, depth), self.offset(tree.operand)
        if isinstance(tree.op, ast.UAdd):
            return lambda look: +_number(inner(look), offset)
        return lambda look: -_number(inner(look), offset)

    def boolean(self, tree: ast.BoolOp, depth: int) -> _Node:
        parts = [self.compile(part, depth) for part in tree.values]
        if isinstance(tree.op, ast.And):
            return lambda look: all(part(look) for part in parts)
        return lambda look: any(part(look) for part in parts)

    def comparison(self, tree: ast.Compare, depth: int) -> _Node:
        sides = [tree.left, *tree.comparators]
        ops = [_COMPARISONS[type(op)] for op in tree.ops]
        equality = all(op in (operator.eq, operator.ne) for op in ops)
        nodes: list[_Node] = []
        for side in sides:
            if equality and isinstance(side, ast.Constant) and isinstance(side.value, str):
                nodes.append(lambda look, text=side.value: text)
            else:
                nodes.append(self.compile(side, depth))
        offsets = [self.offset(side) for side in sides]

        def run(look: Lookup) -> bool:
            values = [node(look) for node in nodes]
            if not equality:
                values = [_number(value, offset) for value, offset in zip(values, offsets, strict=True)]
            return all(op(a, b) for op, a, b in zip(ops, values, values[1:], strict=False))

        return run

    def call(self, tree: ast.Call, depth: int) -> _Node:
        if not isinstance(tree.func, ast.Name) or tree.func.id not in _FUNCTIONS or tree.keywords:
            raise self.refuse(tree, f"a call other than {', '.join(_FUNCTIONS)}")
        function, count = _FUNCTIONS[tree.func.id]
        if len(tree.args) != count if count else not tree.args:
            wanted = f"{count} argument" if count else "at least 1 argument"
            raise _ProblemError(f"'{tree.func.id}' takes {wanted}, got {len(tree.args)}", self.offset(tree), code=SYNTAX_CODE)
        args = [(self.compile(arg, depth), self.offset(arg)) for arg in tree.args]
        if tree.func.id == "log":
            return lambda look: _log(_number(args[0][0](look), args[0][1]), args[0][1])
        if count:
            return lambda look: function(*(_number(arg(look), offset) for arg, offset in args))
        return lambda look: function([_number(arg(look), offset) for arg, offset in args])

    def subscript(self, tree: ast.Subscript, depth: int) -> _Node:
        if not isinstance(tree.value, ast.Name):
            raise self.refuse(tree, "indexing anything but a name")
        name, get = tree.value.id, self.compile(tree.value, depth)
        self.indexed.add(name)
        parts = tree.slice.elts if isinstance(tree.slice, ast.Tuple) else [tree.slice]
        indices = [(self.compile(part, depth), self.offset(part)) for part in parts]

        def run(look: Lookup) -> Any:
            values = [_index(node(look), offset) for node, offset in indices]
            target = get(look)
            if callable(target):
                return target(tuple(values))
            return _element(name, target, values, indices[0][1])

        return run


def _log(value: Any, offset: int) -> float:
    if value <= 0:
        raise _ProblemError("'log' takes a number above 0", offset)
    return math.log(value)


def _index(value: Any, offset: int) -> int:
    if isinstance(value, int):
        return int(value)
    raise _ProblemError("an index must be an integer", offset)


def _element(name: str, target: Any, values: list[int], offset: int) -> Any:
    if not isinstance(target, (list, tuple)):
        raise _ProblemError(f"'{name}' cannot be indexed: it is neither a list nor a tensor", offset)
    if len(values) != 1:
        raise _ProblemError(f"'{name}' is a list and takes one index, got {len(values)}", offset)
    if not 0 <= values[0] < len(target):
        raise _ProblemError(f"index {values[0]} is outside '{name}', which has {len(target)} elements", offset)
    return target[values[0]]


def _describe(tree: ast.expr) -> str:
    match tree:
        case ast.Attribute():
            return f"attribute access '.{tree.attr}'"
        case ast.BinOp(op=ast.Pow()):
            return "'**'"
        case ast.Slice():
            return "a range ':'"
        case ast.Tuple() | ast.List() | ast.Dict() | ast.Set():
            return "a list"
        case ast.BinOp() | ast.UnaryOp():
            return "a bit operation"
        case ast.Compare():
            return "'in' or 'is'"
        case _:
            return f"'{type(tree).__name__.lower()}'"
