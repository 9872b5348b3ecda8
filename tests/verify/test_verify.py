"""The verifier: its verdict on capacities against replays, on order against brute force, and every code by hand."""

import random
from dataclasses import replace
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from random_programs import Builder as ProgramBuilder
from random_programs import random_program, random_trips, run_in_order, run_shuffled
from random_schedules import build, programs, small_sizes
from sampled import sampled

from runner import Driver
from runner.base.errors import Mark, ScheduleError
from runner.program.program import Program, Span
from runner.recorded.programs import Builder
from runner.rings.capacity import ring_loads, robust_heap
from runner.rings.replay import eager
from runner.rings.schedule import Begin, End, Read, Repeat, Schedule, ScopeInfo, Slot, Submission, Submit
from runner.rings.sizes import RingSizes
from runner.verify import edges as verify_edges
from runner.verify.verify import check, verify
from schedulers import get_scheduler

heaps = st.tuples(*[st.integers(1, 12)] * 4)


def _codes(schedule, sizes=None):
    return {finding.code for finding in verify(schedule, sizes)}


# --- capacities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num", sampled((40, 100, 300), (40,)))
def test_capacity_verdict_equals_a_replay(num):
    @settings(max_examples=num, deadline=None)
    @given(programs(), heaps, st.sampled_from([4, 8, 64]))
    def compare(items, heap, window):
        schedule, sizes = build(items), small_sizes(heap, window)
        assert ("V4" in _codes(schedule, sizes)) == (eager(schedule, sizes).deadlock is not None)

    compare()


# --- order ------------------------------------------------------------------------------------------------------------


def _reachable(schedule):
    """Per submission all that come before it by waits; and the reads of the submitting thread: what each waits for, how many
    submissions come before it, and the trips around it. Also the trips around each submission."""
    before, reads, trips = {}, [], {}
    for at, step in enumerate(schedule.steps):
        loops = [(k, loop) for k, loop in enumerate(schedule.steps) if isinstance(loop, Repeat) and k < at < loop.end]
        around = {(k, sum(start <= at for start in loop.starts) - 1) for k, loop in loops}
        if isinstance(step, Submit):
            waits = schedule.submissions[step.submission].waits
            before[step.submission] = {*waits, *(far for wait in waits for far in before[wait])}
            trips[step.submission] = around
        elif isinstance(step, Read | Repeat):
            reads.append(({*step.waits, *(far for wait in step.waits for far in before[wait])}, len(before), around))
    return before, reads, trips


def _is_before(reached, first, second):
    """Whether `first` has completed when `second` starts, in every run of both; trips run if later ones of the loop do."""
    before, reads, trips = reached
    runs = trips[first] | trips[second]
    does_run = {(loop, trip) for loop, last in runs for trip in range(last + 1)}
    made = [done for done, num, around in reads if num <= second and around <= does_run]
    return any(first in done for done in (before[second], *made))


def _misordered(schedule):
    """Whether any two submissions touch the same cell, one writing, or tensors in the same bytes, in no order."""
    program, reached = schedule.program, _reachable(schedule)
    slots = {slot.tensor: (b, slot) for b, s in enumerate(schedule.submissions) for slot in s.slots}
    touched = []  # (submission, tensor, low, high, writes)
    for index, submission in enumerate(schedule.submissions):
        task = program.tasks[submission.task] if submission.task is not None else None
        for name, region in task.operands.items() if task else ():
            touched.append((index, region.tensor, *region.box[0], name.startswith("out")))
    for k, (b, tensor, low, high, writes) in enumerate(touched):
        for a, other, lo, hi, wrote in touched[:k]:
            if a == b and tensor == other:
                continue
            clash = lo < high and low < hi and (writes or wrote) if tensor == other else _share(slots, tensor, other)
            if clash and not _is_before(reached, a, b):
                return True
    return False


def _share(slots, tensor, other):
    if tensor not in slots or other not in slots or slots[tensor][0] != slots[other][0]:
        return False
    a, b = slots[tensor][1], slots[other][1]
    return a.offset < b.offset + b.size_bytes and b.offset < a.offset + a.size_bytes


def _without_an_edge(schedule, rng):
    """The schedule with one wait taken away, its hold too."""
    with_waits = [i for i, s in enumerate(schedule.submissions) if s.waits]
    if not with_waits:
        return schedule
    index = rng.choice(with_waits)
    item = schedule.submissions[index]
    gone = rng.choice(item.waits)
    changed = replace(item, waits=tuple(w for w in item.waits if w != gone), holds=tuple(h for h in item.holds if h != gone))
    submissions = (*schedule.submissions[:index], changed, *schedule.submissions[index + 1 :])
    return replace(schedule, submissions=submissions)


