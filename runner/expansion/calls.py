"""Op items of a graph: compiled once, resolved for every task."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from runner.base.errors import did_you_mean
from runner.base.records import builder as record_builder
from runner.base.tensor_spec import DTYPE_BYTES, TensorSpec
from runner.expansion.builder import ProgramBuilder
from runner.expansion.names import Context, Frame, View
from runner.language.expressions import Expr, ExprError, parse
from runner.language.graph import Declaration, For, Item, Op, Scope, Seen, Switch
from runner.language.notation import RegionRef, TensorType, parse_region, parse_type
from runner.program.layouts import Layout, hull, whole
from runner.program.ops import Call, OpDef, OpRegistry
from runner.program.program import Box, Region
from runner.program.signature import Signature

_new_region, _new_view = record_builder(Region), record_builder(View)


@dataclass(frozen=True, slots=True)
class NodeCall:
    """What a task needs beside its regions."""

    core: str | None
    attrs: Mapping[str, Any]
    num_blocks: int
    workspace: tuple[tuple[str, TensorSpec], ...]


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a call with certain operand types needs. `again` holds what to ask the op for every task: its rules read the attrs."""

    call: NodeCall
    again: tuple[Mapping[str, TensorSpec], Mapping[str, int]] | None = None


class _Watched(Mapping[str, Any]):
    """Attrs handed to an op's rules; `names` are those that items give, which may differ from task to task."""

    def __init__(self, attrs: Mapping[str, Any], names: Container[str]):
        self.attrs, self.names = attrs, names
        self.was_read = False

    def __getitem__(self, name: str) -> Any:
        self.was_read = self.was_read or name in self.names
        return self.attrs[name]

    def __iter__(self) -> Iterator[str]:
        self.was_read = True
        return iter(self.attrs)

    def __len__(self) -> int:
        return len(self.attrs)


@dataclass(slots=True)
class NodeOp:
    """An op item with its texts parsed. `targets` are existing tensors that it writes (and reads: inout), `created` new ones."""

    item: Op
    definition: OpDef | None
    inputs: list[tuple[str, RegionRef]] = field(default_factory=list)
    targets: list[tuple[str, RegionRef, bool]] = field(default_factory=list)
    created: list[tuple[str, Declaration, TensorType]] = field(default_factory=list)
    attrs: list[tuple[str, Expr]] = field(default_factory=list)
    param_attrs: list[tuple[str, Expr]] = field(default_factory=list)  # those that depend on the graph's params
    fixed: Mapping[str, Any] = field(default_factory=dict)
    modes: Mapping[str, str] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    calls: dict[tuple[int, ...], Fitted] = field(default_factory=dict)
    is_faulty: bool = False  # something about it is wrong wherever it is used

    @property
    def rules_read_attrs(self) -> bool:
        """Do the op's rules depend on the item's attrs, as far as is known?"""
        return any(fitted.again is not None for fitted in self.calls.values())


