"""This module owns the expanded graph: one submission order of tasks, with the structure they were written in (`spans`).

`Program` is data; `runner.expansion.expander` builds it from a `Graph`, schedulers read it, nobody changes it. Tensors and tasks
are numbered in the order in which they are created and submitted, so `tasks[i].id == i` and `tensors[j].id == j`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from runner.base.errors import Mark
from runner.base.records import open_record
from runner.base.tensor_spec import TensorSpec
from runner.program.layouts import Layout, whole
from runner.program.spans import Span as Span
from runner.program.spans import Trips as Trips

Box = tuple[tuple[int, int], ...]
"""One half-open range `[lo, hi)` per dimension."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A global-memory tensor.

    `kind` is `local` for a tensor that the program creates (its bytes come from a ring), else what supplies it from
    outside: `input`, `weight`, `state` or `output`. `source` names it there: the graph input's name, the checkpoint
    tensor's name (with `{expert}` still in it for stacked weights), the state's name. `stack` names the placeholder of `source`
    that runs over the leading dimension (`expert`: this rank's experts), `shard` the dimension of the checkpoint's tensor of
    which this rank holds its part.
    """

    id: int
    name: str
    spec: TensorSpec
    kind: str = "local"
    source: str = ""
    mark: Mark | None = None
    stack: str | None = None
    shard: int | None = None

    @property
    def is_local(self) -> bool:
        return self.kind == "local"


@dataclass(frozen=True, slots=True)
class Region:
    """A whole tensor (`box is None`) or a box of it; an index `x[3]` drops its dimension from `shape`.

    `part` is the key of a part `x{e, t}`: the op gets the whole tensor, but touches only what belongs to that key. Parts with
    different keys never overlap; any other access overlaps all parts.

    `seen` says where the elements lie if a view shows them: then `box` holds them all, `dropped` says nothing, and `box` is None
    where only the whole tensor holds them.
    """

    tensor: int
    box: Box | None = None
    dropped: tuple[int, ...] = ()
    part: tuple[int, ...] | None = None
    seen: Layout | None = None

    def layout(self, spec: TensorSpec) -> Layout:
        """Where its elements lie in its tensor, of type `spec`."""
        if self.seen is not None:
            return self.seen
        return whole(spec) if self.box is None else whole(spec).part(self.box, self.dropped)

    def shown(self, spec: TensorSpec) -> TensorSpec:
        """The type of what it shows of its tensor, of type `spec`."""
        if self.seen is not None:
            return self.seen.spec
        if self.box is None:
            return spec
        return TensorSpec(spec.dtype, tuple([hi - lo for axis, (lo, hi) in enumerate(self.box) if axis not in self.dropped]))


class Operands(Mapping[str, Region]):
    """The regions of operands by name, in half the bytes of a dict: tasks of a kind share the tuple of names."""

    __slots__ = ("names", "regions")

    def __init__(self, names: tuple[str, ...], regions: tuple[Region, ...]) -> None:
        self.names, self.regions = names, regions

    def __repr__(self) -> str:
        return repr(dict(self))

    def __getitem__(self, name: str) -> Region:
        if name in self.names:
            return self.regions[self.names.index(name)]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def items(self) -> tuple[tuple[str, Region], ...]:  # type: ignore[override]
        return tuple(zip(self.names, self.regions))  # noqa: B905 - asked for by the million

    def values(self) -> tuple[Region, ...]:  # type: ignore[override]
        return self.regions


@open_record
class Task:
    """One submission: a registered op on its operands, or (`op is None`) an alloc without a kernel.

    `operands` maps each operand of the op to its region. `creates` lists the tensors first created here, in block
    order; `uses` every local tensor that it touches but did not create (their blocks stay alive until it completes).
    `waits` are the edges inferred from data (RAW and WAW; creator edges follow from `uses`), `after` the explicit ones. Those
    keep the other task's block until this one has completed, but for `wait_only`, which is part of them.
    `modes` names operands for which less is inferred: `existing` (written, and no edge to earlier writers) and `no_dep` (creator
    edge only, and nobody waits for what is written); and `in` where a tensor that the task writes too is only read. `unordered`
    are those that it would wait for if no task had such operands: explicit edges have to see to it.
    `reads` and `writes` are tensor ids, locals and externals alike; an in-out tensor is in both.
    """

    __slots__ = ()

    id: int
    path: str
    op: str | None
    core: str | None = None
    operands: Mapping[str, Region] = field(default_factory=dict)
    attrs: Mapping[str, object] = field(default_factory=dict)
    creates: tuple[int, ...] = ()
    uses: tuple[int, ...] = ()
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    waits: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    num_blocks: int = 1
    mark: Mark | None = None
    doc: str = ""
    device: str | None = None
    wait_only: tuple[int, ...] = ()
    modes: Mapping[str, str] = field(default_factory=dict)
    unordered: tuple[int, ...] = ()

    @property
    def like(self) -> object:
        """One object for tasks that were copied from one another: they differ in paths, in ids, in what regions are of, in boxes
        of one shape, and in values of attrs."""
        return self

    @property
    def among(self) -> tuple[int, ...]:
        """The tensors of the copy that it is part of, each once, among which tasks alike find theirs at the same places.

        Empty where it is part of none.
        """
        return ()

    @property
    def names(self) -> Sequence[str]:
        """The names of its operands, in order."""
        return tuple(self.operands)

    @property
    def regions(self) -> Collection[Region]:
        """The regions of its operands, in order."""
        return self.operands.values()

    @property
    def num_arguments(self) -> int:
        """Tensor arguments of its submission: its operands, and what else it creates (scratch, the tensors of an alloc)."""
        regions, created = self.regions, self.creates
        if not created or (regions and created == self.writes):
            return len(regions)
        operands = {region.tensor for region in regions}
        return len(regions) + sum(tensor not in operands for tensor in created)


@dataclass(frozen=True, slots=True)
class Arena:
    """Tensors that lie in one block, as a graph's `share:` says, and their offsets in bytes.

    The block is allocated where the body with path `path` begins: the program's ("") or that of a used graph. Tensors whose lives
    do not overlap may share bytes; `runner.program.sharing` has the edges that this needs.
    """

    path: str
    tensors: tuple[int, ...]
    offsets: tuple[int, ...]
    size_bytes: int
    mark: Mark | None = None


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Program:
    """The expanded graph; see the module docstring.

    `races` are for recorded programs: pairs of tasks that touch the same bytes in an order that their author left open, and
    `(-1, task)` for a task that uses a block which nothing keeps for it. No plan has to order what never was.
    """

    name: str
    tensors: tuple[Tensor, ...]
    tasks: tuple[Task, ...]
    body: Span
    inputs: Mapping[str, int] = field(default_factory=dict)
    outputs: Mapping[str, int] = field(default_factory=dict)
    races: frozenset[tuple[int, int]] = frozenset()
    arenas: tuple[Arena, ...] = ()

    def in_arenas(self) -> frozenset[int]:
        """The tensors that lie in arenas; all others have a block of their own or lie in one."""
        return frozenset(tensor for arena in self.arenas for tensor in arena.tensors)
