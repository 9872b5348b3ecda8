"""A graph holds two small notations, which are parsed here: types `{act}[T, D]` and regions `x[e, a : b]`, `x{e, t}`."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass

from runner.base.errors import Diagnostic, GraphError, Mark
from runner.base.tensor_spec import DTYPE_BYTES
from runner.language.expressions import Expr, parse, parse_indices
from runner.language.graph import Text

TYPE_CODE = "G211"
REGION_CODE = "G212"

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TYPE = re.compile(r"\s*(\{\s*(?P<param>\w+)\s*\}|(?P<dtype>\w+))\s*(?P<dims>\[.*\])\s*", re.DOTALL)
_DTYPE_START = re.compile(r"\s*(\{|(" + "|".join(DTYPE_BYTES) + r")\s*\[)")
_CREATES = re.compile(r"\s*(?P<name>[A-Za-z_]\w*)\s*:(?P<type>.*)", re.DOTALL)


QUANTISED = "wq"
"""The dtype parameter whose weights bring a scale with them: `NAME_scale`, from `scale_of(source)`."""


@dataclass(frozen=True, slots=True)
class TensorType:
    """`dtype[dims]` with nothing evaluated; `dtype` is a parameter of the configuration when `is_param`."""

    dtype: str
    is_param: bool
    dims: tuple[Expr, ...]
    text: Text


Index = Expr | tuple[Expr | None, Expr | None]
"""One element, or a half-open range whose missing ends are the dimension's."""


@dataclass(frozen=True, slots=True)
class RegionRef:
    """A tensor by name: whole, indexed (`indices`), or a part of it (`part`)."""

    name: str
    indices: tuple[Index, ...]
    part: tuple[Expr, ...] | None
    text: Text


def parse_type(text: Text) -> TensorType:
    """`{act}[T, D]` or `f32[]`; raises GraphError."""
    match = _TYPE.fullmatch(text.value)
    if match is None:
        raise _error(
            TYPE_CODE, f"'{text}' is not a tensor type", text.mark, "write it as dtype[dims], as in 'f32[T, D]' or '{act}[T, D]'"
        )
    dims: tuple[Expr, ...] = ()
    if match["dims"][1:-1].strip():
        at = match.start("dims")
        _, indices = parse_indices("_" + match["dims"], _shifted(text.mark, at - 1))
        if not all(isinstance(index, Expr) for index in indices):
            raise _error(TYPE_CODE, f"'{text}': a dim is one number, not a range", text.mark)
        dims = tuple(index for index in indices if isinstance(index, Expr))
    return TensorType(match["param"] or match["dtype"], match["param"] is not None, dims, text)


def parse_region(text: Text) -> RegionRef:
    """`x`, `x[3]`, `x[:, a : b]` or `x{e, t}`; raises GraphError."""
    value = text.value.strip()
    if NAME.fullmatch(value):
        return RegionRef(value, (), None, text)
    match = NAME.match(value)
    brackets = value[match.end() :].strip() if match else ""
    if match is None or brackets[:1] + brackets[-1:] not in ("[]", "{}"):
        hint = "write it as 'x', 'x[3]', 'x[a : b]' or 'x{e, t}'"
        if match and (made := value[match.end() :].lstrip()).startswith(":"):
            alloc = f'- alloc: {{{match[0]}: "{made[1:].strip()}"}}'
            hint = f"nothing is created here: put '{alloc}' before it, and write '{match[0]}'"
        raise _error(REGION_CODE, f"'{text}' is not a tensor or a part of one", text.mark, hint)
    is_part = brackets[0] == "{"
    source = match[0] + "[" + brackets[1:-1] + "]" if is_part else value
    _, indices = parse_indices(source, text.mark)
    if not is_part:
        return RegionRef(match[0], indices, None, text)
    if not all(isinstance(index, Expr) for index in indices):
        raise _error(REGION_CODE, f"'{text}': the key of a part is a list of numbers, not a range", text.mark)
    return RegionRef(match[0], (), tuple(index for index in indices if isinstance(index, Expr)), text)


def parse_binding(text: Text) -> RegionRef | Expr:
    """What a `with:` gives: a tensor or a part of one, or for a param an expression; raises GraphError when it can be neither."""
    try:
        return parse_region(text)
    except GraphError:
        if text.value.strip()[-1:] in ("]", "}"):
            with suppress(GraphError):
                return parse(text.value, text.mark)
            raise
    return parse(text.value, text.mark)


def split_output(operand: str, text: Text) -> tuple[str, Text] | None:
    """Name and type of the tensor that an output creates (`y: f32[T]`, or `f32[T]` for one named like the operand), or None."""
    match = _CREATES.fullmatch(text.value)
    if match is not None:
        return match["name"], Text(match["type"].strip(), _shifted(text.mark, _start(match, "type")))
    if _DTYPE_START.match(text.value):
        return operand, text
    return None


def scale_of(weight: str) -> str:
    """Where a quantised weight's scale is: `X.weight` has `X.scale`."""
    return f"{weight.removesuffix('.weight')}.scale"


def weight_of(scale: str) -> str:
    """The weight that `X.scale` belongs to: `X.weight`."""
    return f"{scale.removesuffix('.scale')}.weight"


def _start(match: re.Match[str], group: str) -> int:
    return match.start(group) + len(match[group]) - len(match[group].lstrip())


def _shifted(mark: Mark, columns: int) -> Mark:
    return mark.moved(columns)


def _error(code: str, message: str, mark: Mark, hint: str | None = None) -> GraphError:
    return GraphError(Diagnostic(code, message, mark, hint=hint))
