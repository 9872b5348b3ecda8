"""The one walk over a program's spans, against a recursion on random programs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from random_programs import loop_program, random_program

from runner.program.program import Program, Span
from runner.program.spans import SpanWalk, chain_to, host_reads, last_task, spans_of


def _items(span, around=()):
    """Each item with the spans around it, and each span again when it is left."""
    yield "at", span, around
    for item in span.items:
        if isinstance(item, int):
            yield "at", item, (*around, span)
        else:
            yield from _items(item, (*around, span))
    yield "left", span, around


def _same(found, expected):
    """Spans are compared by identity: trips of a loop may be equal."""
    return [(kind, id(item), tuple(map(id, around))) for kind, item, around in found] == [
        (kind, id(item), tuple(map(id, around))) for kind, item, around in expected
    ]


programs = st.one_of(
    st.builds(random_program, st.integers(0, 10**6), st.integers(1, 30)), st.builds(loop_program, st.integers(0, 10**6))
)


@given(programs)
def test_walk(program: Program):
    found = []
    walk = SpanWalk(program.body, lambda span: found.append(("left", span, tuple(walk.around))))
    for item in walk:
        found.append(("at", item, tuple(walk.around)))
    assert _same(found, _items(program.body))
    assert walk.around == []


@given(programs)
def test_short_forms(program: Program):
    at = [(item, around) for kind, item, around in _items(program.body) if kind == "at"]
    spans = [item for item, _ in at if isinstance(item, Span)]
    assert [id(span) for span in spans_of(program.body)] == [id(span) for span in spans]
    for span in spans:
        tasks = [item for kind, item, _ in _items(span) if kind == "at" and isinstance(item, int)]
        assert list(span.tasks()) == tasks
        assert last_task(span) == max(tasks, default=-1)
    for item, around in at:
        assert _same([("", item, chain_to(program.body, item))], [("", item, around)])
    assert chain_to(program.body, len(program.tasks)) == []


@given(programs)
def test_host_reads(program: Program):
    expected, before = [], 0
    for kind, item, _ in _items(program.body):
        if kind == "at" and isinstance(item, int):
            before += 1
        elif kind == "at" and item.trips is not None:
            expected.append((before, item.trips))
    assert host_reads(program.body) == expected
