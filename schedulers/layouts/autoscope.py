"""The compiler's general rule: a scope around every function body and around each `for` and `if` body."""

from __future__ import annotations

from collections.abc import Mapping

from runner.program.program import Program, Span
from runner.rings.schedule import Schedule, lower
from schedulers.layouts.batching import Layout, place

_BODIES = ("use", "iteration", "if")


def autoscope(program: Program, options: Mapping[str, object]) -> Schedule:
    """The graph's own scopes, and an auto scope around the body of every `use`, loop trip and branch outside manual scopes.

    A tensor that is used after such a body belongs to the scope around it.
    """
    layout = Layout(_every_body, bool(options.get("batch_allocs")), outlive=True)
    return lower(program, place(program, layout), "autoscope")


def _every_body(span: Span, depth: int, in_manual: bool) -> str | None:
    if span.kind == "scope":
        return span.mode
    return "auto" if span.kind in _BODIES and not in_manual else None
