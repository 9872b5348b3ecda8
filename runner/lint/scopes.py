"""Lint rules about scopes: how they nest, how deep they lie, and whether what they allocate can fit their ring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from runner.base.errors import Diagnostic
from runner.base.tensor_spec import round_up
from runner.lint.codes import RULES
from runner.program.program import Program, Span

NUM_RINGS = 4
MAX_BLOCK_BYTES = 2**31 - 1


def scope_findings(program: Program, ring_heap: Sequence[int] | None) -> Iterator[Diagnostic]:
    """Findings about all scopes; `ring_heap` are the bytes of the four rings, None when they are not known."""
    yield from _nesting(program.body, "auto", 0)
    yield from _blocks(program)
    if ring_heap is not None:
        _held(program.body, 0, program, ring_heap, found := [])
        yield from found


def _finding(code: str, message: str, span: Span, hint: str | None = None) -> Diagnostic:
    return Diagnostic(code, message, span.mark, RULES[code].severity, hint)


def _nesting(span: Span, outer: str, depth: int) -> Iterator[Diagnostic]:
    mode = outer
    if span.kind == "scope":
        depth, mode = depth + 1, span.mode
        if outer == "manual":
            hint = "make the scope around it auto" if mode == "auto" else "remove one of the two"
            yield _finding("G316", f"scope '{span.path}' is {mode}, but lies in a manual scope", span, hint)
            mode = "manual"
        if depth == NUM_RINGS:
            message = f"scope '{span.path}' has depth {depth}, but there are {NUM_RINGS} rings: it shares the last one"
            yield _finding("G317", message, span)
    for item in span.items:
        if isinstance(item, Span):
            yield from _nesting(item, mode, depth)


def _block_bytes(program: Program, task: int) -> int:
    return sum(round_up(program.tensors[tensor].spec.size_bytes) for tensor in program.tasks[task].creates)


def _blocks(program: Program) -> Iterator[Diagnostic]:
    for task in program.tasks:
        size = _block_bytes(program, task.id)
        if size > MAX_BLOCK_BYTES:
            message = f"'{task.path}' creates a block of {size:,} bytes, at most {MAX_BLOCK_BYTES:,} are possible"
            yield Diagnostic("G320", message, task.mark, RULES["G320"].severity)


def _held(span: Span, depth: int, program: Program, ring_heap: Sequence[int], found: list[Diagnostic]) -> tuple[int, int]:
    """Bytes that `span` holds until the scope around it closes, and the most that inner scopes add on the same ring."""
    depth += span.kind == "scope"
    ring = min(depth, NUM_RINGS - 1)
    held, inner = 0, 0
    for item in span.items:
        if isinstance(item, int):
            held += _block_bytes(program, item)
        else:
            below, deepest = _held(item, depth, program, ring_heap, found)
            if item.kind != "scope":
                held, inner = held + below, max(inner, held + deepest)
            elif depth >= NUM_RINGS - 1:
                inner = max(inner, held + below + deepest)
    if span.kind == "dynamic" and span.items and span.trips is not None:
        held = held // len(span.items) * span.trips.bound  # lint expands a few trips of each dynamic loop
    if span.kind in ("scope", "root"):
        most = max(held, inner)
        if most > ring_heap[ring]:
            what = f"scope '{span.path}'" if span.kind == "scope" else "the graph outside of all scopes"
            message = f"{what} allocates {most:,} bytes before it closes, but ring {ring} has {ring_heap[ring]:,}"
            found.append(_finding("G319", message, span, "put a scope around a part of it, or give the ring more bytes"))
        return most, 0
    return held, inner