def _strategies(num):
    """Strategies with the programs that each is tried on: minpeak's search takes most of the time."""
    quick = [("annotated", num), ("autoscope", num), ("minpeak", num // 10)]
    return sampled([*quick, ("minpeak", num // 5), ("minpeak", num)], quick)


@pytest.mark.parametrize(("strategy", "num"), _strategies(80))
@pytest.mark.usefixtures("short_searches")
def test_order_verdict_equals_brute_force(strategy, num):
    @settings(max_examples=num, deadline=None)
    @given(seed=st.integers(0, 10**6), mutate=st.booleans(), together=st.sampled_from([1, 3, 1 << 13]))
    @example(seed=6, mutate=False, together=1)
    def compare(seed, mutate, together):
        with patch.multiple(verify_edges, NEEDS=together, SOURCES=together):
            _compare_with_brute_force(strategy, seed, mutate)

    compare()


def _compare_with_brute_force(strategy, seed, mutate):
    program = random_program(seed)
    schedule = get_scheduler(strategy)(program, {})
    if mutate:
        schedule = _without_an_edge(schedule, random.Random(seed))
    else:
        assert not verify(schedule)
    pairs = [f for f in verify(schedule) if f.code == "V6" and "no edge orders" in f.message]
    assert bool(pairs) == _misordered(schedule)


@pytest.mark.parametrize(("strategy", "num"), _strategies(40))
@pytest.mark.usefixtures("short_searches")
def test_what_passes_runs_right_in_any_order(strategy, num):
    """Schedules with an edge taken away, where the verifier passes them all the same: the results do not change."""

    @settings(max_examples=num, deadline=None)
    @given(seed=st.integers(0, 10**6))
    def run(seed):
        _runs_right_in_any_order(strategy, seed)

    run()


def _runs_right_in_any_order(strategy, seed):
    rng = random.Random(seed)
    program = random_program(seed)
    schedule = _without_an_edge(get_scheduler(strategy)(program, {}), rng)
    sizes = RingSizes().with_heap([robust_heap(load) for load in ring_loads(schedule)])
    if verify(schedule, sizes):
        return
    trips = random_trips(program, rng)
    expected = run_in_order(program, trips)
    for order in range(6):
        assert run_shuffled(program, schedule, sizes, trips, order) == expected


# --- every code by hand -----------------------------------------------------------------------------------------------


def _small():
    build = Builder()
    build.begin("root")
    build.begin("inner", mark=Mark("g.yaml", 3))
    build.submit(Submission("a", 2048, (Slot(0, 0, 1024, "x"), Slot(1, 1024, 1024, "y")), mark=Mark("g.yaml", 4)))
    build.submit(Submission("b", waits=(0,), holds=(0,), core="AIV"))
    build.end()
    build.end()
    return build.schedule("small", "hand")


def _change(schedule, index, **fields):
    submissions = list(schedule.submissions)
    submissions[index] = replace(submissions[index], **fields)
    return replace(schedule, submissions=tuple(submissions))


def test_a_sound_schedule_has_no_findings():
    assert verify(_small(), RingSizes()) == []


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (
            replace(_small(), steps=(Begin(0), Submit(0), Begin(1), Submit(1), End(0), End(1))),
            "error V1: scope 'root' ends but is not the innermost open scope",
        ),
        (
            replace(_small(), steps=(Begin(0), Begin(1), Submit(1), Submit(0), End(1), End(0))),
            "error V1: submission 1 comes as number 0, or outside of all scopes",
        ),
        (
            replace(_small(), steps=(Begin(0), Begin(1), Submit(0), End(1), End(0))),
            "error V1: 0 scopes stay open, 1 of 2 are submitted",
        ),
        (
            _change(_small(), 0, waits=(1,)),
            "g.yaml:4:1: error V1: 'a' waits for a later submission, or holds one that it does not wait for",
        ),
        (
            replace(_small(), scopes=(ScopeInfo("root", 0), ScopeInfo("inner", 2))),
            "error V1: scope 'inner' of depth 2 begins at depth 1, or twice",
        ),
        (
            replace(_small(), scopes=(ScopeInfo("root", 0, "manual"), ScopeInfo("inner", 1, mark=Mark("g.yaml", 3)))),
            "g.yaml:3:1: error V2: auto scope 'inner' lies inside the manual scope 'root'",
        ),
        (
            _change(_small(), 0, size_bytes=2000),
            "g.yaml:4:1: error V3: the block of 'a' has 2,000 bytes, expected a multiple of 1,024, at most 2,147,483,647",
        ),
        (
            _change(_small(), 0, slots=(Slot(0, 512, 1024, "x"),)),
            "g.yaml:4:1: error V3: tensor 'x' lies at [512, 1,536) of a block of 2,048 bytes, "
            "expected within it at a multiple of 1,024",
        ),
    ],
)
def test_findings_by_hand(broken, text):
    assert text in [str(finding) for finding in verify(broken)]


@pytest.mark.parametrize(
    ("at", "loop"),
    [
        (1, Repeat((), None, (0, 3), 4)),  # a trip before the loop
        (1, Repeat((), None, (3, 2), 4)),
        (1, Repeat((), None, (2, 3), 9)),
        (2, Repeat((), None, (3,), 5)),  # an inner loop that goes on where its outer trip has ended
    ],
)
def test_misplaced_trips_are_refused(at, loop):
    """Nobody could say which steps run."""
    inner = Repeat((), None, (3,), 4) if at == 1 else loop
    outer = loop if at == 1 else Repeat((), None, (2, 4), 5)
    sound = replace(
        _small(), steps=(Begin(0), Repeat((), None, (2, 4), 5), Repeat((), None, (3,), 4), Submit(0), Submit(1), End(0))
    )
    assert "trips of loop" not in str(list(map(str, verify(sound))))
    broken = replace(sound, steps=(Begin(0), outer, inner, *sound.steps[3:]))
    assert [str(finding) for finding in verify(broken)] == [
        "error V1: the trips of loop 'of a recorded program' do not lie behind it one after another"
    ]


def test_capacity_finding_names_the_block():
    found = verify(_small(), small_sizes((1, 1, 1, 1)))
    message = "g.yaml:4:1: error V4: ring 1 (1,024 bytes) cannot hold 'x' (2,048 bytes): 0 bytes are held by open scopes"
    assert [str(f) for f in found] == [message]


def test_read_after_close():
    steps = (Begin(0), Begin(1), Submit(0), End(1), Submit(1), End(0))
    found = verify(replace(_small(), steps=steps))
    assert [str(f) for f in found] == [
        "error V5: 'b' uses the block of 'x' after its scope 'inner' closed\n"
        "hint: allocate it outside of 'inner', or do this inside"
    ]


def _manual(seed):
    return get_scheduler("manual")(random_program(seed), {})


def test_a_manual_scope_without_edges_is_refused_unless_allowed():
    schedule = next(s for s in map(_manual, range(100)) if verify(s))
    with pytest.raises(ScheduleError, match=r"error V6: (no edge orders 'task\d+' after 'task\d+'|nothing keeps the block)"):
        check(schedule)
    allowed = check(schedule, allow_missing_edges=True)
    assert allowed and {finding.code for finding in allowed} == {"V6"}


def test_a_block_must_be_kept_until_its_users_are_done():
    made = ProgramBuilder()
    x = made.tensor(1)
    made.task([], [made.whole(x)], (x,))
    made.task([made.whole(x)], [])
    inner = Span("scope", "inner", (0, 1))
    program = Program("kept", tuple(made.tensors), tuple(made.tasks), Span("root", "root", (inner,)))
    schedule = get_scheduler("annotated")(program, {})
    assert verify(schedule) == []
    assert [str(f) for f in verify(_change(schedule, 1, holds=()))] == [
        "error V6: nothing keeps the block of 't0' until 'task1' has completed\nhint: add 'after:' its creator"
    ]


@pytest.mark.parametrize("strategy", ["annotated", "manual", "unscoped", "minpeak"])
def test_tensors_without_elements_need_no_order(strategy, tmp_path):
    path = tmp_path / "g.yaml"
    path.write_text("""\
graph: g
inputs: {x: "f32[4, 4]"}
outputs: {y: "f32[0, 4]"}
body:
  - {alloc: {t: "f32[0, 4]", u: "f32[4, 4]"}}
  - {op: add, in: {a: "x[0:0]", b: "x[0:0]"}, out: {y: t}}
  - {op: add, in: {a: x, b: x}, out: {y: u}}
  - {op: add, in: {a: t, b: "u[4:]"}, out: {y: y}}
""")
    assert not _codes(Driver().plan(path, strategy).schedule)


def test_a_tensor_must_lie_in_a_block_and_every_task_be_there():
    schedule = get_scheduler("annotated")(random_program(3), {})
    last = len(schedule.submissions) - 1
    steps = tuple(s for s in schedule.steps if s != Submit(last))
    missing = Schedule(schedule.name, schedule.submissions[:last], schedule.scopes, steps, "", schedule.program)
    texts = [f.message for f in verify(missing)]
    assert any(t.endswith("is submitted 0 times, expected once") for t in texts)
