"""The ring heap against a second one, which is written from the text of the rules alone and works everything out anew each time.

Random programs with every key, in rings, pools and tensormaps that are tight, with tasks that complete at random: every offset,
record, wait and error is the same. Whether waiting can help is found by letting everything complete.

`pytest -m slow tests/rings/test_by_the_rules.py` takes 2,000 programs.

Source: docs/memory-model.md; the rules of recordings of the public `simpler` runtime, state of 2026-08-22.
"""

import copy
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from recorded_programs import random_items

from runner.recorded.conformance import read_conformance
from runner.recorded.edges import schedule_of
from runner.rings.heap import RingHeap
from runner.rings.schedule import Begin, End, Submit
from runner.rings.sizes import RingSizes

SWEEP, ENTRIES = 4, 12  # smaller than the runtime's, so that small programs cross many sweeps


class Thing(SimpleNamespace):
    """Each is itself alone."""

    __eq__ = object.__eq__


def flat(items, mode="auto") -> Iterator[tuple[Any, ...]]:
    """The program as a list of ("begin", mode), ("end",) and ("submit", item, mode of its scope)."""
    yield "begin", mode
    for item in items:
        if "scope" in item:
            yield from flat(item["scope"], item["mode"])
        else:
            yield "submit", item, mode
    yield ("end",)


