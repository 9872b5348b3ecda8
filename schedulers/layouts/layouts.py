"""This module owns the strategies that only decide which scopes there are: strategy NAME is the function NAME.

annotated   every scope that the graph writes, in the mode it is written with
unscoped    the graph's outermost scopes only
manual      the outermost scopes, and the scopes just inside them in mode manual
auto        every scope that the graph writes, in mode auto
autoscope   the graph's own scopes, and one around the body of every `use`, loop trip and branch

All of them take the options `batch_allocs`, which gathers tensors into the blocks that the compiler makes (`batching`),
`share`, False to leave the arenas of the graph's `share:` lists out,
`automatic`, which makes every scope automatic: tensors lie as they do without it, but edges are inferred everywhere, and
`written`, True or `Demands`: only what graph files can say; barred runs stay as the graph has them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from runner.program.program import Program, Span
from runner.program.spans import spans_of
from runner.rings.lowering.lower import lower
from runner.rings.schedule import Schedule
from runner.writeback.annotations import Demands, Run
from schedulers.layouts.batching import Layout, ScopeMode, place

_BODIES = ("use", "iteration", "if")


def annotated(program: Program, options: Mapping[str, object]) -> Schedule:
    """A runtime scope for every scope of the graph, in the mode it is written with."""
    return _schedule(program, options, "annotated", _as_written)


def unscoped(program: Program, options: Mapping[str, object]) -> Schedule:
    """The graph's outermost scopes as auto scopes; deeper ones are dropped."""
    return _schedule(program, options, "unscoped", _outermost)


def manual(program: Program, options: Mapping[str, object]) -> Schedule:
    """Outermost scopes as auto scopes, those just inside as manual ones with their own tensors hoisted, deeper ones dropped.

    The compiler hoists what a manual scope allocates directly, and its tasks get no inferred edges. Unless the graph writes every
    edge as `after:`, the schedule is wrong, which `runner.verify.verify` reports.
    """
    return _schedule(program, options, "manual", _inner_manual, hoist=True)


def auto(program: Program, options: Mapping[str, object]) -> Schedule:
    """A runtime scope in mode auto for every scope of the graph."""
    return _schedule(program, {**options, "automatic": True}, "auto", _as_written)


def autoscope(program: Program, options: Mapping[str, object]) -> Schedule:
    """The graph's own scopes, and an auto scope around the body of every `use`, loop trip and branch outside manual scopes.

    This is the compiler's general rule. A tensor that is used after such a body belongs to the scope around it. With the option
    `written`, a body that is one scope has its scope, as a file has it into which the strategy's scopes were written.
    """
    if not options.get("written"):
        return _schedule(program, options, "autoscope", _every_body, outlive=True)
    have = _with_a_scope(program)

    def scope_mode(span: Span, depth: int, in_manual: bool) -> str | None:
        return None if id(span) in have else _every_body(span, depth, in_manual)

    return _schedule(program, options, "autoscope", scope_mode, outlive=True, written=True)


def _schedule(program: Program, options: Mapping[str, object], name: str, scope_mode: ScopeMode, **rules: bool) -> Schedule:
    batch, automatic = bool(options.get("batch_allocs")), bool(options.get("automatic"))
    written, share = options.get("written"), options.get("share") is not False
    kept = _of_runs(program, written.barred) if isinstance(written, Demands) else set[int]()
    return lower(program, place(program, Layout(scope_mode, batch, automatic=automatic, kept=kept, share=share, **rules)), name)


def _of_runs(program: Program, runs: Collection[Run]) -> set[int]:
    """Ids of the spans of which a scope would hold one of these runs of items, behind allocs or not, or which are the run."""
    found = set[int]()
    for span in spans_of(program.body) if runs else ():
        marks = [program.tasks[item].mark if isinstance(item, int) else item.mark for item in span.items]
        marks = [span.mark] if span.kind in ("use", "scope") else [mark for mark in marks if mark is not None]
        if any(marks and last == marks[-1] and first in marks for first, last in runs):
            found.add(id(span))
    return found


# --- which spans get a scope, and in which mode (`Layout.scope_mode`) -------------------------------------------------


def _as_written(span: Span, depth: int, in_manual: bool) -> str | None:
    return span.mode if span.kind == "scope" else None


def _outermost(span: Span, depth: int, in_manual: bool) -> str | None:
    return "auto" if span.kind == "scope" and depth == 1 else None


def _inner_manual(span: Span, depth: int, in_manual: bool) -> str | None:
    if span.kind != "scope" or depth > 2:
        return None
    return "auto" if depth == 1 else "manual"


def _with_a_scope(program: Program) -> set[int]:
    """Ids of the bodies that are one scope, behind allocs or not, and of the uses that are all of a scope."""
    found = set()
    for span in spans_of(program.body):
        items = [item for item in span.items if isinstance(item, Span) or program.tasks[item].op is not None]
        only = items[0] if len(items) == 1 else None
        if isinstance(only, Span) and span.kind in ("iteration", "if") and only.kind == "scope":
            found.add(id(span))
        elif isinstance(only, Span) and span.kind == "scope" and only.kind == "use" and only is span.items[0]:
            found.add(id(only))
    return found


def _every_body(span: Span, depth: int, in_manual: bool) -> str | None:
    if span.kind == "scope":
        return span.mode
    return "auto" if span.kind in _BODIES and not in_manual else None
