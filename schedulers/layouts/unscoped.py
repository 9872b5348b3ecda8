"""The seed's first variant: each attention and each MoE stage has its scope, and nothing inside has one."""

from __future__ import annotations

from collections.abc import Mapping

from runner.program.program import Program, Span
from runner.rings.schedule import Schedule, lower
from schedulers.layouts.batching import Layout, place


def unscoped(program: Program, options: Mapping[str, object]) -> Schedule:
    """The graph's outermost scopes only; deeper ones are dropped."""
    return lower(program, place(program, Layout(_outermost, bool(options.get("batch_allocs")))), "unscoped")


def _outermost(span: Span, depth: int, in_manual: bool) -> str | None:
    return "auto" if span.kind == "scope" and depth == 1 else None
