"""The executor: results against numpy, dynamic loops, lifetimes, failures."""

import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from programs import ROW, Builder, arithmetic_ops, externals, loop, random_program, read, scope

from runner.base.errors import DeadlockError, ExecutionError, Mark
from runner.execution.executor import CompiledSchedule, execute
from runner.program.program import Region
from runner.rings import replay as progress
from runner.rings.schedule import Repeat
from runner.rings.sizes import RingSizes

WORKERS = [0, 1, 2, 4]


def run(schedule, inputs=None, **options):
    given = externals(schedule, inputs or {})
    result = execute(schedule, arithmetic_ops(), given, **options)
    return result, {name: given[index].numpy() for name, index in schedule.program.outputs.items()}


@pytest.mark.parametrize("seed", range(60))
def test_random_programs_give_what_numpy_gives_with_any_number_of_workers(seed):
    schedule, inputs, expected = random_program(seed)
    for workers in WORKERS:
        _, outputs = run(schedule, inputs, workers=workers)
        np.testing.assert_array_equal(outputs["out"], expected["out"])


def test_compiled_schedule_runs_again_on_new_inputs():
    builder = Builder()
    x, out = builder.tensor("x", kind="input"), builder.tensor("out", kind="output")
    y = builder.combine(x, x)
    builder.combine(y, x, out)
    schedule = builder.lower(0, 1)
    given = externals(schedule, {"x": np.ones((4, ROW), np.float32)})
    compiled = CompiledSchedule(schedule, arithmetic_ops(), given)
    for value in (1, 5, 7):
        given[x].fill_(value)
        compiled.run()
        assert given[out].eq((value * 4 * 3 + value) % 1021).all()


