"""What an op is: operands, shape rule, cost and core type; where its kernel is; and the table of all ops.

An op is declared without what runs it, so that planning needs no torch. Its kernel is the function of the same name in the module
that the table names, which is imported when the op first runs:

    ops = OpRegistry(kernels="mine.kernels")
    ops.declare("scaled", "x: {act}[T, D], w: f32[D] -> y: {act}[T, D]", core="AIV", params={"by": "scaling_factor"})

A plugin may do both at once, by decorating the kernel:

    @ops.op("scaled", "x: {act}[T, D], w: f32[D] -> y: {act}[T, D]", core="AIV", params={"by": "scaling_factor"})
    def scaled(x, w, *, y, by):
        ...

The signature lists operands as `name: dtype[dims]`: inputs, `->`, outputs. `&name` marks an in-out operand (listed among the
outputs), `name?` an optional input. A dim is an integer, a symbol that unifies across the operands of one call, or
an expression over symbols bound elsewhere in the signature; `...` as the first dim stands for any leading dims. A dtype is a
name, `{param}` (the configuration's dtype parameter of that name if there is one, else a symbol that unifies), or `a|b`.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from runner.base.errors import ConfigError, GraphError, RinggraphError
from runner.base.source_files import module_beside
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
class Kernel:
    """Where the implementation of a declared op is: a function of a module that is imported when the op first runs.

    `beside` is the file of ops that names the module, which may be a file in the same folder; "" for ops of packages.
    """

    module: str
    name: str
    beside: str = ""


@dataclass(frozen=True, slots=True)
class OpDef:
    """A registered op.

    kernel      torch implementation, or where it is: takes inputs by name, writes into the outputs that it is given
    params      keyword arguments of the kernel besides operands: name -> configuration field (a str) or a literal default; a
                node's `attrs:` override them
    needs       what the executor must hand in as keyword arguments: currently `comm`
    cost        Call -> Cost; the default counts the operands' bytes and no flops
    num_blocks  Call -> number of SPMD blocks the task is split into on a device
    workspace   Call -> scratch tensors that a device needs for one task, by name (`gm_pipe_buffer`)
    check       Call -> None or a message, for rules that a signature cannot say
    scratch     outputs that only the op itself reads: global memory that it needs and that the graph declares
    place       where it is declared, `FILE:LINE`
    """

    name: str
    operands: tuple[Operand, ...]
    core: str
    doc: str
    kernel: Callable[..., None] | Kernel
    params: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    cost: Callable[[Call], Cost] = lambda call: Cost(0, call.moved_bytes)
    num_blocks: Callable[[Call], int] = lambda call: 1
    workspace: Callable[[Call], Mapping[str, TensorSpec]] = lambda call: {}
    check: Callable[[Call], str | None] = lambda call: None
    source: str = ""
    scratch: tuple[str, ...] = ()
    place: str = field(default="", compare=False)

    @property
    def run(self) -> Callable[..., None]:
        """The kernel, imported if it was not yet; raises RinggraphError where there is none that takes the op's arguments."""
        return _load(self.name, self.kernel, self.arguments) if isinstance(self.kernel, Kernel) else self.kernel

    @property
    def arguments(self) -> tuple[str, ...]:
        """What a kernel is called with, each by its name."""
        return (*(o.name for o in self.operands), *self.params, *self.needs)

    @property
    def inputs(self) -> tuple[Operand, ...]:
        return tuple(o for o in self.operands if o.mode == "in")

    @property
    def outputs(self) -> tuple[Operand, ...]:
        return tuple(o for o in self.operands if o.mode != "in")

    @property
    def signature(self) -> str:
        return f"{', '.join(map(str, self.inputs))} -> {', '.join(map(str, self.outputs))}"


@dataclass(frozen=True, slots=True)
class Fusion:
    """Tasks that follow each other and may run as one call, of one unit or of many that follow each other.

    parts    the ops of a unit in order, each with names for its operands and attributes; what is not renamed keeps its own.
             What has one name is one region, or one value
    inner    names of tensors that nobody outside of the unit touches: the call need not make them
    in_turn  names of what units read and write in turn, a counter say, and of what their ops need: the call sees to it
    kernel   takes a list of units, each with what its names stand for, of an inner one its spec. It leaves everything else as if
             all tasks had run one by one, to the bit

    No unit reads what another one writes, and none has operands that are read and written, but those in turn.
    """

    parts: tuple[tuple[str, Mapping[str, str]], ...]
    inner: frozenset[str]
    kernel: Kernel
    in_turn: frozenset[str] = frozenset()

    @property
    def run(self) -> Callable[..., None]:
        return _load(self.kernel.name, self.kernel, ("units",))


