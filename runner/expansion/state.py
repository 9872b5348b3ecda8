"""The state of one expansion: problems, tensors, and who wrote what last. `expander` walks the graph and fills it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from runner.base.errors import Diagnostic, GraphError, Mark, did_you_mean
from runner.base.records import builder
from runner.base.tensor_spec import DTYPE_BYTES, TensorSpec
from runner.expansion.last_writers import NOBODY, Writers
from runner.expansion.names import Context, View
from runner.language.expressions import Expr, ExprError, parse
from runner.language.graph import Text
from runner.language.notation import TensorType
from runner.program.program import Region, Task, Tensor

_new_region, _new_tensor, _new_view = builder(Region), builder(Tensor), builder(View)


class Settings(Protocol):
    """What expansion needs of a configuration (`runner.config.config.Config`)."""

    @property
    def values(self) -> Mapping[str, Any]: ...

    @property
    def dtypes(self) -> Mapping[str, str]: ...


class StopExpansionError(Exception):
    """Expansion cannot go on; the reason is among the problems."""


@dataclass(frozen=True, slots=True)
class Access:
    """A read or write of a tensor from outside of a recorded use, in dynamic loops `open_loops` (the innermost is `loop`)."""

    view: View
    is_write: bool
    loop: int
    open_loops: tuple[int, ...]


@dataclass(slots=True)
class Recorder:
    """What a used graph does to tensors from outside while it is expanded, so that it can be done again for a copy.

    `base` is the first tensor that is not from outside unless it is external. `ranges` are the accesses of dynamic loops and
    choices, in order; `externals` those that were named for the first time; `attrs` the tasks' attrs that depend on params.
    """

    base: int
    loop: int
    open_loops: frozenset[int]
    accesses: dict[int, list[Access]] = field(default_factory=dict)
    ranges: list[list[Access]] = field(default_factory=list)
    externals: list[Any] = field(default_factory=list)
    attrs: dict[int, tuple[Context, list[tuple[str, Expr]]]] = field(default_factory=dict)
    is_complete: bool = True


class Expansion:
    """The tensors, tasks and problems so far.

    `last[tensor]` is its last writer (NOBODY if none), or Writers once parts are written. `displaced` keeps, for tasks in dynamic
    loops, the writers that they follow, since such a task may turn out not to run.
    """

    def __init__(self, config: Settings, max_work: int):
        self.config = config
        self.max_work = max_work
        self.work = 0
        self.recorders: list[Recorder] = []
        self.with_workspace = bool(config.values.get("workspace", True))
        self.problems: dict[tuple[str, Mark | None], Diagnostic] = {}
        self.tensors: list[Tensor] = []
        self.local: list[bool] = []
        self.last: list[int | Writers] = []
        self.tasks: list[Task] = []
        self.specs: dict[tuple[str, tuple[int, ...]], TensorSpec] = {}
        self.open_loops: set[int] = set()
        self.loop = 0
        self.num_loops = 0
        self.displaced: dict[tuple[int, int], set[int]] = {}
        self.loop_of: dict[int, int] = {}
        self.unwritten: dict[Mark, tuple[int, str]] = {}

    # --- problems and values ---

    def report(self, code: str, message: str, mark: Mark | None, hint: str | None = None) -> None:
        """Note a finding; the same one of another layer or trip is the same finding."""
        self.problems.setdefault((code, mark), Diagnostic(code, message, mark, hint=hint))
        for recorder in self.recorders:
            recorder.is_complete = False

    def too_large(self, mark: Mark) -> StopExpansionError:
        """Says that the program is too large, and stops."""
        return self.stop("G329", f"the program is too large: more than {self.max_work:,} items", mark)

    def report_error(self, error: GraphError, known: Sequence[str] = ()) -> None:
        hint = did_you_mean(error.unknown, known) if isinstance(error, ExprError) and error.unknown else None
        for found in error.diagnostics:
            self.report(found.code, found.message, found.mark, found.hint or hint)

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

    def spec(self, kind: TensorType, context: Context) -> TensorSpec | None:
        """The evaluated type; None after reporting what is wrong with it."""
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

    def tensor(self, name: str, spec: TensorSpec, mark: Mark | None, writer: int = NOBODY, **outside: Any) -> View:
        """A new tensor, last written by `writer`; `outside` says what an external is."""
        index = len(self.tensors)
        made = (
            Tensor(index, name, spec, mark=mark, **outside)
            if outside
            else _new_tensor(index, name, spec, "local", "", mark, None, None)
        )
        self.tensors.append(made)
        self.local.append(made.kind == "local")
        self.last.append(writer)
        return _new_view(index, spec, _new_region(index, None, (), None))

    def record(self, view: View, is_write: bool, task: int | None) -> None:
        """Note an access by `task`, or by the range last begun, for those recorders that the tensor lies outside of."""
        for recorder in self.recorders:
            if view.tensor < recorder.base or not self.local[view.tensor]:
                opened = tuple(self.open_loops - recorder.open_loops) if self.loop != recorder.loop else ()
                log = recorder.ranges[-1] if task is None else recorder.accesses.setdefault(task, [])
                log.append(Access(view, is_write, self.loop, opened))

    def begin_range(self) -> None:
        """The accesses that follow are those of the next dynamic loop or choice."""
        for recorder in self.recorders:
            recorder.ranges.append([])

    def read(self, view: View, waits: set[int], task: int | None) -> bool:
        """Add the last writers of what `view` shows to `waits`; False when nobody has written any of it."""
        if self.recorders:
            self.record(view, False, task)
        return self.follow(view, waits)

    def follow(self, view: View, waits: set[int]) -> bool:
        """What `read` does beside recording."""
        if 0 in view.spec.shape:
            return True
        last = self.last[view.tensor]
        if type(last) is int:
            if last < 0:
                return False
            waits.add(last)
            if self.displaced:
                self.add_displaced(view.tensor, last, waits)
            return True
        found = last.of(view.region)  # type: ignore[union-attr]
        for writer in found:
            waits.add(writer)
            if self.displaced:
                self.add_displaced(view.tensor, writer, waits)
        return bool(found)

    def note_unwritten(self, view: View, mark: Mark, path: str) -> None:
        """For lint: a local tensor or an output is read before anybody wrote it."""
        if self.tensors[view.tensor].kind in ("local", "output"):
            self.unwritten.setdefault(mark, (view.tensor, path))

    def write(self, view: View, task: int, waits: set[int]) -> None:
        """Make `task` the last writer of what `view` shows, waiting for those before."""
        if self.recorders:
            self.record(view, True, task)
        if 0 in view.spec.shape:
            return
        tensor, region = view.tensor, view.region
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

    @contextmanager
    def dynamic_loop(self) -> Iterator[None]:
        """What is expanded inside may not run."""
        self.num_loops += 1
        outer, self.loop = self.loop, self.num_loops
        self.open_loops.add(self.loop)
        yield
        self.open_loops.discard(self.loop)
        self.loop = outer
