"""Operand modes: who waits for whom, what is left open, and what the runtime then has edges to."""

from types import SimpleNamespace
from typing import Any

import pytest

from runner.base.errors import GraphError
from runner.expansion.expander import expand
from runner.language.library import load_graph
from runner.program.ops import OpRegistry
from runner.verify.verify import verify
from schedulers import get_scheduler

OPS = OpRegistry()
OPS.op("make", "x: f32[N] -> y: f32[N]", core="AIV")(lambda **_: None)
OPS.op("cut", "x: f32[N] -> y: f32[M]", core="AIV")(lambda **_: None)
OPS.op("add", "x: f32[N] -> &y: f32[N]", core="AIV")(lambda **_: None)
OPS.op("count", "x: f32[N] -> n: i32[M]", core="AIV")(lambda **_: None)
CONFIG: Any = SimpleNamespace(values={}, dtypes={})


def made(tmp_path, *body):
    text = "graph: g\ninputs: {x: 'f32[4]'}\noutputs: {out: 'f32[4]'}\nbody:\n" + "".join(f"  - {item}\n" for item in body)
    (tmp_path / "g.yaml").write_text(text)
    return expand(load_graph(tmp_path / "g.yaml"), CONFIG, OPS)


def edges(program):
    return [(task.waits, task.unordered) for task in program.tasks]


MAKE = "{op: make, id: a, in: {x: x}, out: {y: 'h: f32[4]'}}"
AGAIN = "{op: make, id: b, in: {x: x}, out: {y: h}}"
READ = "{op: make, id: r, in: {x: h}, out: {y: out}}"


def test_without_modes_an_output_of_an_existing_tensor_follows_earlier_writers(tmp_path):
    assert edges(made(tmp_path, MAKE, AGAIN, AGAIN.replace("b,", "c,"), READ)) == [((), ()), ((0,), ()), ((1,), ()), ((2,), ())]


def test_existing_follows_only_the_creator_and_is_followed(tmp_path):
    existing = "{op: make, id: c, in: {x: x}, out: {y: h}, modes: {y: existing}}"
    program = made(tmp_path, MAKE, AGAIN, existing, READ)
    assert edges(program) == [((), ()), ((0,), ()), ((), (1,)), ((2,), ())]
    schedule = get_scheduler("annotated")(program, {})
    assert [s.waits for s in schedule.submissions] == [(), (0,), (0,), (0, 1, 2)]  # both writers are registered
    assert [len(s.entries) for s in schedule.submissions] == [0, 1, 1, 1]
    assert [entry.covers for s in schedule.submissions for entry in s.entries] == [True, False, True]
    assert [d.code for d in verify(schedule)] == ["V6"]
    ordered = made(tmp_path, MAKE, AGAIN, existing.replace("modes", "after_wait_only: [b], modes"), READ)
    assert verify(get_scheduler("annotated")(ordered, {})) == []


def test_no_dep_follows_and_is_followed_by_nobody(tmp_path):
    no_dep = "{op: add, id: c, in: {x: x}, out: {y: h}, modes: {y: no_dep}}"
    program = made(tmp_path, MAKE, AGAIN, no_dep, READ)
    assert edges(program) == [((), ()), ((0,), ()), ((), (1,)), ((), (2,))]
    schedule = get_scheduler("annotated")(program, {})
    assert [s.waits for s in schedule.submissions] == [(), (0,), (0,), (0, 1)]
    assert [s.holds for s in schedule.submissions] == [(), (0,), (0,), (0,)]
    assert [len(s.entries) for s in schedule.submissions] == [0, 1, 0, 1]


def test_a_manual_dep_tensor_has_creator_edges_but_for_its_parts(tmp_path):
    manual = MAKE.replace("}}", "}, modes: {y: manual_dep}}")
    part = "{op: cut, id: p, in: {x: x}, out: {y: 'h[0 : 2]'}}"
    other = "{op: cut, id: q, in: {x: 'h[1 : 3]'}, out: {y: out}}"
    program = made(tmp_path, manual, AGAIN, part, other, READ)
    assert edges(program) == [((), ()), ((0,), ()), ((), (1,)), ((2,), (1,)), ((3,), (1, 2))]


def test_trips_of_loops_are_the_same_as_written_out(tmp_path):
    existing = "{op: add, id: u, in: {x: h}, out: {y: out}, modes: {x: no_dep}}"
    looped = made(tmp_path, MAKE, AGAIN, f"{{for: i, range: 5, body: [{existing}]}}")
    written = made(tmp_path, MAKE, AGAIN, *[existing.replace("u,", f"u{k},") for k in range(5)])
    assert edges(looped) == edges(written) and edges(looped)[-1] == ((5,), (1,))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (MAKE.replace("}}", "}, modes: {y: existing}}"), "'y' cannot be existing"),
        (AGAIN.replace("}}", "}, modes: {y: manual_dep}}"), "'y' cannot be manual_dep"),
        (
            "{op: add, in: {x: x}, out: {y: out}, modes: {y: existing}}",
            "expected an output that gets an existing tensor and is not",
        ),
        ("{op: add, in: {x: x}, out: {y: out}, modes: {z: no_dep}}", "'z' cannot be no_dep"),
    ],
)
def test_modes_that_do_not_fit(tmp_path, item, message):
    with pytest.raises(GraphError, match=message):
        made(tmp_path, MAKE.replace("id: a", "id: first").replace("'h:", "'g:"), "{alloc: {h: 'f32[4]'}}", item)


def test_a_loop_reads_no_value_that_is_written_untold(tmp_path):
    count = "{op: count, in: {x: x}, out: {n: n}, modes: {n: no_dep}}"
    with pytest.raises(GraphError, match=r"G336.*whose writer is no_dep"):
        made(tmp_path, "{alloc: {n: 'i32[1]'}}", count, "{for: i, range: 'n[0]', max: 2, body: []}")