class OpCompiler:
    """Compiles op items and answers what their calls need; tells problems to the builder."""

    def __init__(self, builder: ProgramBuilder, registry: OpRegistry):
        self.builder = builder
        self.registry = registry
        self.nodes: dict[int, NodeOp] = {}
        self.signatures: dict[str, Signature] = {}
        self._modes: dict[str, Mapping[str, str]] = {}

    # --- compiling ---

    def compiled(self, item: Op, context: Context) -> NodeOp:
        node = self.nodes.get(id(item))
        if node is None:
            node = self.nodes[id(item)] = self.compile(item, context)
        return node

    def compile(self, item: Op, context: Context) -> NodeOp:
        name = item.op.value
        definition = self.registry.get(name)
        if definition is None:
            hint = did_you_mean(name, self.registry) or "'ringgraph ops list' lists them; --ops FILE.py brings those of a file"
            self.builder.report("G302", f"unknown op '{name}'", item.op.mark, hint)
        elif name not in self.signatures:
            self.signatures[name] = Signature(definition, self.builder.config.dtypes)
        node, before = NodeOp(item, definition), self.builder.num_obstacles
        modes = {operand.name: operand.mode for operand in definition.operands} if definition else {}
        self.check_operands(item, definition)
        node.inputs = [(operand, parse_region(text)) for operand, text in item.inputs.items()]
        for operand, out in item.outputs.items():
            if isinstance(out, Declaration):
                node.created.append((operand, out, parse_type(out.spec)))
            else:
                node.targets.append((operand, parse_region(out), modes.get(operand) == "inout"))
        if item.modes:
            node.modes = self.operand_modes(node)
        node.names = [o for o, _ in node.inputs] + [o for o, _, _ in node.targets] + [o for o, _, _ in node.created]
        node.attrs = [(attr, parse(text.value, text.mark)) for attr, text in item.attrs.items()]
        node.param_attrs = [(attr, expr) for attr, expr in node.attrs if not expr.names().isdisjoint(context.graph.params)]
        node.fixed = self.defaults(item, definition, context)
        node.is_faulty = self.builder.num_obstacles > before or definition is None
        return node

    def modes(self, op: str) -> Mapping[str, str]:
        """By operand of an op, whether it is `in`, `out` or `inout`."""
        known = self._modes.get(op)
        if known is None:
            known = self._modes[op] = {operand.name: operand.mode for operand in self.registry[op].operands}
        return known

    def check_operands(self, item: Op, definition: OpDef | None) -> None:
        if definition is None:
            return
        where = f"op '{definition.name}'"
        for given, known, kind in ((item.inputs, definition.inputs, "input"), (item.outputs, definition.outputs, "output")):
            names = [operand.name for operand in known]
            for name, value in given.items():
                if name not in names:
                    other = {o.name for o in definition.operands} - set(names)
                    hint = f"'{name}' is listed under '{'out' if kind == 'input' else 'in'}:'" if name in other else None
                    hint = hint or did_you_mean(name, names, of_key=True) or f"signature: {definition.signature}"
                    self.builder.report("G305", f"{where} has no {kind} '{name}'", value.mark, hint, name)
            missing = [o.name for o in known if o.name not in given and not o.optional]
            if missing:
                listed = ", ".join(f"'{name}'" for name in missing)
                plural = "s" * (len(missing) > 1)
                hint = f"signature: {definition.signature}"
                self.builder.report("G304", f"{where}: {kind}{plural} {listed} missing", item.op.mark, hint)

    def operand_modes(self, node: NodeOp) -> Mapping[str, str]:
        """Modes of operands that an item gives, those left out that do not fit."""
        fitting = {
            "existing": {name for name, _, is_inout in node.targets if not is_inout},
            "no_dep": {name for name, _ in node.inputs} | {name for name, _, _ in node.targets},
            "manual_dep": {name for name, _, _ in node.created},
        }
        found = {}
        for name, text in node.item.modes.items():
            if name in fitting[text.value]:
                found[name] = text.value
                continue
            expected = {
                "existing": "an output that gets an existing tensor and is not read",
                "no_dep": "an operand that gets an existing tensor",
                "manual_dep": "an output that creates a tensor",
            }[text.value]
            message = f"op '{node.item.op}': '{name}' cannot be {text.value}, expected {expected}"
            self.builder.report("G336", message, text.mark, did_you_mean(name, fitting[text.value], True), name)
        self.builder.has_modes = True
        return found

    def defaults(self, item: Op, definition: OpDef | None, context: Context) -> Mapping[str, Any]:
        """The op's params that the item does not give: literals, or fields of the configuration."""
        found: dict[str, Any] = {}
        params = definition.params if definition else {}
        values = self.builder.config.values
        for name, default in params.items():
            if name in item.attrs:
                continue
            if isinstance(default, str) and default not in values:
                hint = f"give it under 'attrs:', or add the field '{default}' to the configuration"
                self.builder.report("G322", f"op '{item.op}': param '{name}' has no value", item.op.mark, hint, name)
            found[name] = values.get(default) if isinstance(default, str) else default
        for name, text in item.attrs.items():
            if definition is not None and name not in params:
                hint = did_you_mean(name, params, True) or (f"its params: {', '.join(params)}" if params else "it has no params")
                self.builder.report("G322", f"op '{item.op}' has no param '{name}'", text.mark, hint)
        return found

    # --- resolving ---

    def view(self, ref: RegionRef, frame: Frame, context: Context) -> View | None:
        """What a region shows here; None after reporting that it shows nothing."""
        base = frame.find(ref.name)
        if base is None:
            self.unknown(ref, frame, context)
            return None
        return self.shown(ref, base, context)

    def shown(self, ref: RegionRef, base: View, context: Context) -> View | None:
        """What a region shows of what its name stands for."""
        if not ref.indices and ref.part is None:
            return base
        look = context.values.__getitem__
        try:
            if ref.part is not None:
                key = tuple([expr.integer(look) for expr in ref.part])
                region = base.region
                shown = _new_region(base.tensor, region.box, region.dropped, key, region.seen)
                return _new_view(base.tensor, base.spec, shown, base.whole)
            return self.sliced(ref, base, look)
        except ExprError as error:
            self.builder.report_error(error, list(context.values))
            return None

    def sliced(self, ref: RegionRef, base: View, look: Any) -> View | None:
        shape = base.spec.shape
        if len(ref.indices) > len(shape):
            message = f"'{ref.text}' has {len(ref.indices)} indices, but '{ref.name}' is {base.spec}"
            self.builder.report("G307", message, ref.text.mark)
            return None
        ranges: list[tuple[int, int]] = []
        kept: list[int] = []
        dropped: list[int] = []
        for axis, size in enumerate(shape):
            index = ref.indices[axis] if axis < len(ref.indices) else (None, None)
            if isinstance(index, Expr):
                lo = index.integer(look)
                hi = lo + 1
                dropped.append(axis)
            else:
                lo = index[0].integer(look) if index[0] is not None else 0
                hi = index[1].integer(look) if index[1] is not None else size
                kept.append(hi - lo)
            if not 0 <= lo <= hi <= size:
                where = f"[{lo} : {hi}]" if not isinstance(index, Expr) else f"[{lo}]"
                message = f"'{ref.text}' is outside '{ref.name}', which is {base.spec}: {where} of dim {axis}"
                self.builder.report("G307", message, ref.text.mark)
                return None
            ranges.append((lo, hi))
        if tuple(kept) == shape:
            return base
        spec = self.builder.intern(base.spec.dtype, tuple(kept))
        if base.region.seen is not None:
            return self.laid_out(base, spec, base.region.seen.part(ranges, dropped))
        if base.region.box is None:
            box, gone = tuple(ranges), tuple(dropped)
        else:
            box, gone = _inside(base.region, ranges, dropped)
        return _new_view(base.tensor, spec, _new_region(base.tensor, box, gone, base.region.part, None), ())

    def laid_out(self, base: View, spec: TensorSpec, layout: Layout) -> View:
        """What shows a layout of the tensor of `base`."""
        known = self.builder.tensors[base.tensor].spec
        box = hull(known, layout)
        is_all = box == tuple([(0, size) for size in known.shape])
        region = _new_region(base.tensor, None if is_all else box, (), base.region.part, layout)
        return _new_view(base.tensor, spec, region, known.shape)

    def seen(self, item: Seen, frame: Frame, context: Context) -> View | None:
        """What a `view` shows; None after reporting that it shows nothing."""
        ref = parse_region(item.of)
        base, spec = self.view(ref, frame, context), self.builder.spec(parse_type(item.spec), context)
        if base is None or spec is None:
            return None
        if spec.size_bytes != base.spec.size_bytes:
            unlike = "elements" if DTYPE_BYTES[spec.dtype] == DTYPE_BYTES[base.spec.dtype] else "bytes"
            one, other = (kind.num_elements if unlike == "elements" else kind.size_bytes for kind in (spec, base.spec))
            message = f"view '{item.name}' is {spec}, of {one:,} {unlike}, but '{ref.text}' is {base.spec}, of {other:,}"
            hint = "a view shows the same bytes under another shape: all of them, and no others"
            self.builder.report("G338", message, item.spec.mark, hint)
            return self.stand_in(base, spec)
        layout = base.region.layout(self.builder.tensors[base.tensor].spec).seen_as(spec)
        if layout is None:
            message = f"view '{item.name}': the bytes of '{ref.text}', {base.spec}, do not lie so that they are {spec}"
            hint = "dims that a slice has cut cannot be joined; view the whole tensor and slice the view, or copy by an op"
            self.builder.report("G338", message, item.spec.mark, hint)
            return self.stand_in(base, spec)
        return self.laid_out(base, spec, layout)

    def stand_in(self, base: View, spec: TensorSpec) -> View:
        """What stands for a view that cannot be, so that one mistake is told once."""
        region = _new_region(base.tensor, None, (), base.region.part, whole(spec))
        return _new_view(base.tensor, spec, region, self.builder.tensors[base.tensor].spec.shape)

    def unknown(self, ref: RegionRef, frame: Frame, context: Context) -> None:
        """Says why a name stands for no tensor here."""
        if self.builder.is_untyped(ref.name, context):
            return
        where = closed_in(context.graph.body, ref.name)
        if where is not None and where[0] == "scope":
            hint = f"read it inside, or alloc it before scope '{where[1]}'"
            message = f"'{ref.name}' is read after its scope '{where[1]}' closed"
            self.builder.report("G315", message, ref.text.mark, hint)
            return
        hint = did_you_mean(ref.name, frame.visible())
        if where is not None:
            hint = f"it is a name of {where[0]} '{where[1]}' alone; alloc it before, or carry it"
        elif hint is None and "[" in ref.text.value:
            near = did_you_mean(ref.name, DTYPE_BYTES)
            hint = f"{near[:-1]} as a dtype?" if near else None
        self.builder.report("G306", f"unknown tensor '{ref.name}'", ref.text.mark, hint)

    def call(self, node: NodeOp, specs: Sequence[TensorSpec | None], context: Context) -> NodeCall:
        """What the call needs, worked out once per combination of operand types unless the op's rules read the item's attrs."""
        key = tuple(map(id, specs))
        fitted = node.calls.get(key)
        if fitted is not None and not node.attrs:
            return fitted.call
        attrs = self.attrs(node, context) if node.attrs else node.fixed
        if fitted is None:
            fitted = node.calls[key] = self.fit(node, specs, attrs)
        elif fitted.again is not None and node.definition is not None:
            return self.ask(node, node.definition, Call(*fitted.again, attrs))
        return NodeCall(fitted.call.core, attrs, fitted.call.num_blocks, fitted.call.workspace)

    def attrs(self, node: NodeOp, context: Context) -> Mapping[str, Any]:
        attrs = dict(node.fixed)
        for name, expr in node.attrs:
            try:
                attrs[name] = attr_value(expr, context)
            except ExprError as error:
                self.builder.report_error(error, list(context.values))
        return attrs

    def fit(self, node: NodeOp, specs: Sequence[TensorSpec | None], attrs: Mapping[str, Any]) -> Fitted:
        """Check the operands against the op's signature and ask its rules."""
        definition = node.definition
        if definition is None:
            return Fitted(NodeCall(None, attrs, 1, ()))
        known = {operand.name for operand in definition.operands}
        given = {name: spec for name, spec in zip(node.names, specs, strict=True) if spec is not None and name in known}
        found = self.signatures[definition.name].match(given)
        for operand, message in found.problems:
            value = node.item.inputs.get(operand) or node.item.outputs[operand]
            mark = value.spec.mark if isinstance(value, Declaration) else value.mark
            self.builder.report("G303", f"op '{definition.name}': {message}", mark, about=operand)
        if found.problems or any(o.name not in given and not o.optional for o in definition.operands):
            return Fitted(NodeCall(definition.core, attrs, 1, ()))
        watched = _Watched(attrs, node.item.attrs)
        call = self.ask(node, definition, Call(given, found.dims, watched))
        return Fitted(call, (given, found.dims) if watched.was_read else None)

    def ask(self, node: NodeOp, definition: OpDef, call: Call) -> NodeCall:
        """The op's own rules; they may be anybody's code, so that nothing they raise may reach the user as a traceback."""
        mark, attrs = node.item.op.mark, call.attrs.attrs if isinstance(call.attrs, _Watched) else call.attrs
        try:
            message = definition.check(call)
            if message is None:
                workspace = definition.workspace(call) if self.builder.with_workspace else {}
                scratch = tuple((name, self.builder.intern(spec.dtype, spec.shape)) for name, spec in workspace.items())
                num_blocks = max(definition.num_blocks(call), 1)  # a task that has nothing to do runs all the same
                return NodeCall(definition.core, attrs, num_blocks, scratch)
        except Exception as error:
            message = f"its rules failed: {type(error).__name__}: {error}"
        self.builder.report("G323", f"op '{definition.name}': {message}", mark)
        return NodeCall(definition.core, attrs, 1, ())


