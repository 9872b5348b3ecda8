"""Does a call fit an op's signature? Symbols, `...`, expressions and dtype parameters unified over all operands of the call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from runner.base.tensor_spec import TensorSpec
from runner.language.expressions import Expr, ExprError, parse
from runner.language.notation import NAME
from runner.program.ops import OpDef, Operand

ELLIPSIS = "..."


@dataclass(slots=True)
class Match:
    """The values of the signature's symbols, and what does not fit: pairs of an operand and a message."""

    dims: dict[str, int] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)


class Signature:
    """An op's operands with their dims parsed; `dtypes` are the configuration's dtype parameters."""

    def __init__(self, definition: OpDef, dtypes: Mapping[str, str]):
        self.operands = {operand.name: operand for operand in definition.operands}
        self.dtypes = dtypes
        self._tails = {o.name: o.dims[1:] if o.dims[:1] == (ELLIPSIS,) else o.dims for o in definition.operands}
        self._exprs: dict[str, Expr] = {
            dim: parse(dim) for tail in self._tails.values() for dim in tail if not NAME.fullmatch(dim)
        }

    def match(self, specs: Mapping[str, TensorSpec]) -> Match:
        """Unify the given operands with the signature."""
        match = Match()
        lead: tuple[int, ...] | None = None
        symbols, leads, dtypes = self._votes(specs)
        match.dims = {name: votes.most_common(1)[0][0] for name, votes in symbols.items()}
        if leads:
            lead = leads.most_common(1)[0][0]
        chosen = {name: votes.most_common(1)[0][0] for name, votes in dtypes.items()}
        for name, spec in specs.items():
            expected = self._expected(self.operands[name], spec, match.dims, lead, chosen)
            if expected is not None and expected != str(spec):
                kind = "input" if self.operands[name].mode == "in" else "output"
                match.problems.append((name, f"{kind} '{name}' is {spec}, expected {expected}"))
        return match

    def _votes(
        self, specs: Mapping[str, TensorSpec]
    ) -> tuple[dict[str, Counter[int]], Counter[tuple[int, ...]], dict[str, Counter[str]]]:
        """What the operands say each symbol is: the most frequent answer is right, so that the odd operand out is blamed."""
        symbols: dict[str, Counter[int]] = {}
        leads: Counter[tuple[int, ...]] = Counter()
        dtypes: dict[str, Counter[str]] = {}
        for name, spec in specs.items():
            operand, tail = self.operands[name], self._tails[name]
            head = len(spec.shape) - len(tail)
            if head < 0 or (head > 0 and len(tail) == len(operand.dims)):
                continue
            if len(tail) < len(operand.dims):
                leads[spec.shape[:head]] += 1
            for dim, size in zip(tail, spec.shape[head:], strict=True):
                if dim not in self._exprs:
                    symbols.setdefault(dim, Counter())[size] += 1
            symbol = self._dtype_symbol(operand)
            if symbol is not None:
                dtypes.setdefault(symbol, Counter())[spec.dtype] += 1
        return symbols, leads, dtypes

    def _dtype_symbol(self, operand: Operand) -> str | None:
        name = operand.dtype.strip("{} ")
        return name if operand.dtype.startswith("{") and "|" not in operand.dtype and name not in self.dtypes else None

    def _expected(
        self, operand: Operand, spec: TensorSpec, dims: Mapping[str, int], lead: tuple[int, ...] | None, chosen: Mapping[str, str]
    ) -> str | None:
        """The spec that the operand should have, in text; None when a symbol in it has no value."""
        options = [self.dtypes.get(part.strip("{} "), part.strip("{} ")) for part in operand.dtype.split("|")]
        options = [chosen.get(option, option) for option in options]
        dtype = spec.dtype if spec.dtype in options else "|".join(options)
        shape = list(map(str, lead or ())) if operand.dims[:1] == (ELLIPSIS,) else []
        for dim in self._tails[operand.name]:
            try:
                size = dims[dim] if dim not in self._exprs else self._exprs[dim].integer(dims.__getitem__)
            except KeyError:
                size = dim
            except ExprError as error:
                if error.unknown is not None:
                    return None
                size = f"({dim})"
            shape.append(str(size))
        return f"{dtype}[{', '.join(shape)}]"
