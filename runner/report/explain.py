"""This module tells what one node of a program is: its op and doc, operands, place among the scopes, and whom it works for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from runner.base.errors import GraphError, did_you_mean
from runner.base.tensor_spec import TensorSpec, round_up
from runner.program.ops import OpRegistry
from runner.program.program import Program, Region, Span, Task
from runner.program.spans import chain_to, spans_of
from runner.rings.schedule import ring_of

if TYPE_CHECKING:
    from runner.expansion.sharing.listed import Entry
    from runner.expansion.sharing.texts import Texts

MAX_LISTED = 6
"""Tasks that one line of text names; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Use:
    """One operand: what it shows, who wrote that last before, and who reads it after. `mode` is in, out, inout or scratch;
    `operand_mode` is existing or no_dep where the runtime infers less."""

    name: str
    mode: str
    tensor: str
    kind: str
    spec: TensorSpec
    region: str
    creates: bool
    source: str
    written_by: tuple[str, ...]
    read_by: tuple[str, ...]
    operand_mode: str = ""

    @property
    def size_bytes(self) -> int:
        return self.spec.size_bytes


@dataclass(frozen=True, slots=True)
class Shared:
    """A tensor that a task touches and that lies in an arena: from which byte on, whose bytes it takes, and the entries of lists
    that it lies in, the outermost first; none where these are not known."""

    tensor: str
    offset: int
    replaces: tuple[str, ...]
    entries: tuple[Entry, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        entries = [
            asdict(one) | {"takes": list(one.takes), "gives": list(one.gives), "units": one.units and list(one.units)}
            for one in self.entries
        ]
        return {"tensor": self.tensor, "offset": self.offset, "replaces": list(self.replaces), "entries": entries}


@dataclass(frozen=True, slots=True)
class Explanation:
    """A task, or with `op` None an alloc or a span. `scopes` are paths, modes and rings from the root inwards.

    `block_bytes` are of what it creates in blocks of its own, `arena_bytes` of that in arenas; `shared` are its tensors there,
    `share_waits` the tasks that it waits for because bytes are shared.
    """

    path: str
    kind: str
    op: str | None
    core: str | None
    num_blocks: int
    doc: str
    place: str
    scopes: tuple[tuple[str, str, int], ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    operands: tuple[Use, ...] = ()
    after: tuple[str, ...] = ()
    num_tasks: int = 1
    block_bytes: int = 0
    others: int = 0
    after_wait_only: tuple[str, ...] = ()
    shared: tuple[Shared, ...] = ()
    share_waits: tuple[str, ...] = ()
    arena_bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return {
            "path": self.path,
            "kind": self.kind,
            "op": self.op,
            "core": self.core,
            "num_blocks": self.num_blocks,
            "doc": self.doc,
            "place": self.place,
            "scopes": [{"path": path, "mode": mode, "ring": ring} for path, mode, ring in self.scopes],
            "attrs": dict(self.attrs),
            "operands": [_use_dict(use) for use in self.operands],
            "after": list(self.after),
            "after_wait_only": list(self.after_wait_only),
            "shared": [one.to_dict() for one in self.shared],
            "share_waits": list(self.share_waits),
            "num_tasks": self.num_tasks,
            "block_bytes": self.block_bytes,
            "arena_bytes": self.arena_bytes,
        }

    def __str__(self) -> str:
        return "\n".join(_text(self))


def explain(program: Program, registry: OpRegistry, node: str, texts: Callable[[], Texts] | None = None) -> Explanation:
    """The task or span with path `node` (or the first task whose path ends so); raises GraphError for an unknown one. `texts` are
    those of the program's graphs, which are asked for if bytes are shared, to tell entries of lists."""
    ending = f".{node}"
    exact = next((task for task in program.tasks if task.path == node), None)
    found = [exact] if exact else [task for task in program.tasks if task.path.endswith(ending)]
    if found:
        return _explain_task(program, registry, found[0], len(found) - 1, texts)
    span = next((span for span in spans_of(program.body) if span.path == node and span is not program.body), None)
    if span is not None:
        return _explain_span(program, span)
    raise GraphError(f"no node of '{program.name}' is called '{node}'", hint=_nearest(program, node))


def _nearest(program: Program, node: str) -> str | None:
    """The known path that is nearest, component by component."""
    known = ""
    parts = node.split(".")
    for part in parts:
        names = _next(program, known)
        if part not in names:
            hint = did_you_mean(part, names)
            if hint is None and not known and (other := _tensor(program, node) or _leaf(program, node)):
                return other
            if hint is None:
                listed = ", ".join(sorted(names)[:MAX_LISTED])
                return f"in '{known[:-1]}' are: {listed}, ..." if known else f"the graph begins with: {listed}, ..."
            return f"did you mean '{known}{hint.split(chr(39))[1]}{'.' if part is not parts[-1] else ''}'?"
        known += f"{part}."
    return f"in '{node}' are: {', '.join(sorted(_next(program, known))[:MAX_LISTED])}, ..."


def _next(program: Program, known: str) -> set[str]:
    """What follows in paths that begin with `known`."""
    return {task.path[len(known) :].partition(".")[0] for task in program.tasks if task.path.startswith(known)}


def _leaf(program: Program, node: str) -> str | None:
    """The ending of a path that is near."""
    count = node.count(".") + 1
    endings = dict.fromkeys(".".join(task.path.split(".")[-count:]) for task in program.tasks)
    return did_you_mean(node, [ending for ending in endings if not ending.isdigit()])  # recorded tasks end with numbers


def _tensor(program: Program, node: str) -> str | None:
    """What a tensor of this name has to do with nodes."""
    tensor = next((tensor.id for tensor in program.tensors if tensor.name == node), None)
    for does in ("writes", "reads"):
        task = next((task for task in program.tasks if tensor in getattr(task, does)), None)
        if task is not None:
            return f"'{node}' is a tensor; '{task.path}' is the first that {does} it"
    return None


def _scopes(program: Program, target: int | Span) -> tuple[tuple[str, str, int], ...]:
    """Path, mode and ring of every scope around a task or span, the root first."""
    chain = [span for span in chain_to(program.body, target) if span.kind in ("root", "scope")]
    return tuple((span.path or program.name, span.mode, ring_of(depth)) for depth, span in enumerate(chain))


def _explain_span(program: Program, span: Span) -> Explanation:
    tasks = list(span.tasks())
    own, in_arenas = _made_bytes(program, *(program.tasks[task] for task in tasks))
    scopes = _scopes(program, span)
    return Explanation(
        span.path,
        span.kind,
        None,
        None,
        0,
        "",
        str(span.mark or ""),
        scopes,
        num_tasks=len(tasks),
        block_bytes=own,
        arena_bytes=in_arenas,
    )


def _made_bytes(program: Program, *tasks: Task) -> tuple[int, int]:
    """Bytes of what tasks create: in blocks of their own, and in arenas, where others take the same bytes."""
    in_arenas = program.in_arenas()
    found = [0, 0]
    for tensor in (tensor for task in tasks for tensor in task.creates):
        found[tensor in in_arenas] += round_up(program.tensors[tensor].spec.size_bytes)
    return found[0], found[1]


def _explain_task(
    program: Program, registry: OpRegistry, task: Task, others: int, texts: Callable[[], Texts] | None
) -> Explanation:
    definition = registry.get(task.op) if task.op else None
    modes = {operand.name: operand.mode for operand in definition.operands} if definition else {}
    uses = [
        _use(program, task, name, modes.get(name) or _mode(task, region.tensor), region) for name, region in task.operands.items()
    ]
    shown = {region.tensor for region in task.operands.values()}
    own, in_arenas = _made_bytes(program, task)
    uses += [
        _use(program, task, program.tensors[tensor].name, "scratch" if task.op else "out", Region(tensor))
        for tensor in task.creates
        if tensor not in shown
    ]
    return Explanation(
        task.path,
        "op" if task.op else "alloc",
        task.op,
        task.core,
        task.num_blocks,
        task.doc or (definition.doc if definition else ""),
        str(task.mark or ""),
        _scopes(program, task.id),
        task.attrs,
        tuple(uses),
        tuple(program.tasks[other].path for other in task.after if other not in task.wait_only),
        1,
        own,
        others,
        tuple(program.tasks[other].path for other in task.wait_only),
        *_sharing(program, task, texts),
        in_arenas,
    )


def _sharing(program: Program, task: Task, texts: Callable[[], Texts] | None) -> tuple[tuple[Shared, ...], tuple[str, ...]]:
    """What a task has in arenas, and whom it waits for because of that."""
    if not program.arenas:
        return (), ()
    from runner.expansion.sharing.listed import entries_of  # which needs numpy
    from runner.program.lifetimes import lives_of
    from runner.program.sharing import Labels, certain_waits, former_tenants, reuse_edges

    lives = lives_of(program, allocs_touch=False)
    before, labels = former_tenants(program, lives), Labels(program)
    mine = dict.fromkeys((*task.creates, *task.uses))
    entries = {} if texts is None else entries_of(lives, texts(), mine)
    found = []
    for arena in program.arenas:
        offsets = dict(zip(arena.tensors, arena.offsets, strict=True))
        for tensor in mine:
            if tensor in offsets:
                olds = before.get(int(lives.locals.searchsorted(tensor)), ())
                names = tuple(labels[int(lives.locals[old])] for old in olds)
                found.append(Shared(labels[tensor], offsets[tensor], names, entries.get(tensor, ())))
    edges = reuse_edges(program, certain_waits(program)).get(task.id, ())
    return tuple(found), tuple(program.tasks[other].path for other in edges)


def _mode(task: Task, tensor: int) -> str:
    """How a task takes a tensor whose op is not declared, as of a recorded program."""
    if tensor not in task.writes:
        return "in"
    return "inout" if tensor in task.reads else "out"


def _use(program: Program, task: Task, name: str, mode: str, region: Region) -> Use:
    tensor = program.tensors[region.tensor]
    created = region.tensor in task.creates
    if task.op is None:  # an alloc: everybody who touches what it makes
        written_by = tuple(other.path for other in program.tasks if region.tensor in other.writes)
        read_by = tuple(other.path for other in program.tasks if region.tensor in other.reads)
    else:
        waits = [program.tasks[other] for other in task.waits]
        written_by = tuple(other.path for other in waits if region.tensor in other.writes) if mode != "out" else ()
        read_by = _readers(program, task.id, region.tensor) if mode not in ("in", "scratch") else ()
    spec = region.shown(tensor.spec)
    shown, given = _shown(tensor.spec, region), task.modes.get(name, "in")
    head = name, mode, tensor.name, tensor.kind, spec, shown, created, tensor.source
    return Use(*head, written_by, read_by, "" if given == "in" else given)


def _readers(program: Program, task: int, tensor: int) -> tuple[str, ...]:
    """Tasks that read what `task` wrote: those that wait for it."""
    return tuple(other.path for other in program.tasks[task + 1 :] if tensor in other.reads and task in other.waits)


def _shown(spec: TensorSpec, region: Region) -> str:
    """`[3, 16:32]` or `{0, 1}`, and that a view shows it; nothing for a whole tensor."""
    if region.seen is not None:
        return f"{_shown(spec, replace(region, seen=None))} by a view"
    if region.part is not None:
        return "{" + ", ".join(map(str, region.part)) + "}"
    if region.box is None:
        return ""
    ranges = []
    for axis, (lo, hi) in enumerate(region.box):
        whole = (lo, hi) == (0, spec.shape[axis])
        ranges.append(str(lo) if axis in region.dropped else ":" if whole else f"{lo}:{hi}")
    return f"[{', '.join(ranges)}]"


def _use_dict(use: Use) -> dict[str, Any]:
    return {
        "name": use.name,
        "mode": use.mode,
        "tensor": use.tensor,
        "kind": use.kind,
        "source": use.source,
        "dtype": use.spec.dtype,
        "shape": list(use.spec.shape),
        "region": use.region,
        "bytes": use.size_bytes,
        "creates": use.creates,
        "written_by": list(use.written_by),
        "read_by": list(use.read_by),
        "operand_mode": use.operand_mode,
    }


def listed(paths: Sequence[str]) -> str:
    """Names as one line of text has them."""
    more = len(paths) - MAX_LISTED
    return ", ".join(paths[:MAX_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def _text(node: Explanation) -> Iterator[str]:
    yield node.path + (f"  (and {node.others:,} more node{'s' * (node.others != 1)} with this ending)" if node.others else "")
    if node.op:
        yield f"  op      {node.op} ({node.core}, {node.num_blocks:,} block{'s' * (node.num_blocks != 1)})"
    else:
        yield f"  {'kind':7} {node.kind}" + (f" of {node.num_tasks:,} tasks" if node.kind != "alloc" else "")
    if node.doc:
        lines = node.doc.splitlines()
        yield f"  doc     {lines[0]}"
        yield from (f"          {line.strip()}".rstrip() for line in lines[1:])
    if node.place:
        yield f"  place   {node.place}"
    yield "  scopes  " + " > ".join(f"{path} ({mode}, ring {ring})" for path, mode, ring in node.scopes)
    if node.attrs:
        yield "  attrs   " + ", ".join(f"{name}={value}" for name, value in node.attrs.items())
    for use in node.operands:
        yield from operand_text(use)
    if node.after:
        yield f"  after   {listed(node.after)}"
    if node.after_wait_only:
        yield f"  waits   {listed(node.after_wait_only)} (after_wait_only)"
    for one in node.shared:
        olds = f", takes bytes of {listed(one.replaces)}" if one.replaces else ""
        yield f"  shared  {one.tensor} at {one.offset:,}{olds}"
        yield from (f"          entry {entry}" for entry in one.entries)
    if node.share_waits:
        yield f"  waits   {listed(node.share_waits)} (shared bytes)"
    yield f"  block   {node.block_bytes:,} bytes" + (f", and {node.arena_bytes:,} in arenas" if node.arena_bytes else "")


def operand_text(use: Use) -> Iterator[str]:
    """The lines of one operand."""
    what = "creates " if use.creates else "" if use.kind == "local" else f"{use.kind} "
    mode = f", {use.operand_mode}" if use.operand_mode else ""
    source = f" ({use.source})" if use.source and use.source != use.tensor else ""
    yield f"  {use.mode:7} {use.name}: {what}{use.tensor}{use.region}{source}, {use.spec}, {use.size_bytes:,} bytes{mode}"
    if use.written_by:
        yield f"          written by {listed(use.written_by)}"
    if use.read_by:
        yield f"          read by {listed(use.read_by)}"
    elif use.mode in ("out", "inout") and use.kind == "local":
        yield "          read by nobody"
