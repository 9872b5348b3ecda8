"""The program under construction: its tasks and tensors, who wrote what last, and what is wrong.

A `ProgramBuilder` only ever grows. `expander` walks a graph and fills it; compilers, externals and copies are handed the builder,
never the walk, so that whoever adds something to the program does it here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import NamedTuple

from runner.base.errors import Diagnostic, GraphError, Mark, did_you_mean
from runner.base.limits import ITEMS_OF_ANY, Limits, how_to_raise
from runner.base.records import builder
from runner.base.stopping import stop_if_needless
from runner.base.tensor_spec import DTYPE_BYTES, TensorSpec
from runner.expansion.last_writers import NOBODY, Writers
from runner.expansion.names import Context, Resolved, View
from runner.language.expressions import Expr, ExprError, parse
from runner.language.graph import Declaration, Graph, Text
from runner.language.notation import TensorType
from runner.models.protocols import Settings
from runner.program.program import Region, Task, Tensor

_new_region, _new_tensor, _new_view = builder(Region), builder(Tensor), builder(View)


MAX_NESTED = 96
"""Bodies that one may lie in: scopes, trips, cases and used graphs together. Runtimes open 64 scopes at the most."""

MAX_USES_DEEP = 32
"""Graphs that one may lie in, by `use`: whoever walks a program recurses."""


class StopExpansionError(Exception):
    """Expansion cannot go on; the reason is among the problems."""


class Position(NamedTuple):
    """How far a program has come; what lies between two positions is a piece of it."""

    tasks: int
    tensors: int
    items: int
    trips: int
    uses: int
    externals: int
    attrs: int
    obstacles: int


NOWHERE = Position(0, 0, 0, 0, 0, 0, 0, 0)


class ProgramBuilder:
    """The tensors, tasks and problems so far.

    `last[tensor]` is its last writer (NOBODY if none), or Writers once parts are written. `displaced[task, tensor]` are the
    writers that a task of the dynamic loop `loop_of[task]` follows: who touches the tensor outside of that loop (it is not one of
    `open_loops`) waits for them too, since the loop may make no trip, and a manual scope drops its tasks' edges. `unwritten` maps
    the place of a read of what nobody has written, with the alias and the name, to the tensor and the path of the reader.

    `has_modes` says that some operand has a mode (see `Task.modes`): then `manual` are `manual_dep` tensors, and `untold` the
    writes (task, tensor) of which nobody is told.

    For copies: `externals` are the external tensors in the order in which graphs named them, `attrs` the attrs of tasks that
    depend on a graph's params, and `num_obstacles` counts what keeps the piece that it happened in from being copied.
    `untyped` are names, with their files, whose type cannot be worked out: that is told, and who uses them is not to blame.
    """

    def __init__(self, config: Settings, limits: Limits):
        self.config = config
        self.limits = limits
        self.items = self.trips = self.uses = self.edges = 0
        self.most_items = min(limits.items, ITEMS_OF_ANY)
        self.granted: set[str] = set()
        self.with_workspace = bool(config.values.get("workspace", True))
        self.problems: dict[object, Diagnostic] = {}
        self.tensors: list[Tensor] = []
        self.local: list[bool] = []
        self.last: list[int | Writers] = []
        self.tasks: list[Task] = []
        self.numbers: list[int] = []
        self.specs: dict[tuple[str, tuple[int, ...]], TensorSpec] = {}
        self.open_loops: set[int] = set()
        self.loop = 0
        self.num_loops = 0
        self.displaced: dict[tuple[int, int], set[int]] = {}
        self.loop_of: dict[int, int] = {}
        self.unwritten: dict[tuple[Mark, Mark | None, str], tuple[int, str]] = {}
        self.externals: list[Resolved] = []
        self.attrs: list[tuple[int, Context, list[tuple[str, Expr]]]] = []
        self.num_obstacles = 0
        self.untyped: set[tuple[str, str]] = set()
        self.has_modes = False
        self.manual: set[int] = set()
        self.untold: set[tuple[int, int]] = set()

    @property
    def position(self) -> Position:
        """Where the next task goes."""
        sizes = len(self.tasks), len(self.tensors), self.items, self.trips, self.uses, len(self.externals), len(self.attrs)
        return Position(*sizes, self.num_obstacles)

    def numbered(self, end: int) -> list[int]:
        """The numbers 0 to `end - 1` and more: copies, which name tasks and tensors millions of times, share these objects."""
        if len(self.numbers) < end:
            self.numbers += range(len(self.numbers), end + len(self.numbers) // 8)
        return self.numbers

    def forget_program(self) -> None:
        """The program is made. What copies pieces refers to the builder and to itself, and is kept while the collector is off."""
        self.tensors, self.tasks, self.local, self.last, self.numbers, self.attrs = [], [], [], [], [], []

    # --- limits ---

    def grant(self, graph: Graph) -> None:
        """Items of this graph are about to be expanded: its file allows for more."""
        if graph.file not in self.granted:
            self.granted.add(graph.file)
            self.most_items = min(self.limits.items, self.most_items + self.limits.density * sum(map(len, graph.lines)))

    def enter(self, num_items: int, mark: Mark) -> None:
        """A body of so many items is about to be expanded."""
        stop_if_needless()
        self.items += num_items + 1
        if self.items > self.most_items:
            raise self.too_many_items(mark)

    def nest(self, depth: int, mark: Mark) -> None:
        """A body is about to be expanded, with so many around it."""
        if depth > MAX_NESTED:
            raise self.stop("G329", f"bodies are nested deeper than {MAX_NESTED} levels, those of used graphs included", mark)

    def expect(self, trips: int, items: int, mark: Mark) -> None:
        """At least so many trips and items are to come, up to the end of the loop at `mark`."""
        if self.trips + trips > self.limits.trips:
            raise self.too_large("trips", mark)
        if self.items + items > self.most_items:
            raise self.too_many_items(mark)

    def use(self, depth: int, mark: Mark) -> None:
        """A used graph is about to be expanded, with so many around it."""
        if depth > MAX_USES_DEEP:
            raise self.stop("G329", f"used graphs are nested deeper than {MAX_USES_DEEP} levels", mark)
        self.uses += 1
        if self.uses > self.limits.uses:
            raise self.too_large("uses", mark)

    def note_edges(self, num: int, mark: Mark) -> None:
        """A task or loop waits for so many."""
        self.edges += num
        if self.edges > self.limits.edges:
            raise self.too_large("edges", mark)

    def refuse_blocks(self) -> None:
        """Stops if the tasks come in more blocks than are replayed in a bearable time: their number follows from shapes."""
        most = self.limits.blocks * self.most_items
        for num, task in zip(accumulate([task.num_blocks for task in self.tasks]), self.tasks, strict=True):
            if num > most:
                what = f"more than {most:,} blocks of tasks, {self.limits.blocks:,} for each item that its files allow"
                raise self._too_large(what, "blocks", task.mark)

    def has_room(self, start: Position, end: Position) -> bool:
        """May what lies between two positions be made once more? If so, it counts as made."""
        items, trips, uses = (
            self.items + end.items - start.items,
            self.trips + end.trips - start.trips,
            self.uses + end.uses - start.uses,
        )
        if items > self.most_items or trips > self.limits.trips or uses > self.limits.uses:
            return False
        self.items, self.trips, self.uses = items, trips, uses
        return True

    def too_large(self, limit: str, mark: Mark | None) -> StopExpansionError:
        """Says that the program is too large, and stops."""
        what = {"items": "items", "trips": "trips of loops", "uses": "used graphs", "edges": "edges between tasks"}[limit]
        return self._too_large(f"more than {getattr(self.limits, limit):,} {what}", limit, mark)

    def too_many_items(self, mark: Mark | None) -> StopExpansionError:
        if self.most_items == self.limits.items:
            return self.too_large("items", mark)
        what = f"more than {ITEMS_OF_ANY:,} items and {self.limits.density:,} for each byte of its files"
        return self._too_large(what, "density", mark)

    def _too_large(self, what: str, limit: str, mark: Mark | None) -> StopExpansionError:
        return self.stop("G329", f"the program is too large: {what}", mark, how_to_raise(limit))

    # --- problems and values ---

    def report(self, code: str, message: str, mark: Mark | None, hint: str | None = None, about: str = "") -> None:
        """Note a finding; the same one of another layer or trip is the same finding.

        `about` tells apart what is wrong in one place, as the missing inputs of one `use`.
        """
        self.note(Diagnostic(code, message, mark, hint=hint, about=about))

    def note(self, found: Diagnostic) -> None:
        """Note a finding that is made already."""
        self.problems.setdefault(found.identity, found)
        self.num_obstacles += 1
        if len(self.problems) > self.limits.findings:
            raise StopExpansionError

    def report_error(self, error: GraphError, known: Sequence[str] = ()) -> None:
        hint = None
        if isinstance(error, ExprError) and error.unknown:
            hint = did_you_mean(error.unknown, known) or "dims and fields come from a configuration (--config)"
        for found in error.diagnostics:
            self.report(found.code, found.message, found.mark, found.hint or hint, found.about)

    def stop(self, code: str, message: str, mark: Mark | None, hint: str | None = None) -> StopExpansionError:
        self.report(code, message, mark, hint)
        return StopExpansionError()

    def integer(self, text: Text, context: Context, default: int = 0) -> int:
        """The value of an integer expression; `default` after reporting that it has none."""
        try:
            return parse(text.value, text.mark).integer(context.values.__getitem__)
        except ExprError as error:
            self.report_error(error, list(context.values))
            return default

    def spec(self, kind: TensorType, context: Context, name: str | None = None) -> TensorSpec | None:
        """The evaluated type; None after reporting what is wrong with it. `name` is what the tensor will be called here."""
        found = self._spec(kind, context)
        if found is None and name is not None:
            self.untyped.add((context.graph.file, name))
        return found

    def is_untyped(self, name: str, context: Context) -> bool:
        """Whether it has been told why no tensor here has this name."""
        known = (context.graph.file, name) in self.untyped
        self.num_obstacles += known
        return known

    def _spec(self, kind: TensorType, context: Context) -> TensorSpec | None:
        dtype = self.config.dtypes.get(kind.dtype) if kind.is_param else kind.dtype
        if dtype not in DTYPE_BYTES:
            what = f"dtype parameter '{kind.dtype}'" if kind.is_param else f"dtype '{kind.dtype}'"
            known = self.config.dtypes if kind.is_param else DTYPE_BYTES
            self.report(
                "G327", f"unknown {what}", kind.text.mark, did_you_mean(kind.dtype, known) or f"known: {', '.join(known)}"
            )
            return None
        try:
            shape = tuple([dim.integer(context.values.__getitem__) for dim in kind.dims])
        except ExprError as error:
            self.report_error(error, list(context.values))
            return None
        for dim, size in zip(kind.dims, shape, strict=True):
            if size < 0:
                self.report("G310", f"expression '{dim.text}': is {size}, but a dim cannot be negative", dim.mark)
                return None
        return self.intern(dtype, shape)

    def intern(self, dtype: str, shape: tuple[int, ...]) -> TensorSpec:
        """One TensorSpec object per dtype and shape, so that calls can be told apart by identity."""
        spec = self.specs.get((dtype, shape))
        if spec is None:
            spec = self.specs[dtype, shape] = TensorSpec(dtype, shape)
        return spec

    # --- tensors ---

    def tensor(self, name: str, spec: TensorSpec, mark: Mark | None, writer: int = NOBODY) -> View:
        """A new local tensor, last written by `writer`."""
        index = len(self.tensors)
        self.tensors.append(_new_tensor(index, name, spec, "local", "", mark, None, None))
        self.local.append(True)
        self.last.append(writer)
        return _new_view(index, spec, _new_region(index, None, (), None, None), ())

    def add_like(self, tensors: Sequence[Tensor]) -> list[int]:
        """New local tensors like others, that nobody has written; returns their ids."""
        end = len(self.tensors) + len(tensors)
        ids = self.numbered(end)[len(self.tensors) : end]
        self.tensors += [
            _new_tensor(index, old.name, old.spec, "local", "", old.mark, None, None)
            for index, old in zip(ids, tensors, strict=True)
        ]
        self.local += [True] * len(tensors)
        self.last += [NOBODY] * len(tensors)
        return ids

    def external(self, declared: Declaration, name: str, spec: TensorSpec, kind: str, source: str) -> View:
        """A new tensor from outside, that `declared` (or the scale of what it declares) is called there."""
        index = len(self.tensors)
        shard = declared.shard if declared.shard is None or declared.shard < len(spec.shape) else None
        self.tensors.append(Tensor(index, name, spec, kind, source, declared.mark, declared.stack, shard))
        self.local.append(False)
        self.last.append(NOBODY)
        return View(index, spec, Region(index))

    def read(self, view: View, waits: set[int]) -> bool:
        """Add the last writers of what `view` shows to `waits`; False when nobody has written any of it."""
        return 0 in view.spec.shape or self.follow(view.region, waits)

    def follow(self, region: Region, waits: set[int]) -> bool:
        """What `read` does for a region that is not empty."""
        last = self.last[region.tensor]
        if type(last) is int:
            if last < 0:
                return False
            waits.add(last)
            if self.displaced:
                self.add_displaced(region.tensor, last, waits)
            return True
        found = last.of(region)  # type: ignore[union-attr]
        for writer in found:
            waits.add(writer)
            if self.displaced:
                self.add_displaced(region.tensor, writer, waits)
        return bool(found)

    def mode(self, view: View, given: str | None) -> str | None:
        """The mode of an operand, given that of its item; of a `manual_dep` tensor a part has all edges."""
        whole = view.region.box is None and view.region.part is None and view.region.seen is None
        return "no_dep" if whole and view.tensor in self.manual else given

    def sort(self, tensor: int, found: Iterable[int], mode: str | None, waits: set[int], unordered: set[int]) -> None:
        """Put the last writers of an operand with a mode to those that its task waits for, or to those that it should."""
        for writer in found:
            if writer == len(self.tasks):  # the task itself, by another operand
                continue
            follows = mode is None and (writer, tensor) not in self.untold
            (waits if follows or tensor in self.tasks[writer].creates else unordered).add(writer)

    def note_unwritten(self, tensor: int, mark: Mark, path: str) -> None:
        """For lint: a local tensor or an output is read before anybody wrote it."""
        if self.tensors[tensor].kind in ("local", "output"):
            self.unwritten.setdefault((mark, mark.via, self.tensors[tensor].name), (tensor, path))

    def write(self, view: View, task: int, waits: set[int]) -> None:
        """Make `task` the last writer of what `view` shows, waiting for those before."""
        if 0 not in view.spec.shape:
            self.overwrite(view.region, task, waits)

    def overwrite(self, region: Region, task: int, waits: set[int]) -> None:
        """What `write` does for a region that is not empty."""
        tensor = region.tensor
        last = self.last[tensor]
        if type(last) is int:
            found = {last} if last >= 0 else set()
            if region.box is None and region.part is None:
                self.last[tensor] = task
            else:
                writers = self.last[tensor] = Writers(self.tensors[tensor].spec.shape, last)
                writers.write(region, task)
        else:
            found = last.write(region, task)  # type: ignore[union-attr]
        for writer in found:
            waits.add(writer)
            if self.displaced:
                self.add_displaced(tensor, writer, waits)
        if found and self.open_loops:
            self.displaced.setdefault((task, tensor), set()).update(found)
            self.loop_of[task] = self.loop

    def add_displaced(self, tensor: int, writer: int, waits: set[int]) -> None:
        """A writer in a dynamic loop may not run: who is outside of that loop also waits for those that it follows."""
        pending, seen = [writer], {writer}
        while pending:
            task = pending.pop()
            before = self.displaced.get((task, tensor))
            if before is None or self.loop_of[task] in self.open_loops:
                continue
            pending += before - seen
            seen |= before
        waits |= seen

    def open_loop(self) -> int:
        """What follows may not run, until the loop is closed; returns the loop around it."""
        self.num_loops += 1
        outer, self.loop = self.loop, self.num_loops
        self.open_loops.add(self.loop)
        return outer

    def close_loop(self, outer: int) -> None:
        self.open_loops.discard(self.loop)
        self.loop = outer

    @contextmanager
    def dynamic_loop(self) -> Iterator[None]:
        """What is expanded inside may not run."""
        outer = self.open_loop()
        yield
        self.close_loop(outer)