class Slow:
    """The rules. `tasks` are all submissions; what follows from them is not kept."""

    def __init__(self, sizes):
        self.sizes, self.tasks, self.open, self.named, self.tensors = sizes, [], [], {}, {}
        self.rings = [Thing(top=0, tail=0, anchor=None, seen=0, pool=[0, 0], swept=0, mapped=0) for _ in range(4)]
        self.map = []  # [tensor, begin, end, task, address]
        self.known = [0] * 4  # the oldest live task of each ring, as the tensormap last saw it
        self.waiting = None  # a task that has its block and lacks entries

    def on(self, ring):
        return [task for task in self.tasks if task.ring == ring]

    def settle(self):
        """Note who is consumed by now: completed, out of its scope, and kept by nobody."""
        for task in self.tasks:
            users = [user for user in self.tasks if task in user.holds and not user.done]
            claimed = self.waiting is not None and task in self.waiting.edges
            task.consumed |= task.done and task.scope not in self.open and not users and not claimed

    def alive(self, ring):
        self.settle()
        return next((number for number, task in enumerate(self.on(ring)) if not task.consumed), len(self.on(ring)))

    def record(self):
        number, ring = self.ring(), self.rings[self.ring()]
        return self.alive(number), len(self.on(number)), ring.tail, ring.top, *ring.pool, len(self.map)

    def ring(self):
        return min(len(self.open), 4) - 1

    def begin(self, mode):
        self.open.append(Thing(mode=mode))

    def end(self):
        self.open.pop()
        self.settle()

    def submit(self, item):
        """The offset, or the code of what is short; a second call goes on where the first one waited."""
        if self.waiting is None:
            short = self.take_block(item)
            if short:
                return short, None
        task = self.waiting
        assert task is not None
        short = self.take_map_entries(task) or self.take_pool_entries(task)
        if short:
            return short, None
        self.waiting = None
        return 0, task.offset

    def take_block(self, item):
        number, size = self.ring(), self.sizes
        ring, scope = self.rings[number], self.open[-1]
        if sum(task.scope is scope for task in self.tasks) >= size.window[number] - 1:
            return 1
        alive = self.alive(number)
        if alive > ring.seen:
            ring.seen = alive
            if ring.anchor is None or alive > ring.anchor:
                ring.anchor, ring.tail = None, self.on(number)[alive - 1].end
        if len(self.on(number)) - alive >= size.window[number] - 1:
            return 3
        created = item["alloc"] if "alloc" in item else item["outputs"]
        offset = self.place(ring, sum(-(-t["bytes"] // 1024) * 1024 for t in created), size.heap[number], len(self.on(number)))
        if offset is None:
            return 2
        is_task = "task" in item
        task = Thing(ring=number, number=len(self.on(number)), scope=scope, done=not is_task, consumed=False)
        task.offset, task.end, task.holds, task.edges, task.writes, task.is_task = offset, ring.top, [], [], [], is_task
        task.room, task.mark = None, 0
        if is_task:
            self.make_edges(task, item)
        for tensor in created:
            self.tensors[tensor["name"]] = Thing(task=task, at=offset, **{"manual_dep": False} | tensor)
            offset += -(-tensor["bytes"] // 1024) * 1024
        self.named[item["task"] if is_task else created[0]["name"]] = task
        self.tasks.append(task)
        self.waiting = task
        return 0

    def place(self, ring, size, heap, number):
        if not size:
            return ring.top
        if ring.top >= ring.tail and heap - ring.top >= size:
            offset = ring.top
        elif ring.top >= ring.tail and ring.tail > size:
            offset = 0
        elif ring.top == ring.tail and size <= heap:
            offset, ring.tail, ring.anchor = 0, 0, number
        elif ring.top < ring.tail and ring.tail - ring.top > size:
            offset = ring.top
        else:
            return None
        ring.top = offset + size
        return offset

    def make_edges(self, task, item):
        """Edges to whom the runtime has not forgotten, and what an INOUT covers goes."""
        self.sweep_map(task)
        waits, holds = [], [self.named[name] for name in item.get("after", [])]
        waits += [self.named[name] for name in item.get("after_wait_only", [])]
        for key in ("inputs", "inouts", "existing", "no_dep") if self.open[-1].mode == "auto" else ():
            for argument in item.get(key, []):
                part = argument if isinstance(argument, dict) else None
                tensor = self.tensors[part["name"] if part else argument]
                begin = part["offset"] if part else 0
                end = begin + (part["bytes"] if part else tensor.bytes)
                holds.append(tensor.task)
                if tensor.manual_dep and not part:
                    continue
                address = tensor.task.ring, tensor.at
                for entry in [entry for entry in self.map if key in ("inputs", "inouts")]:
                    if entry[0] is tensor and entry[1] < end and begin < entry[2]:
                        waits.append(entry[3])
                    is_known = entry[3].number >= self.known[entry[3].ring]
                    if key == "inouts" and is_known and entry[4] == address and begin <= entry[1] < entry[2] <= end:
                        self.map.remove(entry)
                if key in ("inouts", "existing"):
                    task.writes.append([tensor, begin, end, task, address])
        unique = {id(producer): producer for producer in [*waits, *holds]}
        task.edges = [producer for producer in unique.values() if not producer.consumed]
        task.holds = [producer for producer in task.edges if producer in holds]

    def sweep_map(self, task):
        ring, alive = self.rings[task.ring], self.alive(task.ring)
        self.known[task.ring] = alive
        if alive - ring.mapped >= SWEEP or (task.number - ring.mapped) % self.sizes.window[task.ring] == 0:
            self.forget(task.ring, alive)

    def forget(self, number, alive):
        self.rings[number].mapped = alive
        self.map = [entry for entry in self.map if entry[3].ring != number or entry[3].number >= alive]

    def take_map_entries(self, task):
        if task.writes and len(self.map) + len(task.writes) > ENTRIES:
            for number in range(4):
                self.known[number] = self.alive(number)
                self.forget(number, self.alive(number))
            if len(self.map) + len(task.writes) > ENTRIES:
                return 11
        self.map += task.writes
        task.writes = []
        return 0

    def take_pool_entries(self, task):
        ring, alive, pending = self.rings[task.ring], self.alive(task.ring), [edge for edge in task.edges if not edge.done]
        if task.room is None:
            task.room = len(task.edges) if pending else 0
        capacity = self.sizes.pool[task.ring]
        if capacity - ring.pool[1] + ring.pool[0] < task.room and alive >= ring.swept + SWEEP:
            ring.pool[0], ring.swept = max(ring.pool[0], self.on(task.ring)[alive - 1].mark), alive
        if capacity - ring.pool[1] + ring.pool[0] < task.room:
            return 4
        ring.pool[1] += len(pending)
        number = task.number - self.sizes.window[task.ring]
        task.mark = ring.pool[1] if task.is_task else self.on(task.ring)[number].mark if number >= 0 else 0
        return 0

    def can_go_on(self, item):
        """Whether the submission that waits fits once all that can complete has."""
        future = copy.deepcopy(self)
        for task in future.tasks:
            task.done |= task is not future.waiting
        return not future.submit(item)[0]


class Both:
    """One run of both, in which tasks complete at random, their producers first."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.items = random_items(seed)
        scale = self.rng.choice([1, 1, 2, 8])
        self.sizes = RingSizes.from_lists(
            [1024 * scale * self.rng.choice([4, 6, 10, 11, 20, 40]) for _ in range(4)],
            [self.rng.choice([4, 8, 16, 64]) for _ in range(4)],
            [self.rng.choice([4, 5, 8, 16, 64]) for _ in range(4)],
        )
        self.schedule = schedule_of(read_conformance({"program": {"items": self.items}}))
        self.heap, self.slow = RingHeap(self.schedule, self.sizes), Slow(self.sizes)
        self.chance = self.rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        self.running = []

    def complete_one(self):
        ready = [i for i in self.running if all(edge.done for edge in self.slow.tasks[i].edges)]
        index = self.rng.choice(ready)
        self.running.remove(index)
        self.slow.tasks[index].done = True
        self.heap.complete(index)

    def check(self):
        ring = self.heap.rings[self.slow.ring()]
        pool = ring.pool_tail, ring.pool_head
        ours = ring.alive, len(ring.tasks), ring.tail, ring.top, *pool, self.heap.entries_in_use
        assert ours == self.slow.record()

    def submit(self, index, item):
        """None, or the code of a deadlock."""
        while True:
            offset, (short, expected) = self.heap.try_submit(index), self.slow.submit(item)
            assert offset == expected, (index, item, short)
            if offset is not None:
                self.running += [index] if "task" in item else []
                return None
            found = self.heap.deadlock(index)
            if found is not None:
                assert found.code == short
                assert not self.slow.can_go_on(item)
                return short
            self.complete_one()

    def run(self):
        moments = flat(self.items)
        for step, moment in zip(self.schedule.steps, moments, strict=True):
            if isinstance(step, Begin):
                self.heap.begin(step.scope)
                self.slow.begin(moment[1])
                self.check()
            elif isinstance(step, End):
                self.check()
                self.heap.end(step.scope)
                self.slow.end()
            else:
                assert isinstance(step, Submit)
                code = self.submit(step.submission, moment[1])
                if code is not None:
                    return code
            while self.running and self.rng.random() < self.chance:
                self.complete_one()
        return 0


@pytest.fixture
def small(monkeypatch):
    for name, value in {
        "parts.ring.POOL_SWEEP": SWEEP,
        "heap.SWEEP": SWEEP,
        "tensormap.SWEEP": SWEEP,
        "heap.TENSORMAP_ENTRIES": ENTRIES,
    }.items():
        monkeypatch.setattr(f"runner.rings.{name}", value)
    monkeypatch.setattr("runner.rings.tensormap.TensorMap.__init__.__defaults__", (ENTRIES,))


def attack(seeds):
    """How often the runs ended with each code."""
    found = dict.fromkeys((0, 1, 2, 3, 4, 11), 0)
    for seed in seeds:
        found[Both(seed).run()] += 1
    return found


def test_the_heap_does_what_the_rules_say(small):
    found = attack(range(120))
    assert min(found.values()) > 0


@pytest.mark.slow
def test_the_heap_does_what_the_rules_say_in_2000_programs(small):
    found = attack(range(2000))
    print(f"2,000 runs by code: {found}")
    assert min(found.values()) > 0
