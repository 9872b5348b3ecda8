"""The seed's second variant: one manual scope inside each stage that has an inner scope.

The compiler hoists what such a scope allocates directly, and its tasks get no inferred edges. Unless the graph writes every edge
as `after:`, the schedule is wrong, which `runner.verify.verify` reports.
"""

from __future__ import annotations

from collections.abc import Mapping

from runner.program.program import Program, Span
from runner.rings.schedule import Schedule, lower
from schedulers.layouts.batching import Layout, place


def manual(program: Program, options: Mapping[str, object]) -> Schedule:
    """Outermost scopes as auto scopes, those just inside as manual ones with their own tensors hoisted, deeper ones dropped."""
    return lower(program, place(program, manual_layout(bool(options.get("batch_allocs")))), "manual")


def manual_layout(batch: bool) -> Layout:
    """The layout of `manual`, for who wants its scopes without their mode."""
    return Layout(_inner_manual, batch, hoist=True)


def _inner_manual(span: Span, depth: int, in_manual: bool) -> str | None:
    if span.kind != "scope" or depth > 2:
        return None
    return "auto" if depth == 1 else "manual"
