"""What explicit edges keep, and for how long: the producer's block and slot until the user is done, unless they only wait."""

from dataclasses import replace

import pytest

from runner.base.errors import ConfigError
from runner.base.tensor_spec import TensorSpec
from runner.program.program import Program, Span, Task, Tensor
from runner.recorded.conformance import read_conformance
from runner.recorded.edges import schedule_of
from runner.rings.devices.devices import device
from runner.rings.heap import RingHeap
from runner.rings.lowering.lower import lower
from runner.rings.placement import PlacedScope, PlacedTask
from runner.rings.replay import eager, in_steps, lagging
from runner.rings.schedule import Begin, Read, Submit
from runner.rings.sizes import RingSizes
from runner.rings.timed import Timing, timed, uniform_timing
from runner.verify.verify import verify

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


# --- waits that the runtime does not wait for -------------------------------------------------------------------------


def slow(task_us, device_name="a2a3"):
    """Three scopes of one block each in a ring for one: each waits for the task of the one before."""
    items = {"loop": 3, "body": [{"scope": [task("t", "a")]}]}
    recording = recorded(items, ring_heap=[KIB] * 4)
    return timed(schedule_of(recording), recording.sizes, uniform_timing(0.0, task_us, (None, None), device(device_name)))


def test_a_wait_behind_a_slow_task_is_named():
    assert slow(500_000.0).slow_waits == ()
    found = slow(500_001.0).slow_waits
    assert [(wait.submission, wait.ring, wait.wait_us, wait.code) for wait in found] == [
        (1, 1, 500_001.0, 2),
        (2, 1, 500_001.0, 2),
    ]


def test_a_wait_in_which_something_retires_is_not_named():
    """Two tasks retire one after the other; what waits for both waits for less than 500 ms each time."""
    items = [{"scope": [task("t", "a"), task("u", "b", after_wait_only=["t"])]}, {"scope": [{"alloc": "c", "bytes": 2 * KIB}]}]
    recording = recorded(*items, ring_heap=[KIB, 2 * KIB, KIB, KIB])
    replay = timed(schedule_of(recording), recording.sizes, uniform_timing(0.0, 400_000.0))
    assert replay.stall_us == 800_000.0
    assert len(replay.slow_waits) == 0


def test_a_long_read_is_named():
    schedule = schedule_of(recorded(task("t", "a"), task("u")))
    steps = (*schedule.steps[:2], Read((0,)), *schedule.steps[2:])
    for task_us, codes in ((15_000_000.0, []), (15_000_001.0, [8])):
        replay = timed(replace(schedule, steps=steps), RingSizes(), uniform_timing(0.0, task_us))
        assert [wait.code for wait in replay.slow_waits] == codes


def test_a5_makes_retirement_known_every_16_tasks_or_when_asked():
    """On A5 a scope's end shows no retired task before 16 have, unless the ring is empty."""
    body = [task(f"t{i}", f"v{i}") for i in range(20)]
    inner = [{"scope": [one]} for one in body]
    recording = recorded({"scope": [{"scope": [{"scope": inner}]}, task("long", "x")]})
    schedule = schedule_of(recording)
    tails = {}
    for name in ("a2a3", "a5"):
        replay = timed(schedule, RingSizes(), uniform_timing(10.0, 12.0, (None, None), device(name)))
        tails[name] = [r.slots_tail for r in replay.records if r.phase == "begin" and schedule.scopes[r.scope].depth == 4]
    assert tails["a2a3"] == [0, 0, 0, *range(1, 18)]
    assert set(tails["a5"]) == {0, 16}


def test_a5_waits_until_it_is_told():
    """The ring holds two blocks. The first has retired, but only asking for 10 ms brings that to light."""
    scope = [{"scope": [task("t", "a")]}, task("long", "b"), {"scope": [task("u", "c")]}]
    recording = recorded({"scope": [{"scope": [{"scope": scope}]}]}, ring_heap=[KIB, KIB, KIB, 2 * KIB])
    schedule = schedule_of(recording)
    stalls = [
        timed(schedule, recording.sizes, Timing(0.0, lambda k: [1.0, 1e6, 1.0][k], None, None, device(name))).stall_us
        for name in ("a2a3", "a5")
    ]
    assert stalls == [1.0, 10_000.0]


def test_devices_are_known_by_name():
    assert (device("A5").aic, device("a5").aiv, device("a5").clock_hz, device("a5").publish_every) == (36, 72, 10**9, 16)
    assert (device("a2a3").aic, device("a2a3").aiv, device("a2a3").clock_hz) == (24, 48, 50_000_000)
    with pytest.raises(ConfigError, match="no device is called 'a6'"):
        device("a6")


# --- limits -----------------------------------------------------------------------------------------------------------


def test_at_most_64_scopes_are_open():
    def nested(num, item):
        for _ in range(num):
            item = {"scope": [item]}
        recording = recorded(item)
        return eager(schedule_of(recording), recording.sizes).deadlock

    for item in ({"alloc": "a", "bytes": 1}, {"scope": []}):  # with and without submissions
        inside = 0 if "alloc" in item else 1
        assert nested(63 - inside, item) is None
        found = nested(64 - inside, item)
        assert (found.code, found.refused, found.submission) == (5, "a scope beside 64 that are open", -1)


def test_at_most_32_tensors_in_a_submission():
    for num, code in ((32, None), (33, 5)):
        recording = recorded({"alloc": [{"name": f"v{i}", "bytes": 1} for i in range(num)]})
        found = eager(schedule_of(recording), recording.sizes).deadlock
        assert (found and found.code) == code
        assert [d.code for d in verify(schedule_of(recording))] == (["V3"] if code else [])
