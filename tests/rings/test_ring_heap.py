"""Rules of the ring heap one by one, deadlock facts, and how sizes are given."""

import re

import pytest

from runner.base.errors import ConfigError, Mark, ScheduleError
from runner.recorded.programs import Builder
from runner.rings.heap import RingHeap
from runner.rings.parts.ring import Ring
from runner.rings.replay import eager, lagging
from runner.rings.schedule import Slot, Submission
from runner.rings.sizes import RingSizes, parse_size

KIB = 1024


def _schedule(*items, mark=None):
    """A schedule from `("block", KiB)`, `("task", KiB, waits)`, `"begin"` and `"end"` inside the root scope."""
    build = Builder()
    build.begin("root")
    for item in items:
        if item == "begin":
            build.begin(f"scope {len(build.scopes)}", mark=mark)
        elif item == "end":
            build.end()
        else:
            index = len(build.submissions)
            used = tuple(item[2]) if len(item) > 2 else ()
            slot = Slot(index, 0, item[1] * KIB, f"tensor {index}")
            build.submit(Submission(item[0], item[1] * KIB, (slot,), used, used, "AIV" if item[0] == "task" else None, mark=mark))
    build.end()
    return build.schedule("test", "hand")


def _sizes(kib, window=16, pool=64):
    return RingSizes((kib * KIB,) * 4, (window,) * 4, (pool,) * 4)


# --- placement, rule 3 ------------------------------------------------------------------------------------------------


def _ring(top, tail, size=16):
    ring = Ring(size * KIB, 16, 64)
    ring.top, ring.tail = top * KIB, tail * KIB
    return ring


@pytest.mark.parametrize(
    ("top", "tail", "block", "offset"),
    [
        (0, 0, 16, 0),  # a: the whole empty ring
        (10, 4, 6, 10),  # a: exactly up to the end
        (10, 8, 7, 0),  # b: wrap, strictly below the tail
        (10, 7, 7, None),  # b: not strictly
        (10, 10, 10, 0),  # c: empty, restart
        (10, 10, 9, 0),  # b before c: the tail stays at 10
        (10, 10, 17, None),  # larger than the ring
        (4, 10, 5, 4),  # d: strictly below the tail
        (4, 10, 6, None),  # d: not strictly
        (4, 10, 0, 4),  # no bytes: always at top
        (16, 16, 0, 16),
    ],
)
def test_placement(top, tail, block, offset):
    got = _ring(top, tail).bump(block * KIB)
    assert got == (None if offset is None else offset * KIB)


def test_a_restart_moves_the_tail_and_a_wrap_does_not():
    restarted, wrapped = _ring(10, 10), _ring(10, 10)
    restarted.bump(10 * KIB)
    wrapped.bump(9 * KIB)
    assert (restarted.tail, restarted.top) == (0, 10 * KIB)
    assert (wrapped.tail, wrapped.top) == (10 * KIB, 9 * KIB)


def test_after_a_restart_the_tail_stays_until_that_task_retires():
    heap = RingHeap(_schedule("begin", ("block", 10), "end", "begin", ("block", 10), ("task", 2, ()), "end"), _sizes(16))
    for step in ("begin 0", "begin 1", "submit 0", "end 1", "begin 2", "submit 1", "submit 2"):
        call, index = step.split()
        {"begin": heap.begin, "end": heap.end, "submit": heap.try_submit}[call](int(index))
    assert heap.offsets == [0, 0, 10 * KIB]
    assert heap.rings[1].tail == 0
    assert heap.rings[1].tail_bytes == 16 * KIB  # monotonic: what the restart skipped counts as reclaimed
    heap.complete(2)
    heap.end(2)
    heap.rings[1].refresh()
    assert heap.rings[1].tail == 12 * KIB


# --- release and reclaim, rules 4 and 5 -------------------------------------------------------------------------------


def test_a_block_lives_until_scope_own_task_and_users_are_done():
    heap = RingHeap(_schedule("begin", ("task", 1, ()), ("task", 1, [0]), "end"), _sizes(16))
    heap.begin(0)
    heap.begin(1)
    heap.try_submit(0)
    heap.try_submit(1)
    heap.complete(0)
    heap.end(1)
    assert heap.rings[1].alive == 0  # its user still runs
    heap.complete(1)
    assert heap.rings[1].alive == 2


def test_the_oldest_holds_everything_behind_it():
    items = ["begin"] * 3 + [("block", 1), "begin", ("block", 1), "end", "begin", ("block", 1), "end"] + ["end"] * 3
    heap = RingHeap(_schedule(*items), _sizes(16))
    for scope in range(4):
        heap.begin(scope)
    heap.try_submit(0)
    for scope, submission in ((4, 1), (5, 2)):
        heap.begin(scope)
        heap.try_submit(submission)
        heap.end(scope)
    assert heap.rings[3].live == 3
    heap.end(3)
    assert heap.rings[3].live == 0