def attr_value(expr: Expr, context: Context) -> Any:
    """What an op gets for an attr: rationals as float."""
    value = expr.evaluate(context.values.__getitem__)
    return float(value) if type(value) is Fraction else value  # `isinstance` would ask an abstract class of all else


def _inside(region: Region, ranges: Sequence[tuple[int, int]], dropped: Sequence[int]) -> tuple[Box, tuple[int, ...]]:
    """A box of what `region` shows, as a box of the tensor."""
    assert region.box is not None
    axes = [axis for axis in range(len(region.box)) if axis not in region.dropped]
    box = list(region.box)
    for axis, (lo, hi) in zip(axes, ranges, strict=True):
        start = region.box[axis][0]
        box[axis] = (start + lo, start + hi)
    return tuple(box), tuple(sorted({*region.dropped, *(axes[axis] for axis in dropped)}))


def closed_in(body: Sequence[Item], name: str) -> tuple[str, str] | None:
    """The scope (else the loop) in `body` that creates a tensor called `name`: what it is and its name."""
    for item in body:
        match item:
            case Scope():
                found = closed_in(item.body, name) or (("scope", item.name) if creates(item.body, name) else None)
            case For():
                found = closed_in(item.body, name) or (("for", item.variable) if creates(item.body, name) else None)
            case Switch():
                found = next((f for branch in item.cases.values() if (f := closed_in(branch, name))), None)
            case _:
                found = None
        if found is not None:
            return found
    return None


def creates(body: Sequence[Item], name: str) -> bool:
    """Does `body` itself, or a branch in it, create a tensor called `name`?"""
    for item in body:
        if isinstance(item, Op):
            made = [out.name for out in item.outputs.values() if isinstance(out, Declaration)]
        elif isinstance(item, Switch):
            made = [name] * any(creates(branch, name) for branch in item.cases.values())
        elif isinstance(item, Seen):
            made = [item.name]
        else:
            made = [declared.name for declared in getattr(item, "tensors", ())]
        if name in made:
            return True
    return False