def tight_sizes(schedule, fraction: float) -> RingSizes:
    """Heaps of a fraction of all bytes that a schedule ever takes on each ring."""
    total = [0] * 4
    depth = -1
    for step in schedule.steps:
        if hasattr(step, "submission"):
            total[min(depth, 3)] += schedule.submissions[step.submission].size_bytes
        elif hasattr(step, "scope"):
            depth += 1 if type(step).__name__ == "Begin" else -1
    return RingSizes().with_heap([max(1024, int(size * fraction) // 1024 * 1024) for size in total])


def outcome(schedule, inputs, expected, sizes, workers) -> int | None:
    """The submission at which a run deadlocks; None when it gives the expected output."""
    try:
        _, outputs = run(schedule, inputs, workers=workers, rings=sizes)
    except DeadlockError as error:
        return error.deadlock.submission
    np.testing.assert_array_equal(outputs["out"], expected["out"])
    return None


@pytest.mark.parametrize("seed", range(40))
def test_on_rings_any_number_of_workers_gives_the_same_numbers_or_the_same_deadlock(seed):
    schedule, inputs, expected = random_program(seed)
    for fraction in (0.3, 0.5, 0.8, 1.0):
        sizes = tight_sizes(schedule, fraction)
        verdicts = {outcome(schedule, inputs, expected, sizes, workers) for workers in WORKERS}
        assert len(verdicts) == 1
        if not any(isinstance(step, Repeat) for step in schedule.steps):
            predicted = progress.eager(schedule, sizes).deadlock
            assert verdicts == {predicted.submission if predicted else None}
        if fraction == 1.0:
            assert verdicts == {None}


def test_random_programs_on_rings_include_deadlocks_and_runs_under_pressure():
    verdicts = []
    for seed in range(40):
        schedule, inputs, expected = random_program(seed)
        verdicts.append(outcome(schedule, inputs, expected, tight_sizes(schedule, 0.5), 1))
    assert 5 < sum(verdict is None for verdict in verdicts) < 38


@pytest.mark.parametrize("workers", WORKERS)
def test_a_deadlock_tells_code_ring_scope_and_sizes(workers):
    builder = Builder()
    mark = Mark("graph.yaml", 3, 1)
    builder.fill("a", 1)
    big = builder.tensor("big", (40, ROW))
    builder.task("fill", {"y": Region(big)}, {"y"}, creates=(big,), mark=mark)
    schedule = builder.lower(0, scope("inner", 1))
    with pytest.raises(DeadlockError) as caught:
        run(schedule, rings=RingSizes().with_heap([1024] * 4), workers=workers)
    assert str(caught.value) == (
        "graph.yaml:3:1: deadlock, code 2 HEAP_RING_DEADLOCK: "
        "ring 1 cannot hold 'big' (2,048 bytes): the empty ring has 1,024 bytes"
    )
    assert no_workers_left()


def test_scope_stats_in_order_are_those_of_the_eager_replay():
    builder = Builder()
    a = builder.fill("a", 1)
    builder.combine(a, a)
    builder.combine(a, a)
    schedule = builder.lower(0, scope("s", 1), scope("t", 2))
    sizes = RingSizes().with_heap([4096] * 4)
    records = []
    result, _ = run(schedule, rings=sizes, scope_stats=records)
    assert records == list(progress.eager(schedule, sizes).records)
    assert len(records) == 6
    assert result.ring_peaks == (1024, 1024, 0, 0)


def test_a_compiled_schedule_runs_again_after_a_failure():
    _, schedule = counted(2)
    program = schedule.program
    given = externals(schedule, {})
    registry = arithmetic_ops()
    failing = {"now": True}

    class Failing(dict):
        def __getitem__(self, name):
            definition = registry[name]

            def run_or_fail(**operands):
                if name == "bump" and failing["now"]:
                    raise RuntimeError("once")
                definition.run(**operands)

            return replace(definition, kernel=run_or_fail)

    for sizes in (None, RingSizes()):
        failing["now"] = True
        compiled = CompiledSchedule(schedule, Failing(), given, rings=sizes, workers=2)
        with pytest.raises(ExecutionError, match="once"):
            compiled.run()
        failing["now"] = False
        compiled.run()
        assert given[program.outputs["out"]][0].eq(7 * 3 + 1).all()


def counted(taken: int, bound: int = 3):
    """`acc` starts at 1, is doubled plus 1 in each of `taken` trips, and goes out."""
    builder = Builder()
    out = builder.tensor("out", kind="output")
    acc, ones = builder.fill("acc", 1), builder.fill("ones", 1)
    counts = builder.count("n", [taken])
    trips = builder.trips(counts, 0, bound)
    bodies = [[builder.bump(ones, 0, acc, 0)] for _ in range(bound)]
    builder.combine(acc, ones, out)
    return builder, builder.lower(0, 1, 2, loop(trips, *bodies), len(builder.tasks) - 1)


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("taken", range(4))
def test_dynamic_loop_runs_as_many_trips_as_the_tensor_says(taken, workers):
    _, schedule = counted(taken)
    result, outputs = run(schedule, workers=workers)
    assert result.num_tasks == 4 + taken
    assert (outputs["out"][0] == (2 ** (taken + 1) - 1) * 3 + 1).all()
    assert (outputs["out"][1:] == 4).all()


@pytest.mark.parametrize("workers", [1, 2])
def test_more_trips_than_the_bound_are_refused(workers):
    _, schedule = counted(4)
    with pytest.raises(ExecutionError, match="'loop' would run 4 times, expected 0 to 3"):
        run(schedule, workers=workers)


@pytest.mark.parametrize("workers", [1, 3])
def test_trip_count_of_a_tensor_made_in_a_trip_that_did_not_run(workers):
    builder = Builder()
    counts = builder.count("n", [0])
    outer = builder.trips(counts, 0, 1, "outer")
    inner_counts = builder.count("m", [1])
    inner = builder.trips(inner_counts, 0, 1, "inner")
    schedule = builder.lower(0, loop(outer, [1]), loop(inner, []))
    with pytest.raises(ExecutionError, match="tensor 'm' is read, but the trip that creates it did not run"):
        run(schedule, workers=workers)


def test_blocks_live_until_their_scope_closes():
    builder = Builder()
    a = builder.fill("a", 1)
    inner = []
    for _ in range(3):
        builder.combine(a, a)
        inner.append(scope("s", len(builder.tasks) - 1))
    result, _ = run(builder.lower(0, *inner))
    assert result.peak_bytes == 2 * 1024
    flat, _ = run(builder.lower(0, 1, 2, 3))
    assert flat.peak_bytes == 4 * 1024


def test_capture_copies_locals_before_their_block_is_reused():
    builder, schedule = counted(2)
    acc, ones = 1, 2
    assert [builder.tensors[t].name for t in (acc, ones)] == ["acc", "ones"]
    for workers in (1, 3):
        result, _ = run(schedule, workers=workers, capture=[acc, ones])
        assert result.captured[acc][0].eq(7).all() and result.captured[acc][1:].eq(1).all()
        assert result.captured[ones].eq(1).all()
        assert not any(value.is_inference() for value in result.captured.values()), "whoever gets it may write it"


def test_capture_of_a_tensor_whose_last_user_is_left_out():
    _, schedule = counted(0)
    result, _ = run(schedule, capture=[1])
    assert result.captured[1].eq(1).all()


@pytest.mark.parametrize("workers", WORKERS)
def test_a_failing_op_names_node_operands_and_place(workers):
    builder = Builder()
    a = builder.fill("a", 1)
    made = builder.tensor("y")
    mark = Mark("graph.yaml", 7, 5)
    builder.task("fail", {"a": Region(a), "y": Region(made)}, {"y"}, creates=(made,), mark=mark)
    with pytest.raises(ExecutionError) as caught:
        run(builder.lower(0, 1), workers=workers)
    assert str(caught.value) == (
        "graph.yaml:7:5: node 'fail_1' (op 'fail') failed: ValueError: no such luck\n  a: float32[4, 8]\n  y: float32[4, 8]"
    )
    assert no_workers_left()


def no_workers_left() -> bool:
    return not [t for t in threading.enumerate() if t.name.startswith("ringgraph-worker")]


@pytest.mark.parametrize("workers", [1, 2])
def test_interrupt_ends_the_run_and_its_threads(workers):
    builder = Builder()
    for i in range(8):
        builder.fill(f"t{i}", i)
    registry = arithmetic_ops()
    pressed = []

    class Interrupting(dict):
        def __getitem__(self, name):
            def interrupt_once(**_):
                if not pressed:
                    pressed.append(True)
                    signal.raise_signal(signal.SIGINT)

            return replace(registry[name], kernel=interrupt_once)

    with pytest.raises(KeyboardInterrupt):
        execute(builder.lower(*range(8)), Interrupting(), {}, workers=workers)
    assert no_workers_left()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ops_that_communicate_run_in_submission_order():
    registry = arithmetic_ops()
    seen: list[int] = []
    late = threading.Event()

    @registry.op("send", "-> y: f32[N, M]", core="AIV", params={"value": 0}, needs=("comm",))
    def send(*, y, value, comm):
        if value == 0:
            late.wait(0.05)
        comm.append(value)

    builder = Builder()
    for i in range(6):
        made = builder.tensor(f"t{i}")
        builder.task("send", {"y": Region(made)}, {"y"}, creates=(made,), attrs={"value": i})
    execute(builder.lower(*range(6)), registry, {}, workers=4, comm=seen)
    assert seen == list(range(6))


def test_workers_run_a_later_task_while_an_earlier_one_is_busy():
    registry = arithmetic_ops()
    second_ran = threading.Event()
    in_time = []

    @registry.op("first", "-> y: f32[N, M]", core="AIV")
    def first(*, y):
        in_time.append(second_ran.wait(30))

    @registry.op("second", "-> y: f32[N, M]", core="AIV")
    def second(*, y):
        second_ran.set()

    builder = Builder()
    for name in ("first", "second"):
        made = builder.tensor(name)
        builder.task(name, {"y": Region(made)}, {"y"}, creates=(made,))
    execute(builder.lower(0, 1), registry, {}, workers=2)
    assert in_time == [True]


def test_externals_that_do_not_fit_are_named_all_at_once():
    builder = Builder()
    x, w = builder.tensor("x", kind="input"), builder.tensor("w", kind="weight")
    builder.tensor("unused", kind="weight")
    builder.combine(x, w)
    schedule = builder.lower(0)
    with pytest.raises(ExecutionError) as caught:
        execute(schedule, arithmetic_ops(), {0: torch.zeros(3, 8)})
    assert str(caught.value) == (
        "program 'made': input 'x' is float32[3, 8], expected f32[4, 8]\nprogram 'made': weight 'w' (f32[4, 8]) is not given"
    )


def test_schedule_without_a_program_cannot_run():
    schedule = replace(Builder().lower(), program=None)
    with pytest.raises(ExecutionError, match="schedule 'made' cannot run: it was recorded, not made from a graph"):
        execute(schedule, arithmetic_ops(), {})


def test_profile_has_one_time_per_task():
    _, schedule = counted(1)
    profile = []
    result, _ = run(schedule, profile=profile)
    assert [t.op for t in profile] == ["fill", "fill", "count", "bump", "combine"]
    assert len(profile) == result.num_tasks and all(t.elapsed_ns > 0 for t in profile)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_read_waits_for_its_writers(workers):
    builder = Builder()
    counts = builder.count("n", [1])
    result, _ = run(builder.lower(0, read(builder.trips(counts, 0, 1))), workers=workers)
    assert result.num_tasks == 1