def test_completing_twice_changes_nothing():
    heap = RingHeap(_schedule(("task", 1, ())), _sizes(16))
    heap.begin(0)
    heap.try_submit(0)
    heap.complete(0)
    heap.complete(0)
    heap.end(0)
    assert heap.rings[0].live == 0


def test_submissions_that_are_left_out_hold_nothing_and_take_no_pool_entries():
    heap = RingHeap(_schedule(("task", 1, ()), ("task", 1, (0,)), ("task", 1, (1,))), _sizes(16, pool=4))
    heap.begin(0)
    heap.try_submit(0)
    heap.leave_out(1, 2)
    assert list(heap.completed) == [0, 1, 0]
    heap.try_submit(2)
    assert heap.rings[0].pool_head == 0
    heap.complete(0)
    heap.complete(2)
    heap.end(0)
    assert heap.rings[0].live == 0


# --- deadlock, rule 7 -------------------------------------------------------------------------------------------------


def test_heap_deadlock_names_block_scope_and_marks():
    mark = Mark("graph.yaml", 7, 3)
    deadlock = eager(_schedule("begin", ("block", 8), ("block", 9), "end", mark=mark), _sizes(16)).deadlock
    assert (deadlock.code, deadlock.name, deadlock.how, deadlock.ring) == (2, "HEAP_RING_DEADLOCK", "open scope", 1)
    assert (deadlock.block, deadlock.scope, deadlock.oldest) == ("tensor 1", "scope 1", "tensor 0")
    assert deadlock.mark == deadlock.scope_mark == deadlock.oldest_mark == mark
    assert str(deadlock) == (
        "ring 1 cannot hold 'tensor 1' (9,216 bytes): 8,192 of 16,384 are pinned "
        "by the open scope 'scope 1' (oldest block: 'tensor 0')"
    )


def test_a_block_larger_than_the_ring_is_no_progress():
    deadlock = eager(_schedule("begin", ("block", 8), "end", "begin", ("block", 17), "end"), _sizes(16)).deadlock
    assert (deadlock.code, deadlock.how, deadlock.submission) == (2, "no progress", 1)
    assert str(deadlock) == "ring 1 cannot hold 'tensor 1' (17,408 bytes): the empty ring has 16,384 bytes"


def test_a_scope_may_hold_window_minus_one_tasks():
    fits = _schedule(*[("block", 0)] * 3)
    assert eager(fits, _sizes(16, window=4)).deadlock is None
    deadlock = eager(_schedule(*[("block", 0)] * 4), _sizes(16, window=4)).deadlock
    assert (deadlock.code, deadlock.name, deadlock.how) == (1, "SCOPE_DEADLOCK", "scope too large")


def test_slots_of_ring_3_are_shared_by_nested_scopes():
    items = ["begin"] * 3 + [("block", 0)] * 2 + ["begin", ("block", 0), ("block", 0), "end"] + ["end"] * 3
    deadlock = eager(_schedule(*items), _sizes(16, window=4)).deadlock
    assert (deadlock.code, deadlock.name, deadlock.how) == (3, "FLOW_CONTROL_DEADLOCK", "open scope")
    assert deadlock.scope == "scope 3"  # the outer one owns the oldest task


def test_waiting_that_can_help_is_no_deadlock():
    items = ["begin", ("task", 8, ()), "end", "begin", ("block", 9), "end"]
    schedule = _schedule(*items)
    assert lagging(schedule, _sizes(16)).deadlock is None
    heap = RingHeap(schedule, _sizes(16))
    heap.begin(0)
    heap.begin(1)
    heap.try_submit(0)
    heap.end(1)
    heap.begin(2)
    assert heap.try_submit(1) is None
    assert heap.deadlock(1) is None
    assert heap.blocker() == 0
    heap.complete(0)
    assert heap.try_submit(1) == 0


def test_pool_overflows_only_when_producers_lag():
    """Four tasks of one open scope wait for three lagging producers each; the pool has room for eight edges."""
    items = [("task", 0, ())] * 3 + [("task", 0, (0, 1, 2))] * 4
    assert eager(_schedule(*items), _sizes(16, pool=8)).deadlock is None
    deadlock = lagging(_schedule(*items), _sizes(16, pool=8)).deadlock
    assert (deadlock.code, deadlock.name, deadlock.how, deadlock.submission) == (4, "DEP_POOL_OVERFLOW", "open scope", 5)
    assert lagging(_schedule(*items), _sizes(16, pool=12)).deadlock is None


def test_pool_entries_come_back_when_tasks_retire():
    """The pool is swept once 64 tasks have retired; until then a short pool waits."""
    one = ["begin", ("task", 0, ()), ("task", 0, ()), "end"]
    items = one * 100
    schedule = _schedule(*items)
    linked = tuple(
        Submission(s.name, 0, s.slots, (i - 1,), (i - 1,), "AIV") if i % 2 else s for i, s in enumerate(schedule.submissions)
    )
    schedule = type(schedule)(schedule.name, linked, schedule.scopes, schedule.steps)
    assert lagging(schedule, _sizes(16, window=256, pool=64)).deadlock is None


