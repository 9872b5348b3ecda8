"""This module owns the strategies that only decide which scopes there are: strategy NAME is the function NAME.

annotated   every scope that the graph writes, in the mode it is written with
unscoped    the graph's outermost scopes only
manual      the outermost scopes, and the scopes just inside them in mode manual
auto        every scope that the graph writes, in mode auto
autoscope   the graph's own scopes, and one around the body of every `use`, loop trip and branch

All of them take the option `batch_allocs`, which gathers tensors into the blocks that the compiler makes (`batching`).
"""

from __future__ import annotations

from collections.abc import Mapping

from runner.program.program import Program, Span
from runner.rings.placement import lower
from runner.rings.schedule import Schedule
from schedulers.layouts.batching import Layout, place

_BODIES = ("use", "iteration", "if")


def annotated(program: Program, options: Mapping[str, object]) -> Schedule:
    """A runtime scope for every scope of the graph, in the mode it is written with."""
    return _schedule(program, Layout(_as_written, _batches(options)), "annotated")


def unscoped(program: Program, options: Mapping[str, object]) -> Schedule:
    """The graph's outermost scopes as auto scopes; deeper ones are dropped."""
    return _schedule(program, Layout(_outermost, _batches(options)), "unscoped")


def manual(program: Program, options: Mapping[str, object]) -> Schedule:
    """Outermost scopes as auto scopes, those just inside as manual ones with their own tensors hoisted, deeper ones dropped.

    The compiler hoists what a manual scope allocates directly, and its tasks get no inferred edges. Unless the graph writes every
    edge as `after:`, the schedule is wrong, which `runner.verify.verify` reports.
    """
    return _schedule(program, manual_layout(_batches(options)), "manual")


def auto(program: Program, options: Mapping[str, object]) -> Schedule:
    """A runtime scope in mode auto for every scope of the graph."""
    return _schedule(program, Layout(_all_auto, _batches(options)), "auto")


def autoscope(program: Program, options: Mapping[str, object]) -> Schedule:
    """The graph's own scopes, and an auto scope around the body of every `use`, loop trip and branch outside manual scopes.

    This is the compiler's general rule. A tensor that is used after such a body belongs to the scope around it.
    """
    return _schedule(program, Layout(_every_body, _batches(options), outlive=True), "autoscope")


def manual_layout(batch: bool) -> Layout:
    """The layout of `manual`, for who wants its scopes without their mode."""
    return Layout(_inner_manual, batch, hoist=True)


def _schedule(program: Program, layout: Layout, name: str) -> Schedule:
    return lower(program, place(program, layout), name)


def _batches(options: Mapping[str, object]) -> bool:
    return bool(options.get("batch_allocs"))


# --- which spans get a scope, and in which mode (`Layout.scope_mode`) -------------------------------------------------


def _as_written(span: Span, depth: int, in_manual: bool) -> str | None:
    return span.mode if span.kind == "scope" else None


def _outermost(span: Span, depth: int, in_manual: bool) -> str | None:
    return "auto" if span.kind == "scope" and depth == 1 else None


def _inner_manual(span: Span, depth: int, in_manual: bool) -> str | None:
    if span.kind != "scope" or depth > 2:
        return None
    return "auto" if depth == 1 else "manual"


def _all_auto(span: Span, depth: int, in_manual: bool) -> str | None:
    return "auto" if span.kind == "scope" else None


def _every_body(span: Span, depth: int, in_manual: bool) -> str | None:
    if span.kind == "scope":
        return span.mode
    return "auto" if span.kind in _BODIES and not in_manual else None
