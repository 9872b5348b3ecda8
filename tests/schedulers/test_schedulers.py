"""The seed's strategies and autoscope: which scopes, which blocks, and that what they make is sound and runs."""

import random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import DOCS
from random_programs import Builder, random_program, random_trips, run_in_order, run_shuffled

import schedulers
from runner.base.errors import RinggraphError
from runner.base.tensor_spec import TensorSpec
from runner.program.program import Program, Span, Tensor, Trips
from runner.rings.capacity import least_window, ring_loads, safe_heap
from runner.rings.schedule import Begin, End, Submit
from runner.rings.sizes import RingSizes
from runner.verify.verify import verify
from schedulers import get_scheduler, scheduler_names

SOUND = ("annotated", "unscoped", "auto", "autoscope")


@pytest.mark.parametrize("name", SOUND)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), batch=st.booleans())
def test_schedules_are_sound_and_run_in_any_order(name, seed, batch):
    program = random_program(seed)
    schedule = get_scheduler(name)(program, {"batch_allocs": batch})
    loads = ring_loads(schedule)
    window = max(least_window(load) for load in loads)
    sizes = RingSizes(window=(window,) * 4).with_heap([safe_heap(load) for load in loads])
    assert verify(schedule, sizes) == []
    trips = random_trips(program, random.Random(seed))
    assert run_shuffled(program, schedule, sizes, trips, seed) == run_in_order(program, trips)


# --- shapes by hand ---------------------------------------------------------------------------------------------------


def _outline(schedule):
    """Scopes as nested lists, submissions as the names of the tensors in their blocks."""
    stack = [[]]
    for step in schedule.steps:
        if isinstance(step, Begin):
            stack.append([schedule.scopes[step.scope].mode])
        elif isinstance(step, End):
            closed = stack.pop()
            stack[-1].append(closed)
        elif isinstance(step, Submit):
            slots = schedule.submissions[step.submission].slots
            if slots:
                stack[-1].append(" ".join(slot.name for slot in slots))
    return stack[0][0]


def _program():
    """A task, then a stage scope with a task, an inner scope of two tasks and a loop of two trips, and a last task."""
    made = Builder()

    def task(reads=()):
        tensor = made.tensor(1)
        return made.task([made.whole(t) for t in reads], [made.whole(tensor)], (tensor,)), tensor

    first, a = task()
    second, b = task([a])
    third, c = task([b])
    fourth, d = task([c])
    trips = [task([d])[0] for _ in range(2)]
    loop = Span("for", "loop", tuple(Span("iteration", f"trip{k}", (trip,)) for k, trip in enumerate(trips)))
    inner = Span("scope", "stage.inner", (third, fourth, loop))
    fifth, _ = task([b])
    stage = Span("scope", "stage", (second, inner, fifth))
    return Program("hand", tuple(made.tensors), tuple(made.tasks), Span("root", "", (first, stage)))


@pytest.mark.parametrize(
    ("name", "plain", "batched"),
    [
        (
            "annotated",
            ["auto", "t0", ["auto", "t1", ["auto", "t2", "t3", "t4", "t5"], "t6"]],
            ["auto", "t0", ["auto", "t1 t6", ["auto", "t2 t3", "t4", "t5"]]],
        ),
        (
            "unscoped",
            ["auto", "t0", ["auto", "t1", "t2", "t3", "t4", "t5", "t6"]],
            ["auto", "t0", ["auto", "t1 t2 t3 t6", "t4", "t5"]],
        ),
        (
            "manual",
            ["auto", "t0", ["auto", "t1", "t2", "t3", ["manual", "t4", "t5"], "t6"]],
            ["auto", "t0", ["auto", "t1 t6", "t2 t3", ["manual", "t4", "t5"]]],
        ),
        (
            "autoscope",
            ["auto", "t0", ["auto", "t1", ["auto", "t2", "t3", ["auto", "t4"], ["auto", "t5"]], "t6"]],
            ["auto", "t0", ["auto", "t1 t6", ["auto", "t2 t3", ["auto", "t4"], ["auto", "t5"]]]],
        ),
    ],
)
def test_scopes_and_blocks(name, plain, batched):
    assert _outline(get_scheduler(name)(_program(), {})) == plain
    assert _outline(get_scheduler(name)(_program(), {"batch_allocs": True})) == batched


def test_batches_hold_at_most_16_tensors_in_order_of_creation():
    made = Builder()
    for _ in range(20):
        tensor = made.tensor(1)
        made.task([], [made.whole(tensor)], (tensor,))
    program = Program("many", tuple(made.tensors), tuple(made.tasks), Span("root", "", tuple(range(20))))
    first, second = _outline(get_scheduler("annotated")(program, {"batch_allocs": True}))[1:]
    assert first.split() == [f"t{i}" for i in range(16)]
    assert second.split() == [f"t{i}" for i in range(16, 20)]


def test_scratch_of_the_first_task_keeps_its_own_block():
    """A tensor that no operand names is scratch; that of later tasks is gathered."""
    tensors = tuple(Tensor(i, name, TensorSpec("u8", (8, 1024))) for i, name in enumerate(("x", "pipe0", "y", "pipe1")))
    made = Builder()
    made.tensors += tensors
    made.task([], [(0, 0, 8)], (0, 1))
    made.task([(0, 0, 8)], [(2, 0, 8)], (2, 3))
    program = Program("scratch", tensors, tuple(made.tasks), Span("root", "", (0, 1)))
    assert _outline(get_scheduler("annotated")(program, {"batch_allocs": True}))[1:] == ["x y pipe1", "pipe0"]