def test_edges_beyond_64_spill_into_the_pool_even_when_producers_are_done():
    items = [("task", 0, ())] * 70 + [("task", 0, tuple(range(70)))]
    assert eager(_schedule(*items), _sizes(16, window=128, pool=6)).deadlock is None
    deadlock = eager(_schedule(*items), _sizes(16, window=128, pool=5)).deadlock
    assert (deadlock.code, deadlock.submission) == (4, 70)


def test_blocks_that_32_bits_cannot_hold_are_refused():
    with pytest.raises(ScheduleError, match=r"'tensor 0' has 2,147,483,648 bytes, more than the 2,147,483,647"):
        RingHeap(_schedule(("block", 2**21)), RingSizes())


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_sizes_fall_through_from_options_to_environment_to_default():
    environ = {"PTO2_RING_HEAP": "4096,8192,2048,2048", "PTO2_RING_TASK_WINDOW": "32", "PTO2_RING_DEP_POOL": ""}
    sizes = RingSizes.resolve("1GiB,0,0,64KiB", "0,8,0,0", None, environ)
    assert sizes.heap == (2**30, 8192, 2048, 65536)
    assert sizes.dropped == ()
    assert sizes.window == (32, 8, 32, 32)
    assert sizes.pool == (16384,) * 4
    assert RingSizes.resolve(environ={}) == RingSizes()


@pytest.mark.parametrize(
    ("text", "size"), [("1024", 1024), ("1GiB", 2**30), ("1.5 MiB", 3 * 2**19), ("7KiB", 7168), (" 2048B ", 2048)]
)
def test_parse_size(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("options", "environ", "message"),
    [
        (("1GB", None, None), {}, "--ring-heap=1GB: '1GB' is not a size; write bytes or a number with KiB, MiB or GiB"),
        (("1024,1024", None, None), {}, r"--ring-heap=1024,1024: got 2 values, expected one or 4 \(one per ring\)"),
        (("1000", None, None), {}, "ring 0: heap of 1,000 bytes, expected at least 1,024"),
        ((None, "24", None), {}, "ring 0: task window of 24, expected a power of two from 4 up"),
        ((None, "2", None), {}, "ring 0: task window of 2, expected a power of two from 4 up"),
        ((None, None, "1"), {}, "ring 0: dependency pool of 1, expected 4 to 2,147,483,647 entries"),
    ],
)
def test_bad_sizes_are_refused(options, environ, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        RingSizes.resolve(*options, environ)


@pytest.mark.parametrize(
    ("variable", "text", "why"),
    [
        ("PTO2_RING_HEAP", "1GiB", "'1GiB' is not a non-negative integer"),
        ("PTO2_RING_HEAP", "-4", "'-4' is not a non-negative integer"),
        ("PTO2_RING_HEAP", "4096,0,4096,4096", "0 is not a value that the runtime takes"),
        ("PTO2_RING_HEAP", "0", "0 is not a value that the runtime takes"),
        ("PTO2_RING_HEAP", "4096,4096", r"got 2 values, expected one or 4 \(one per ring\)"),
        ("PTO2_RING_TASK_WINDOW", "64,64,24,64", "24 is not a value that the runtime takes"),
        ("PTO2_RING_DEP_POOL", "64,,64,64", "'' is not a non-negative integer"),
    ],
)
def test_a_variable_with_one_bad_entry_is_dropped_as_a_whole(variable, text, why):
    sizes = RingSizes.resolve(environ={variable: text})
    assert sizes == RingSizes()
    default = "268,435,456 bytes" if variable == "PTO2_RING_HEAP" else "16,384 (slots|entries)"
    told = f"{variable}={text}: {why}: the variable is dropped, and the default of {default} a ring holds"
    assert re.fullmatch(told, sizes.dropped[0])
    assert sizes.warnings() == [sizes.dropped[0]]


def test_an_empty_variable_is_not_there():
    assert RingSizes.resolve(environ={"PTO2_RING_HEAP": "", "PTO2_RING_TASK_WINDOW": " "}).warnings() == []


def test_a_heap_that_shifts_later_rings_is_taken_and_told():
    assert [warning[:40] for warning in RingSizes((5000, 4096, 4097, 5001)).warnings()] == [
        "ring 0: a heap of 5,000 bytes is no mult",
        "ring 2: a heap of 4,097 bytes is no mult",
    ]


def test_what_is_not_the_heap_costs_bytes_too():
    memory = RingSizes().memory()
    assert (memory["heap_bytes"], memory["window_bytes"], memory["pool_bytes"]) == (2**30, 4 * 16384 * 4968, 4 * 16384 * 24)
    assert memory["total_bytes"] == 2**30 + 65536 * (4968 + 24)
