"""The seed's third variant: every scope that the graph writes, as an auto scope."""

from __future__ import annotations

from collections.abc import Mapping

from runner.program.program import Program, Span
from runner.rings.schedule import Schedule, lower
from schedulers.layouts.batching import Layout, place


def auto(program: Program, options: Mapping[str, object]) -> Schedule:
    """A runtime scope in mode auto for every scope of the graph."""
    return lower(program, place(program, Layout(_all_auto, bool(options.get("batch_allocs")))), "auto")


def _all_auto(span: Span, depth: int, in_manual: bool) -> str | None:
    return "auto" if span.kind == "scope" else None
