"""What an op is: operands, shape rule, cost, core type and implementation; and the table of all ops.

An op is declared once, by decorating its implementation:

    @op("scaled", "x: {act}[T, D], w: f32[D] -> y: {act}[T, D]", core="AIV", params={"by": "scaling_factor"})
    def scaled(x, w, *, y, by):
        ...

The signature lists operands as `name: dtype[dims]`: inputs, `->`, outputs. `&name` marks an in-out operand (listed among the
outputs), `name?` an optional input. A dim is an integer, a symbol that unifies across the operands of one call, or
an expression over symbols bound elsewhere in the signature; `...` as the first dim stands for any leading dims. A dtype is a
name, `{param}` (the configuration's dtype parameter of that name if there is one, else a symbol that unifies), or `a|b`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.base.errors import GraphError, RinggraphError
from runner.base.tensor_spec import TensorSpec
from runner.language.expressions import parse

_DTYPE = re.compile(r"(\w+|\{\s*\w+\s*\})(\s*\|\s*(\w+|\{\s*\w+\s*\}))*")
CORES = ("AIC", "AIV", "MIX")


@dataclass(frozen=True, slots=True)
class Operand:
    """`mode` is in, out or inout. `dims` are expressions in text; `("...", ...)` begins with an ellipsis."""

    name: str
    dtype: str
    dims: tuple[str, ...]
    mode: str
    optional: bool = False

    def __str__(self) -> str:
        return f"{'&' * (self.mode == 'inout')}{self.name}{'?' * self.optional}: {self.dtype}[{', '.join(self.dims)}]"


@dataclass(frozen=True, slots=True)
class Cost:
    """Work of one task: floating (or integer) operations, and bytes moved to and from global memory."""

    flops: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Call:
    """One use of an op with everything static known: what shape rules, costs and workspaces are functions of."""

    operands: Mapping[str, TensorSpec]
    dims: Mapping[str, int]
    attrs: Mapping[str, Any]

    @property
    def moved_bytes(self) -> int:
        return sum(spec.size_bytes for spec in self.operands.values())


@dataclass(frozen=True, slots=True)
class OpDef:
    """A registered op.

    params      keyword arguments of the implementation besides operands: name -> configuration field (a str) or a literal
                default; a node's `attrs:` override them
    needs       what the executor must hand in as keyword arguments: currently `comm`
    cost        Call -> Cost; the default counts the operands' bytes and no flops
    num_blocks  Call -> number of SPMD blocks the task is split into on a device
    workspace   Call -> scratch tensors that a device needs for one task, by name (`gm_pipe_buffer`)
    check       Call -> None or a message, for rules that a signature cannot say
    scratch     outputs that only the op itself reads: global memory that it needs and that the graph declares
    run         torch implementation; takes inputs by name, writes into the outputs that it is given
    """

    name: str
    operands: tuple[Operand, ...]
    core: str
    doc: str
    run: Callable[..., None]
    params: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    cost: Callable[[Call], Cost] = lambda call: Cost(0, call.moved_bytes)
    num_blocks: Callable[[Call], int] = lambda call: 1
    workspace: Callable[[Call], Mapping[str, TensorSpec]] = lambda call: {}
    check: Callable[[Call], str | None] = lambda call: None
    source: str = ""
    scratch: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[Operand, ...]:
        return tuple(o for o in self.operands if o.mode == "in")

    @property
    def outputs(self) -> tuple[Operand, ...]:
        return tuple(o for o in self.operands if o.mode != "in")

    @property
    def signature(self) -> str:
        return f"{', '.join(map(str, self.inputs))} -> {', '.join(map(str, self.outputs))}"


def parse_signature(text: str) -> tuple[Operand, ...]:
    """`x: f32[T, D], w?: f32[D] -> y: f32[T, D], &state: f32[N]` as operands; raises ValueError."""
    before, arrow, after = text.partition("->")
    if not arrow:
        raise ValueError(f"signature {text!r} has no '->'")
    operands = [_parse_operand(part, "in") for part in _split(before)]
    operands += [_parse_operand(part, "out") for part in _split(after)]
    names = [o.name for o in operands]
    if len(set(names)) != len(names):
        raise ValueError(f"signature {text!r} names an operand twice")
    return tuple(operands)


def _split(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char in "[(") - (char in "])")
        if char == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [p.strip() for p in (*parts, text[start:]) if p.strip()]


def _parse_operand(text: str, mode: str) -> Operand:
    name, colon, spec = (p.strip() for p in text.partition(":"))
    dtype, bracket, dims = spec.partition("[")
    if not colon or not bracket or not dims.endswith("]"):
        raise ValueError(f"operand {text!r} is not 'name: dtype[dims]'")
    if name.startswith("&"):
        name, mode = name[1:], "inout"
    optional = name.endswith("?")
    operand = Operand(name.removesuffix("?"), dtype.strip(), tuple(_split(dims[:-1])), mode, optional)
    if not operand.name.isidentifier():
        raise ValueError(f"operand {text!r} has no name of letters, digits and '_'")
    if not _DTYPE.fullmatch(operand.dtype):
        raise ValueError(f"operand {text!r}: '{operand.dtype}' is no dtype, no {{parameter}}, and not several of them with '|'")
    for dim in operand.dims:
        try:
            if dim != "...":
                parse(dim)
        except GraphError as error:
            raise ValueError(f"operand {text!r}: {error.diagnostics[0].message}") from None
    return operand


class OpRegistry(Mapping[str, OpDef]):
    """Ops by name; a name can be taken once."""

    def __init__(self) -> None:
        self._ops: dict[str, OpDef] = {}

    def add(self, definition: OpDef) -> None:
        if definition.core not in CORES:
            raise RinggraphError(f"op '{definition.name}': core is '{definition.core}', expected one of {', '.join(CORES)}")
        if definition.name in self._ops:
            raise RinggraphError(f"op '{definition.name}' is registered twice")
        self._ops[definition.name] = definition

    def op(self, name: str, signature: str, *, core: str, **fields: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Decorator that registers an implementation; see the module docstring and `OpDef` for the fields.

        Raises RinggraphError for a malformed signature, with the op and its place.
        """

        def register(run: Callable[..., None]) -> Callable[..., None]:
            doc = (run.__doc__ or "").strip()
            try:
                operands = parse_signature(signature)
            except ValueError as error:
                code = getattr(run, "__code__", None)
                where = f"{code.co_filename}:{code.co_firstlineno}: " if code else ""
                hint = "a signature is 'x: {act}[T, D], w?: f32[D] -> y: {act}[T, D], &state: f32[N]'"
                raise RinggraphError(f"{where}op '{name}': {error}", hint=hint) from None
            self.add(OpDef(name, operands, core, doc, run, **fields))
            return run

        return register

    def __getitem__(self, name: str) -> OpDef:
        return self._ops[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._ops))

    def __len__(self) -> int:
        return len(self._ops)
