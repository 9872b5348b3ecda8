"""A task that has its block and waits for pool or tensormap entries: its edges are made, and all its producers are kept.

Source: the public `simpler` runtime, state of 2026-08-22: edges are counted, and producers held, before it looks for room.
"""

import pytest

from runner.base.errors import ScheduleError
from runner.recorded.conformance import read_conformance
from runner.recorded.edges import schedule_of
from runner.rings.capacity import ring_loads
from runner.rings.common_sizes import refuse_deadlock
from runner.rings.heap import RingHeap
from runner.rings.replay import eager, lagging
from runner.rings.schedule import Begin, End, Submit
from runner.rings.sizes import RingSizes

AMPLE = 2**20


def schedule(*items):
    return schedule_of(read_conformance({"program": {"items": list(items)}}))


def sizes(pool):
    return RingSizes.from_lists([AMPLE] * 4, [1024] * 4, [pool] * 4)


def task(name, *, wait_only=(), after=(), **arguments):
    return {"task": name, "after": list(after), "after_wait_only": list(wait_only), **arguments}


def advance(heap, end, begin=0):
    """Take steps of the heap's schedule; all of them must fit."""
    for step in heap.schedule.steps[begin:end]:
        if isinstance(step, Begin):
            heap.begin(step.scope)
        elif isinstance(step, End):
            heap.end(step.scope)
        else:
            assert isinstance(step, Submit)
            assert heap.try_submit(step.submission) is not None


@pytest.mark.parametrize("key", ["after", "wait_only"])
def test_a_task_that_waits_for_pool_entries_keeps_the_producers_that_only_order_it(key):
    producers = [task(f"p{number}") for number in range(5)]
    user = task("user", **{key: [f"p{number}" for number in range(5)]})
    heap = RingHeap(schedule({"scope": producers}, {"scope": [user]}), sizes(4))
    advance(heap, 1 + 7 + 1)
    assert heap.try_submit(5) is None  # five entries, and four in all
    for number in range(5):
        assert heap.deadlock(5) is not None
        heap.complete(number)
    assert heap.try_submit(5) is None
    assert heap.rings[1].alive == 0
    found = heap.deadlock(5)
    assert found is not None
    assert (found.code, found.how, found.oldest) == (4, "no progress", "p0")


def test_entries_that_are_waited_for_are_those_of_the_moment_of_submission():
    """Also where all producers complete while it waits; only then does the runtime take none."""
    early = [task(f"e{number}") for number in range(70)]
    users = [task(f"u{number}", after=["e0", "e1"]) for number in range(3)]
    user = task("user", wait_only=["p0", "p1"])
    items = [{"scope": [*early, *users]}, {"scope": [task("p0"), task("p1"), user]}]
    heap = RingHeap(schedule(*items), sizes(7))
    advance(heap, 1 + 75 + 3)
    last = 75
    assert heap.try_submit(last) is None  # six of seven are taken, and it needs two
    heap.complete(73)
    heap.complete(74)
    assert heap.try_submit(last) is None
    assert heap.deadlock(last) is None  # the first scope may retire
    for number in range(73):
        heap.complete(number)
    assert heap.try_submit(last) is not None
    assert heap.rings[1].pool_head == 6  # its producers have completed
    heap.complete(last)
    heap.end(2)
    assert heap.rings[1].alive == 76  # nothing is kept any more


def test_what_a_task_covers_makes_room_for_its_own_entries(monkeypatch):
    monkeypatch.setattr("runner.rings.heap.TENSORMAP_ENTRIES", 2)
    monkeypatch.setattr("runner.rings.tensormap.TensorMap.__init__.__defaults__", (2,))
    names = ["a", "b"]
    program = schedule(
        {"alloc": [{"name": name, "bytes": 8} for name in names]},
        task("first", inouts=names),
        task("second", inouts=names),
        task("third", inouts=["a"], existing=["b"]),
    )
    heap = RingHeap(program, sizes(64))
    advance(heap, 3)
    assert heap.try_submit(2) is not None
    assert heap.entries_in_use == 2
    assert heap.try_submit(3) is None  # `existing` covers nothing
    found = heap.deadlock(3)
    assert found is not None
    assert found.code == 11


def test_a_task_that_waits_for_the_tensormap_may_keep_what_eager_progress_has_reclaimed(monkeypatch):
    for module in ("heap", "common_sizes"):
        monkeypatch.setattr(f"runner.rings.{module}.TENSORMAP_ENTRIES", 16)
    monkeypatch.setattr("runner.rings.tensormap.TensorMap.__init__.__defaults__", (16,))
    writing = [task(f"w{number}", existing=["ext", "ext2"]) for number in range(4)]
    ordered = [task(f"o{number}", existing=["ext", "ext2"], wait_only=["w0"]) for number in range(6)]
    program = schedule({"scope": writing}, {"scope": ordered})
    assert eager(program, sizes(64)).deadlock is None
    with pytest.raises(ScheduleError, match="the tensormap has no entries left for the arguments of 'o4'"):
        refuse_deadlock([program], sizes(64))
    free = [{**item, "after_wait_only": []} for item in ordered]
    refuse_deadlock([schedule({"scope": writing}, {"scope": free})], sizes(64))


@pytest.mark.parametrize("key", ["after", "wait_only"])
@pytest.mark.parametrize("kept", [0, 20, 70, 90])
def test_the_bound_of_a_pool_counts_what_lies_behind_a_producer_of_an_earlier_epoch(key, kept):
    """In a scope before, 100 tasks take 4 entries each: those behind a task that is kept stay, and 63 before it."""
    four = [task(f"f{number}") for number in range(4)]
    taking = [task(f"t{number}", after=["f0", "f1", "f2", "f3"]) for number in range(130)]
    user = task("user", **{key: [f"t{kept}"]})
    program = schedule(*four, {"scope": taking[:100]}, {"scope": [*taking[100:], user]})
    first = max(0, kept - 63)  # the oldest that may not have been swept
    bound = ring_loads(program)[1].pool_bound
    assert bound == 4 * (130 - first) + 1
    assert lagging(program, sizes(bound)).deadlock is None

    heap = RingHeap(program, sizes(bound - 1))
    advance(heap, 108)
    heap.rings[1].pool_swept, heap.rings[1].pool_tail = first, 4 * first
    advance(heap, 138, begin=108)
    assert heap.try_submit(134) is None
    for number in range(134):
        heap.complete(number)
    assert heap.try_submit(134) is None
    found = heap.deadlock(134)
    assert found is not None
    assert (found.code, found.how, found.oldest) == (4, "no progress", f"t{kept}")


def test_edges_that_spill_behind_a_producer_of_an_earlier_epoch_count():
    many = [task(f"m{number}") for number in range(80)]
    names = [f"m{number}" for number in range(80)]
    program = schedule(*many, {"scope": [task("t0"), task("t1", after=names)]}, {"scope": [task("user", after=["t0", *names])]})
    assert ring_loads(program)[1].pool_bound == 80 + 81
    few = schedule(*many, {"scope": [task("t1", after=names)]}, {"scope": [task("user", after=names)]})
    assert ring_loads(few)[1].pool_bound == 160