@cache
def _load(op: str, kernel: Kernel, arguments: tuple[str, ...]) -> Callable[..., None]:
    """The kernel of an op, which takes `arguments` by name."""
    try:
        module = (module_beside(Path(kernel.beside), kernel.module) if kernel.beside else None) or import_module(kernel.module)
    except ConfigError as error:
        raise RinggraphError(f"op '{op}': {error}") from error
    except Exception as error:  # whatever somebody else's module does when it is imported
        hint = "lint, schedule and what else plans need no kernels; what runs graphs does"
        reason = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise RinggraphError(f"op '{op}': its kernels, '{kernel.module}', cannot be imported: {reason}", hint=hint) from error
    found: Callable[..., None] | None = getattr(module, kernel.name, None)
    if found is None:
        raise RinggraphError(
            f"op '{op}' has no kernel: '{kernel.module}' has no function '{kernel.name}'",
            hint=f"write 'def {kernel.name}({', '.join(arguments)})' there",
        )
    check_kernel(op, found, arguments)
    return found


def check_kernel(op: str, kernel: Callable[..., None], arguments: Collection[str]) -> None:
    """Raises RinggraphError where `kernel` cannot be called with exactly these arguments, each by its name."""
    taken = inspect.signature(kernel).parameters.values()
    names = {p.name for p in taken if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    is_open = any(p.kind is p.VAR_KEYWORD for p in taken)
    unmet = [p.name for p in taken if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    wrong = [f"it does not take '{name}'" for name in arguments if not is_open and name not in names]
    wrong += [f"it wants '{name}', which is no operand, parameter or need" for name in unmet if name not in arguments]
    if wrong:
        code = getattr(kernel, "__code__", None)
        where = f"{code.co_filename}:{code.co_firstlineno}: " if code else ""
        raise RinggraphError(
            f"{where}the kernel of op '{op}' does not fit its declaration: {'; '.join(wrong)}",
            hint=f"a kernel takes what is declared, by name: {', '.join(arguments)}",
        )


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
    """Ops by name; a name can be taken once. `kernels` is the module with the kernels of ops that are declared without one."""

    def __init__(self, kernels: str | None = None) -> None:
        self._ops: dict[str, OpDef] = {}
        self._kernels = kernels
        self.fusions: list[Fusion] = []

    def add(self, definition: OpDef) -> None:
        if definition.core not in CORES:
            raise RinggraphError(f"op '{definition.name}': core is '{definition.core}', expected one of {', '.join(CORES)}")
        if definition.name in self._ops:
            places = [place for place in (self._ops[definition.name].place, definition.place) if place]
            where = f": {' and '.join(places)}" if len(places) == 2 else ""
            raise RinggraphError(f"op '{definition.name}' is registered twice{where}")
        self._ops[definition.name] = definition

    def declare(self, name: str, signature: str, *, core: str, doc: str = "", **fields: Any) -> None:
        """Add an op whose kernel is the function of its name in the module `kernels`; see `OpDef` for the fields.

        Raises RinggraphError for a malformed signature, with the op and its place, and where the table names no kernels.
        """
        caller = sys._getframe(1)
        if self._kernels is None:
            hint = "OpRegistry(kernels='package.module') says where; '@ops.op' declares a kernel where it stands"
            raise RinggraphError(f"op '{name}' is declared in a table that names no module of kernels", hint=hint)
        place = f"{caller.f_code.co_filename}:{caller.f_lineno}"
        operands = _operands(name, signature, f"{place}: ")
        self.add(OpDef(name, operands, core, inspect.cleandoc(doc), Kernel(self._kernels, name), place=place, **fields))

    def fuse(
        self, name: str, *parts: tuple[str, Mapping[str, str]], inner: Collection[str], in_turn: Collection[str] = ()
    ) -> None:
        """Declare that units of these tasks may run as one call of the kernel `name`; see `Fusion`."""
        assert self._kernels is not None, "a table that names its kernels"
        self.fusions.append(Fusion(parts, frozenset(inner), Kernel(self._kernels, name), frozenset(in_turn)))

    def op(self, name: str, signature: str, *, core: str, **fields: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Decorator that adds an op and its kernel; see the module docstring and `OpDef` for the fields.

        Raises RinggraphError for a malformed signature, and for a kernel that does not fit it, with the op and its place.
        """

        def register(run: Callable[..., None]) -> Callable[..., None]:
            code = getattr(run, "__code__", None)
            place = f"{code.co_filename}:{code.co_firstlineno}" if code else ""
            operands = _operands(name, signature, f"{place}: " if code else "")
            definition = OpDef(name, operands, core, inspect.cleandoc(run.__doc__ or ""), run, place=place, **fields)
            check_kernel(name, run, definition.arguments)
            self.add(definition)
            return run

        return register

    def __getitem__(self, name: str) -> OpDef:
        return self._ops[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._ops))

    def __len__(self) -> int:
        return len(self._ops)


def _operands(op: str, signature: str, where: str) -> tuple[Operand, ...]:
    try:
        return parse_signature(signature)
    except ValueError as error:
        hint = "a signature is 'x: {act}[T, D], w?: f32[D] -> y: {act}[T, D], &state: f32[N]'"
        raise RinggraphError(f"{where}op '{op}': {error}", hint=hint) from None
