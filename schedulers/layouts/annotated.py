"""Scopes exactly as the graph writes them."""

from __future__ import annotations

from collections.abc import Mapping

from runner.program.program import Program, Span
from runner.rings.schedule import Schedule, lower
from schedulers.layouts.batching import Layout, place


def annotated(program: Program, options: Mapping[str, object]) -> Schedule:
    """A runtime scope for every scope of the graph, in the mode it is written with."""
    return lower(program, place(program, Layout(_as_written, bool(options.get("batch_allocs")))), "annotated")


def _as_written(span: Span, depth: int, in_manual: bool) -> str | None:
    return span.mode if span.kind == "scope" else None
