"""Replays under the progress models, against a slow model and brute force, and the traced seed programs."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import DATA
from random_schedules import Model, build, programs, small_sizes
from sampled import sampled

from runner.base.errors import ConfigError
from runner.recorded.programs import Builder
from runner.recorded.scope_stats import ring_stats
from runner.recorded.traces import read_trace
from runner.rings.heap import RingHeap
from runner.rings.replay import eager, lagging
from runner.rings.schedule import Begin, End, Read, Slot, Submission
from runner.rings.sizes import RingSizes
from runner.rings.timed import Timing, parse_cores, timed, uniform_timing

TRACES = DATA / "seed-program"
heaps = st.tuples(*[st.integers(1, 12)] * 4)


def _models(schedule, sizes):
    return [
        eager(schedule, sizes),
        lagging(schedule, sizes),
        timed(schedule, sizes, uniform_timing(0.5, 20)),
        timed(schedule, sizes, uniform_timing(1, 3, (1, 2))),
    ]


@settings(max_examples=60, deadline=None)
@given(programs(max_depth=3, max_items=3), heaps, st.sampled_from([4, 64]))
def test_verdict_equals_brute_force_over_interleavings(items, heap, window):
    schedule, sizes = build(items), small_sizes(heap, window)
    if len(schedule.submissions) > 9:
        return
    outcomes = Model(schedule, sizes).search()
    if outcomes is None:
        return
    for replay in _models(schedule, sizes):
        assert outcomes == {"ok" if replay.deadlock is None else replay.deadlock.submission}, replay.model


@settings(max_examples=60, deadline=None)
@given(programs(), heaps, st.sampled_from([4, 8, 64]))
def test_eager_equals_the_slow_model_block_by_block(items, heap, window):
    schedule, sizes = build(items), small_sizes(heap, window)
    model, state, ends, offsets = Model(schedule, sizes), Model.START, {}, []
    while state is not None and state[0] < len(schedule.steps):
        for task in model.completable(state):
            state = (state[0], state[1] | {task}, state[2])
        placed = model.place(state, ends)
        state, offset = placed if placed else (None, None)
        if offset is not None:
            offsets.append(offset)
    got = eager(schedule, sizes)
    assert [o for o in got.offsets if o >= 0] == offsets
    assert (got.deadlock is None) == (state is not None)


@settings(max_examples=60, deadline=None)
@given(programs(), heaps)
def test_offsets_do_not_depend_on_progress(items, heap):
    schedule, sizes = build(items), small_sizes(heap)
    replays = _models(schedule, sizes)
    assert len({tuple(r.offsets) for r in replays}) == 1


class _Interleaving:
    """One run on a RingHeap in which tasks complete at random, and what must be alive at each moment by rule 4 alone."""

    def __init__(self, schedule, sizes, seed):
        self.schedule, self.heap, self.rng = schedule, RingHeap(schedule, sizes), random.Random(seed)
        self.open, self.submitted, self.done = [], [], set()

    def run(self):
        """False when it ends in a deadlock."""
        for step in self.schedule.steps:
            if isinstance(step, Begin):
                self.heap.begin(step.scope)
                self.open.append((step.scope, []))
            elif isinstance(step, End):
                self.heap.end(step.scope)
                self.open.pop()
            elif not self.submit(step.submission):
                return False
            while self.rng.random() < 0.3 and self.complete_one():
                pass
        return True

    def submit(self, submission):
        while (offset := self.heap.try_submit(submission)) is None:
            if self.heap.deadlock(submission) is not None:
                return False
            assert self.complete_one(), "waiting cannot help, and the ring heap does not say so"
        ring, size = self.schedule.scopes[self.open[-1][0]].ring, self.schedule.submissions[submission].size_bytes
        assert offset >= 0 and offset + size <= self.heap.sizes.heap[ring]
        for other, other_ring, low, high in self.submitted:
            if other_ring == ring and self.alive(other):
                assert offset + size <= low or high <= offset, f"{submission} overlaps {other}"
        if self.schedule.submissions[submission].core is None:
            self.done.add(submission)
        if size:
            self.submitted.append((submission, ring, offset, offset + size))
        self.open[-1][1].append(submission)
        return True

    def alive(self, submission):
        users = [i for i, s in enumerate(self.schedule.submissions) if submission in s.holds and self.heap.offsets[i] >= 0]
        pinned = any(submission in members for _, members in self.open)
        return pinned or submission not in self.done or not self.done.issuperset(users)

    def complete_one(self):
        placed = [i for i, offset in enumerate(self.heap.offsets) if offset >= 0 and i not in self.done]
        ready = [i for i in placed if self.done.issuperset(self.schedule.submissions[i].waits)]
        if not ready:
            return False
        task = self.rng.choice(ready)
        self.done.add(task)
        self.heap.complete(task)
        return True


@settings(max_examples=80, deadline=None)
@given(programs(), heaps, st.integers(0, 1000))
def test_live_blocks_never_overlap_in_any_interleaving(items, heap, seed):
    schedule, sizes = build(items), small_sizes(heap)
    assert _Interleaving(schedule, sizes, seed).run() == (eager(schedule, sizes).deadlock is None)


@settings(max_examples=60, deadline=None)
@given(programs(), heaps)
def test_occupancy_lies_between_eager_and_lagging(items, heap):
    schedule, sizes = build(items), small_sizes(heap)
    low, high, *between = _models(schedule, sizes)
    for replay in (low, *between, high):
        for least, record, most in zip(low.records, replay.records, high.records, strict=True):
            assert least.heap_head == record.heap_head == most.heap_head
            assert most.heap_tail <= record.heap_tail <= least.heap_tail
            assert most.slots_tail <= record.slots_tail <= least.slots_tail
        for ring in range(4):
            assert low.peak_bytes[ring] <= replay.peak_bytes[ring] <= high.peak_bytes[ring] <= sizes.heap[ring]


def _two_tasks(core="AIV", blocks=1):
    """alloc, then two independent tasks, then a read of the second."""
    build = Builder()
    build.begin("root")
    build.submit(Submission("alloc", 1024, (Slot(0, 0, 1024, "a"),)))
    for name in ("first", "second"):
        build.submit(Submission(name, waits=(0,), holds=(0,), core=core, num_blocks=blocks))
    build.steps.append(Read((2,)))
    build.end()
    return build.schedule("two", "hand")


def test_timed_by_hand():
    two = timed(_two_tasks(), RingSizes(), Timing(1.0, lambda s: 10.0))
    assert (two.stall_us, two.makespan_us) == (10.0, 13.0)  # submitted at 1, 2, 3; the second runs from 3 to 13
    one_worker = timed(_two_tasks("AIC"), RingSizes(), Timing(1.0, lambda s: 10.0, aic=1))
    assert (one_worker.stall_us, one_worker.makespan_us) == (19.0, 22.0)  # 2 to 12, then 12 to 22
    waves = timed(_two_tasks("AIV", blocks=5), RingSizes(), Timing(1.0, lambda s: 10.0, aiv=4))
    assert waves.makespan_us == 32.0  # blocks 4, 1 + 3, 2 from 2, 12 and 22 on
    mixed = timed(_two_tasks("MIX"), RingSizes(), Timing(1.0, lambda s: 10.0, aic=8, aiv=2))
    assert mixed.makespan_us == 22.0  # one cluster only


@pytest.mark.parametrize("text", ["aic", "aic=0", "gpu=3", "aic=1,aiv=1"])
def test_bad_cores_are_refused(text):
    with pytest.raises(ConfigError, match="--cores"):
        parse_cores(text)
    assert parse_cores("unlimited") == (None, None)
    assert parse_cores("aic=24,aiv=48") == (24, 48)


HEADLINES = [("a", 1, (126.32, 126.32)), ("b", 1, (90.55, 90.55)), ("c", 2, (71.1, 71.4))]


@pytest.mark.parametrize(("variant", "ring", "percent"), sampled(HEADLINES, HEADLINES[::2]))
def test_traced_seed_program(variant, ring, percent):
    """The seed's headline figures; source: the traced program of the reference, near-uniform random routing."""
    schedule = read_trace(TRACES / f"program_{variant}.jsonl.xz")
    replay = timed(schedule, RingSizes().with_heap([2**30] * 4), uniform_timing(0.5, 20))
    stats = ring_stats(replay)
    worst = max(stats, key=lambda s: s.high_water_bytes)
    assert worst.ring == ring
    assert percent[0] <= round(100 * worst.high_water_bytes / 2**30, 2) <= percent[1]
