"""Tasks of ops and of allocs: what they read, write and create, and whom they follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from runner.base.errors import did_you_mean
from runner.base.records import builder as record_builder
from runner.base.tensor_spec import TensorSpec
from runner.expansion.builder import ProgramBuilder
from runner.expansion.calls import NodeOp, OpCompiler
from runner.expansion.names import Context, Frame, View
from runner.language.graph import Alloc, Op, Text
from runner.language.notation import RegionRef, TensorType, parse_type
from runner.program.program import Region, Task

_new_task = record_builder(Task)


@dataclass(slots=True)
class _Making:
    """A task under construction. `specs` are those of all operands in the order of `NodeOp.names`, None for unusable ones."""

    index: int
    regions: dict[str, Region] = field(default_factory=dict)
    specs: list[TensorSpec | None] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)
    creates: list[int] = field(default_factory=list)
    uses: list[int] = field(default_factory=list)
    waits: set[int] = field(default_factory=set)
    unordered: set[int] = field(default_factory=set)
    modes: dict[str, str] = field(default_factory=dict)

    def note(self, tensor: int, touched: list[int], is_local: bool) -> None:
        """The task reads or writes a tensor that it did not create."""
        if tensor not in touched:
            touched.append(tensor)
        if is_local and tensor not in self.uses:
            self.uses.append(tensor)


class TaskMaker:
    """Makes the tasks of a program, one after another."""

    def __init__(self, builder: ProgramBuilder, ops: OpCompiler):
        self.builder = builder
        self.ops = ops
        self.types: dict[int, TensorType] = {}  # of allocs, by the identity of their texts

    def op(self, item: Op, frame: Frame, context: Context) -> int:
        """One task."""
        node = self.ops.compiled(item, context)
        index = len(self.builder.tasks)
        made = _Making(index)
        self.operands(made, node, frame, context)
        call = self.ops.call(node, made.specs, context)
        if call.workspace:
            made.creates += [self.builder.tensor(name, spec, item.mark, index).tensor for name, spec in call.workspace]
        if node.param_attrs:  # they may differ in a copy; what the op's rules make of them could not be copied
            self.builder.attrs.append((index, context, node.param_attrs))
            self.builder.num_obstacles += node.rules_read_attrs
        self.builder.num_obstacles += node.is_faulty
        after, wait_only = self.explicit(item, frame, context) if item.after or item.after_wait_only else ((), ())
        if context.wants(item.id):
            frame.ids[item.id] = [index]
        made.waits.discard(index)
        rest = item.mark, item.doc, item.device, wait_only, made.modes, tuple(sorted(made.unordered))
        self.builder.note_edges(len(made.waits) + len(after), item.mark)
        self.builder.tasks.append(
            _new_task(
                index,
                frame.prefix + item.id,
                item.op.value,
                call.core,
                made.regions,
                call.attrs,
                tuple(made.creates),
                tuple(made.uses),
                tuple(made.reads),
                tuple(made.writes),
                tuple(sorted(made.waits)),
                after,
                call.num_blocks,
                *rest,
            )
        )
        return index

    def operands(self, made: _Making, node: NodeOp, frame: Frame, context: Context) -> None:
        """Fills in what a task reads, writes and creates, and whom it follows for that."""
        for name, ref in node.inputs:
            view = self.ops.view(ref, frame, context)
            made.specs.append(view.spec if view else None)
            if view is not None:
                made.regions[name] = view.region
                self.read_operand(made, name, view, ref, node, frame)
        for name, ref, is_inout in node.targets:
            view = self.ops.view(ref, frame, context)
            made.specs.append(view.spec if view else None)
            if view is not None:
                made.regions[name] = view.region
                if is_inout:
                    self.read_operand(made, name, view, ref, node, frame)
                made.note(view.tensor, made.writes, self.builder.local[view.tensor])
                if self.builder.has_modes:
                    self.write_by_mode(made, name, view, node)
                else:
                    self.builder.write(view, made.index, made.waits)
        if made.writes and made.reads:
            for name, _ in node.inputs:
                if name in made.regions and made.regions[name].tensor in made.writes:
                    made.modes.setdefault(name, "in")
        for name, declared, kind in node.created:
            spec = self.builder.spec(kind, context, declared.name)
            made.specs.append(spec)
            if spec is not None:
                view = frame.names[declared.name] = self.builder.tensor(declared.name, spec, declared.mark, made.index)
                made.regions[name] = view.region
                made.creates.append(view.tensor)
                made.writes.append(view.tensor)
                if node.modes.get(name) == "manual_dep":
                    self.builder.manual.add(view.tensor)

    def read_operand(self, made: _Making, name: str, view: View, ref: RegionRef, node: NodeOp, frame: Frame) -> None:
        found = set() if self.builder.has_modes else made.waits
        is_written = self.builder.read(view, found)
        if self.builder.has_modes:
            mode = self.builder.mode(view, node.modes.get(name))
            if mode is not None:
                made.modes[name] = mode
            self.builder.sort(view.tensor, found, mode, made.waits, made.unordered)
        if not is_written:
            self.builder.note_unwritten(view.tensor, ref.text.mark, frame.prefix + node.item.id)
        made.note(view.tensor, made.reads, self.builder.local[view.tensor])

    def write_by_mode(self, made: _Making, name: str, view: View, node: NodeOp) -> None:
        """Like `ProgramBuilder.write`, in a program where operands have modes."""
        found: set[int] = set()
        self.builder.write(view, made.index, found)
        mode = self.builder.mode(view, node.modes.get(name))
        if mode is not None:
            made.modes[name] = mode
        if mode == "no_dep":
            self.builder.untold.add((made.index, view.tensor))
        self.builder.sort(view.tensor, found - {made.index}, mode, made.waits, made.unordered)

    def alloc(self, item: Alloc, frame: Frame, context: Context) -> int:
        """The task that stands for tensors made before an op fills them."""
        creates = []
        for declared in item.tensors:
            kind = self.types.get(id(declared.spec)) or self.types.setdefault(id(declared.spec), parse_type(declared.spec))
            spec = self.builder.spec(kind, context, declared.name)
            if spec is not None:
                view = frame.names[declared.name] = self.builder.tensor(declared.name, spec, declared.mark)
                creates.append(view.tensor)
        task = len(self.builder.tasks)
        if context.wants(item.id):
            frame.ids[item.id] = [task]
        made = task, frame.prefix + item.id, None, None, {}, {}, tuple(creates), (), (), (), (), (), 1, item.mark, item.doc
        self.builder.tasks.append(_new_task(*made, None, (), {}, ()))
        return task

    def explicit(self, item: Op, frame: Frame, context: Context) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tasks that an op names as explicit edges, and those of them that it only waits for."""
        keeping, waiting = (self.after(names, frame, context) for names in (item.after, item.after_wait_only))
        wait_only = tuple([task for task in waiting if task not in keeping])
        return tuple(sorted((*keeping, *wait_only))), wait_only

    def after(self, names: Sequence[Text], frame: Frame, context: Context) -> tuple[int, ...]:
        """The tasks of an `after` list, here or in a body around; in a loop, if not made yet, those of the trip before."""
        tasks: set[int] = set()
        for name in names:
            found = frame.find_tasks(name.value)
            if found is not None:
                tasks.update(found)
            elif name.value not in frame.declared_ids():
                hint = did_you_mean(name.value, frame.declared_ids())
                self.builder.report("G321", f"'after' names '{name}', but no item here or around has that id", name.mark, hint)
        return tuple(sorted(tasks))