def test_autoscope_keeps_what_outlives_a_body_outside():
    """`x` is made in one trip and read after the loop; scopes that the graph writes itself are left alone."""
    made = Builder()
    x, y = made.tensor(1), made.tensor(1)
    tasks = [made.task([], [made.whole(x)], (x,)), made.task([made.whole(x)], [made.whole(y)], (y,))]
    loop = Span("for", "loop", (Span("iteration", "trip", (tasks[0],)),))
    use = Span("use", "graph", (loop, tasks[1]))
    program = Program("outlives", tuple(made.tensors), tuple(made.tasks), Span("root", "", (use,)))
    for batch, expected in ((False, ["auto", ["auto", "t0", ["auto"], "t1"]]), (True, ["auto", ["auto", "t0 t1", ["auto"]]])):
        schedule = get_scheduler("autoscope")(program, {"batch_allocs": batch})
        assert _outline(schedule) == expected
        assert verify(schedule) == []


@pytest.mark.parametrize(("batch", "trip"), [(False, ["auto", "t1", "t2"]), (True, ["auto", "t1 t2"])])
def test_a_value_that_the_end_of_a_body_asks_for_stays_inside(batch, trip):
    """`t2` is the count of a loop without trips: no task of the trip comes after it that could be the reader."""
    made = Builder()
    counts = [made.tensor(1) for _ in range(3)]
    for before, made_now in zip((None, *counts), counts, strict=False):
        made.task([] if before is None else [made.whole(before)], [made.whole(made_now)], (made_now,))
    none = Span("dynamic", "none", (), trips=Trips("none", (2,), (2,), 0, lambda values: 0))
    inner = Span(
        "dynamic", "inner", (Span("iteration", "t", (1, 2, none)),), trips=Trips("inner", (0,), (0,), 1, lambda values: 1)
    )
    loop = Span("for", "outer", (Span("iteration", "o", (0, inner)),))
    made.task([], [])
    program = Program("asks", tuple(made.tensors), tuple(made.tasks), Span("root", "", (loop, 3)))
    schedule = get_scheduler("autoscope")(program, {"batch_allocs": batch})
    assert _outline(schedule) == ["auto", ["auto", "t0", trip]]
    assert verify(schedule) == []


def test_autoscope_puts_no_scope_into_a_manual_one():
    made = Builder()
    x = made.tensor(1)
    made.task([], [made.whole(x)], (x,))
    loop = Span("for", "loop", (Span("iteration", "trip", (0,)),))
    program = Program("m", tuple(made.tensors), tuple(made.tasks), Span("root", "", (Span("scope", "s", (loop,), "manual"),)))
    assert _outline(get_scheduler("autoscope")(program, {})) == ["auto", ["manual", "t0"]]


def test_tasks_of_a_manual_scope_have_explicit_edges_only():
    """Inside, creators and writers are not waited for; outside, nobody sees what was written inside."""
    schedule = get_scheduler("manual")(_program(), {})
    waits = {s.name: s.waits for s in schedule.submissions if s.core}
    names = [s.name for s in schedule.submissions]
    assert waits["task2"] == waits["task3"] == waits["task4"] == ()
    assert waits["task6"] == (names.index("task1"),)


# --- registry ---------------------------------------------------------------------------------------------------------


def test_unknown_scheduler_is_refused_with_a_suggestion():
    assert scheduler_names()[:5] == ["annotated", "unscoped", "manual", "auto", "autoscope"]
    with pytest.raises(RinggraphError, match=r"unknown scheduler 'autscope'\nhint: did you mean 'autoscope'\?"):
        get_scheduler("autscope")
    with pytest.raises(RinggraphError, match="hint: one of annotated, unscoped"):
        get_scheduler("zzz")


def _entry(name, load):
    return SimpleNamespace(name=name, value=f"plugin:{name}", load=load)


def test_other_packages_add_strategies_by_entry_point(monkeypatch):
    def broken():
        raise ImportError("no module named 'plugin'")

    entries = [_entry("mine", lambda: get_scheduler("auto")), _entry("broken", broken), _entry("number", lambda: 5)]
    monkeypatch.setattr(schedulers, "entry_points", lambda group: entries if group == "ringgraph.schedulers" else [])
    assert scheduler_names()[-3:] == ["broken", "mine", "number"]
    assert get_scheduler("mine")(_program(), {}).strategy == "auto"
    with pytest.raises(RinggraphError, match=r"scheduler 'broken' \(plugin:broken\) cannot be loaded: ImportError: no module"):
        get_scheduler("broken")
    with pytest.raises(RinggraphError, match=r"scheduler 'number' \(plugin:number\) is not callable"):
        get_scheduler("number")


def test_the_example_of_the_docs_is_sound():
    text = (DOCS / "schedulers.md").read_text()
    names = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    for program in (_program(), *map(random_program, range(20))):
        schedule = names["per_trip"](program, {})
        assert verify(schedule) == []
    assert _outline(names["per_trip"](_program(), {})) == [
        "auto", "t0", ["auto", "t1", ["auto", "t2", "t3", ["auto", "t4"], ["auto", "t5"]], "t6"]
    ]  # fmt: skip


def test_strategies_are_deterministic():
    for seed in range(20):
        program = random_program(seed)
        for name in (*SOUND, "manual"):
            assert get_scheduler(name)(program, {}).steps == get_scheduler(name)(program, {}).steps
