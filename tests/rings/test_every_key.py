"""Programs with every key of the format, in rings of exactly the printed bounds, under random interleavings.

At no moment are there more bytes, slots, pool entries or tensormap entries than the bounds say, no run stops, and no block is
given out again while a task that keeps it runs. What keeps what is worked out from the programs by the rules' text (`keeps`).
"""

import random

import pytest
from recorded_programs import keeps, random_items

from runner.recorded.conformance import read_conformance
from runner.recorded.edges import schedule_of
from runner.rings.capacity import least_window, ring_loads, safe_heap
from runner.rings.heap import RingHeap
from runner.rings.replay import lagging
from runner.rings.schedule import Begin, End
from runner.rings.sizes import RingSizes
from runner.rings.steps import submission_rings
from runner.rings.tensormap import entries_bound


@pytest.fixture(autouse=True)
def kept_tensormap(monkeypatch):
    """Else all entries would be counted again at every look."""
    monkeypatch.setattr("runner.rings.heap.TENSORMAP_ENTRIES", 0)


class Run:
    """One run in which tasks complete at random, their producers first."""

    def __init__(self, items, seed, fewer=0):
        """`fewer` pool entries than the bound."""
        self.rng = random.Random(seed)
        self.schedule = schedule_of(read_conformance({"program": {"items": items}}))
        loads = ring_loads(self.schedule)
        self.sizes = RingSizes.from_lists(
            [safe_heap(load) for load in loads],
            [least_window(load) << self.rng.randint(0, 2) for load in loads],
            [max(4, load.pool_bound - fewer) for load in loads],
        )
        self.most_entries = entries_bound(self.schedule, self.sizes.window)
        self.heap = RingHeap(self.schedule, self.sizes)
        self.keeps = keeps(items)
        self.keepers = [set() for _ in self.keeps]  # per submission who keeps it, of those that have not completed
        self.running, self.open, self.blocks = set(), [], []
        self.peaks = [0, 0, 0, 0]
        self.num_reused = 0

    def run(self):
        for step in self.schedule.steps:
            if isinstance(step, Begin):
                self.heap.begin(step.scope)
                self.open.append([])
            elif isinstance(step, End):
                self.heap.end(step.scope)
                self.open.pop()
            else:
                self.submit(step.submission)
            chance = self.rng.choice([0.0, 0.3, 0.9])
            while self.rng.random() < chance and self.running:
                self.complete_one()
            self.check()

    def submit(self, index):
        while (offset := self.heap.try_submit(index)) is None:
            assert self.heap.deadlock(index) is None, str(self.heap.deadlock(index))
            self.check()
            self.complete_one()
        submission, ring = self.schedule.submissions[index], min(len(self.open) - 1, 3)
        for other, (other_ring, low, high) in enumerate(self.blocks):
            if other_ring == ring and low < high and low < offset + submission.size_bytes and offset < high:
                assert not self.is_kept(other), f"{index} takes bytes of {other}, which {sorted(self.keepers[other])} keep"
                self.num_reused += 1
        for kept in self.keeps[index]:
            if self.is_kept(kept):  # else it was reclaimed before
                self.keepers[kept].add(index)
        self.blocks.append((ring, offset, offset + submission.size_bytes))
        self.open[-1].append(index)
        if submission.core is not None:
            self.running.add(index)

    def is_kept(self, index):
        in_open_scope = any(index in members for members in self.open)
        return in_open_scope or index in self.running or bool(self.keepers[index] & self.running)

    def complete_one(self):
        ready = [i for i in sorted(self.running) if not self.running & set(self.schedule.submissions[i].waits)]
        done = self.rng.choice(ready)
        self.running.remove(done)
        self.heap.complete(done)

    def check(self):
        held = self.heap.entries_in_use
        assert held <= self.most_entries
        limits = zip(self.sizes.heap, self.sizes.window, self.sizes.pool, strict=True)
        for ring, sizes in zip(self.heap.rings, limits, strict=True):
            found = ring.head_bytes - ring.tail_bytes, ring.live, ring.pool_head - ring.pool_tail
            assert found[0] <= sizes[0]
            assert found[1] <= sizes[1] - 1
            assert found[2] <= sizes[2]
            self.peaks[:3] = map(max, self.peaks, found)
        self.peaks[3] = max(self.peaks[3], held)


def attack(seeds):
    """Runs of the programs of `seeds`, three each; how many blocks were given out again, and the largest figures."""
    num_reused, peaks = 0, [0, 0, 0, 0]
    for seed in seeds:
        items = random_items(seed)
        for turn in range(3):
            run = Run(items, seed * 3 + turn)
            run.run()
            num_reused += run.num_reused
            peaks = [*map(max, peaks, run.peaks)]
        assert lagging(run.schedule, run.sizes).deadlock is None
    return num_reused, peaks


def test_no_run_passes_the_bounds_or_reuses_what_is_kept():
    num_reused, peaks = attack(range(60))
    assert num_reused > 100 and min(peaks) > 0  # else nothing was at stake


@pytest.mark.slow
def test_no_run_of_1000_programs_passes_the_bounds_or_reuses_what_is_kept():
    num_reused, peaks = attack(range(1000))
    print(f"3,000 runs: {num_reused:,} reuses of a block; most bytes, slots, pool and tensormap entries: {peaks}")
    assert num_reused > 1000


def test_a_tensormap_that_is_looked_at_late_has_the_entries_of_one_that_is_kept(monkeypatch):
    """Where entries may be short the table is kept, else it is worked out from what was known of the rings."""
    counted = 0
    for seed in range(15):
        found = {}
        for enough in (65_536, 12, 0):
            monkeypatch.setattr("runner.rings.heap.TENSORMAP_ENTRIES", enough)
            run = Run(random_items(seed), seed)
            run.run()
            found[enough] = [list(run.heap.records), list(lagging(run.schedule, run.sizes).records), run.heap.entries_in_use]
        assert found[65_536] == found[12] == found[0]
        counted += max(record.tensormap for record in found[0][0]) > 0
    assert counted > 7


@pytest.mark.parametrize("period", [1, 2, 5])
def test_pools_hold_wherever_sweeps_come(monkeypatch, period):
    """With sweeps after fewer tasks than 64 small programs cross many, and an alloc is often the last that was consumed."""
    monkeypatch.setattr("runner.rings.parts.ring.POOL_SWEEP", period)
    monkeypatch.setattr("runner.rings.capacity.POOL_SWEEP", period)
    num_below = num_short = 0
    for seed in range(20):
        items = random_items(seed)
        for turn in range(2):
            run = Run(items, seed * 2 + turn)
            run.run()
        loads, edges = ring_loads(run.schedule), [0] * 4
        for index, ring in submission_rings(run.schedule):
            edges[ring] += len(run.schedule.submissions[index].waits)
        num_below += sum(load.pool_bound < all_edges for load, all_edges in zip(loads, edges, strict=True))
        fewer = Run(items, seed, fewer=1)
        num_short += fewer.sizes.pool != run.sizes.pool and lagging(fewer.schedule, fewer.sizes).deadlock is not None
    assert num_below > 10 and num_short > 3  # the bound is not all edges, and one entry less stops some run
