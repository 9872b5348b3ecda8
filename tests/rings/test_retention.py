"""What explicit edges keep, and for how long: the producer's block and slot until the user is done, unless they only wait."""

import pytest

from runner.base.tensor_spec import TensorSpec
from runner.program.program import Program, Span, Task, Tensor
from runner.recorded.conformance import read_conformance
from runner.recorded.edges import schedule_of
from runner.rings.heap import RingHeap
from runner.rings.placement import PlacedScope, PlacedTask, lower
from runner.rings.replay import eager, in_steps, lagging
from runner.rings.schedule import Begin, Submit
from runner.rings.sizes import RingSizes
from runner.rings.timed import timed, uniform_timing

KIB = 1024


def recorded(*items, progress="eager", events=(), **capacities):
    data = {"name": "case", "program": {"items": list(items)}, "capacities": capacities}
    return read_conformance(data | {"progress": progress, "events": list(events)})


def task(name, *outputs, **keys):
    return {"task": name, "outputs": [{"name": out, "bytes": 1024} for out in outputs], **keys}


def held_until(edge, mode="auto"):
    """Whether `p`'s block is still held while `u`, with `edge` to it, runs on; `p` has completed and its scope has closed."""
    inner = {"scope": [task("p", "a")], "mode": mode}
    recording = recorded(inner, task("u", **edge))
    heap = RingHeap(schedule_of(recording), RingSizes())
    for step in recording.steps:
        if isinstance(step, Begin):
            heap.begin(step.scope)
        elif isinstance(step, Submit):
            assert heap.try_submit(step.submission) is not None
        elif step.scope != 0:
            heap.end(step.scope)
    heap.complete(0)
    before = heap.rings[1].live
    heap.complete(1)
    return before, heap.rings[1].live


@pytest.mark.parametrize("mode", ["auto", "manual"])
def test_an_explicit_edge_keeps_the_producer_until_the_user_has_completed(mode):
    assert held_until({"after": ["p"]}, mode) == (1, 0)
    assert held_until({"after_wait_only": ["p"]}, mode) == (0, 0)
    assert held_until({}, mode) == (0, 0)


def test_a_producer_that_was_reclaimed_is_not_brought_back():
    recording = recorded(
        {"scope": [task("p", "a")]},
        task("u", after=["p"]),
        progress="steps",
        events=[["submit", 1, 0], ["complete", 1, 0], ["submit", 0, 0]],
    )
    replay = in_steps(schedule_of(recording), recording.sizes, recording.completions)
    assert replay.deadlock is None
    assert [r.slots_tail for r in replay.records if r.phase == "end"] == [0, 0]


def test_in_a_manual_scope_a_use_keeps_nothing():
    schedule = schedule_of(recorded(task("p", "a"), {"scope": [task("q", "b"), task("r", inputs=["a", "b"])], "mode": "manual"}))
    assert (schedule.submissions[2].waits, schedule.submissions[2].holds) == ((), ())


def test_every_progress_model_follows():
    """`u` runs on after `p`'s scope closed, and the next round needs `p`'s bytes: only a wait for `u` makes room."""
    scope = {"scope": [task("p", "a"), task("u", after=["p"])]}
    recording = recorded({"loop": 6, "body": [scope]}, ring_heap=[KIB, 2 * KIB, KIB, KIB])
    schedule = schedule_of(recording)
    assert eager(schedule, recording.sizes).deadlock is None
    assert lagging(schedule, recording.sizes).peak_bytes[1] <= 2 * KIB
    with_edge = timed(schedule, recording.sizes, uniform_timing(0.0, 10.0))
    waits = schedule_of(recorded({"loop": 6, "body": [{"scope": [task("p", "a"), task("u", after_wait_only=["p"])]}]}))
    without = timed(waits, recording.sizes, uniform_timing(0.0, 10.0))
    assert with_edge.deadlock is None
    assert without.deadlock is None
    assert with_edge.makespan_us > without.makespan_us


def test_lowering_tells_edges_that_keep_from_edges_that_wait():
    tensors = tuple(Tensor(i, f"t{i}", TensorSpec("u8", (8,))) for i in range(2))
    tasks = (
        Task(0, "a", "op", "AIV", creates=(0,)),
        Task(1, "b", "op", "AIV", creates=(1,)),
        Task(2, "c", "op", "AIV", uses=(0,), reads=(0,), waits=(0,), after=(0, 1)),
        Task(3, "d", "op", "AIV", after=(0, 1), wait_only=(1,)),
    )
    program = Program("demo", tensors, tasks, Span("root", "demo", (0, 1, 2, 3)))
    placed = (PlacedTask(0), PlacedTask(1), PlacedTask(2), PlacedTask(3, extra_waits=(2,)))
    for mode in ("auto", "manual"):
        c, d = lower(program, [PlacedScope("s", placed, mode)]).submissions[2:]
        assert (c.waits, c.holds, c.explicit) == ((0, 1), (0, 1), (1,))
        assert (d.waits, d.holds, d.explicit) == ((0, 1, 2), (0,), (0,))
