"""Random programs for scheduler tests, and a run of a schedule in random order on simulated memory.

`random_program` plays the part of the expansion: it infers RAW and WAW edges, and adds the WAR edges that a sound graph declares.
`run_shuffled` plays the device: tasks complete in any order that edges, host reads and rings allow, memory is a table of
1,024-byte cells, and what a task writes is a hash of what it reads, so that any byte that was overwritten too early changes the
outputs.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from runner.base.tensor_spec import TensorSpec
from runner.program.program import Program, Region, Span, Task, Tensor, Trips
from runner.program.spans import SpanWalk
from runner.rings.heap import RingHeap
from runner.rings.schedule import Begin, End, Read, Repeat, Schedule, Submit
from runner.rings.sizes import RingSizes

CELL = 1024


@dataclass
class Builder:
    """Collects tensors and tasks; sizes in cells."""

    tensors: list[Tensor] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    accesses: list[tuple[int, int, int, int, bool]] = field(default_factory=list)  # task, tensor, low, high, writes

    def tensor(self, cells: int, kind: str = "local") -> int:
        index = len(self.tensors)
        self.tensors.append(Tensor(index, f"t{index}", TensorSpec("u8", (cells, CELL)), kind, f"t{index}"))
        return index

    def alloc(self, tensors: tuple[int, ...]) -> int:
        self.tasks.append(Task(len(self.tasks), f"alloc{len(self.tasks)}", None, creates=tensors))
        return len(self.tasks) - 1

    def task(
        self,
        reads: list[tuple[int, int, int]],
        writes: list[tuple[int, int, int]],
        creates: tuple[int, ...] = (),
        core: str = "AIV",
    ) -> int:
        """`reads` and `writes` are (tensor, first cell, end cell)."""
        index = len(self.tasks)
        waits, war = set(), set()
        for tensor, low, high, writing in [(*r, False) for r in reads] + [(*w, True) for w in writes]:
            for other, t, a, b, wrote in self.accesses:
                if t == tensor and a < high and b > low and (wrote or writing):
                    (waits if wrote else war).add(other)
        touched = dict.fromkeys([r[0] for r in reads] + [w[0] for w in writes])
        local = [t for t in touched if self.tensors[t].is_local]
        operands = {
            f"{mode}{k}": Region(t, ((low, high), (0, CELL)))
            for mode, regions in (("in", reads), ("out", writes))
            for k, (t, low, high) in enumerate(regions)
        }
        self.tasks.append(
            Task(
                index,
                f"task{index}",
                "op",
                core,
                operands,
                creates=creates,
                uses=tuple(t for t in local if t not in creates),
                reads=tuple(dict.fromkeys(r[0] for r in reads)),
                writes=tuple(dict.fromkeys(w[0] for w in writes)),
                waits=tuple(sorted(waits)),
                after=tuple(sorted(war - waits)),
            )
        )
        self.accesses += [(index, *r, False) for r in reads] + [(index, *w, True) for w in writes]
        return index

    def whole(self, tensor: int) -> tuple[int, int, int]:
        return (tensor, 0, self.tensors[tensor].spec.shape[0])

    def part(self, tensor: int, rng: random.Random) -> tuple[int, int, int]:
        cells = self.tensors[tensor].spec.shape[0]
        low = rng.randrange(cells)
        return (tensor, low, rng.randint(low + 1, cells))

    def written_part(self, tensor: int, cells: frozenset[int], rng: random.Random) -> tuple[int, int, int]:
        """A random interval of cells that are all in `cells`."""
        low = rng.choice(sorted(cells))
        high = low + 1
        while high in cells and rng.random() < 0.7:
            high += 1
        return (tensor, low, high)

    def program(self, name: str = "built") -> Program:
        """All tasks in the order in which they were made."""
        return Program(name, tuple(self.tensors), tuple(self.tasks), Span("root", name, tuple(range(len(self.tasks)))))

    def writers(self, tensor: int) -> tuple[int, ...]:
        return tuple(sorted({a[0] for a in self.accesses if a[1] == tensor and a[4]}))


def random_program(seed: int, max_tasks: int = 12, max_cells: int = 6, loops: bool = True, scopes: bool = True) -> Program:
    """A random program of `max_tasks` tasks or a few more: creates, allocs, partial writes, dynamic loops, written scopes."""
    rng = random.Random(seed)
    build = Builder()
    source, result = build.tensor(1, "input"), build.tensor(1, "output")

    loop_names: list[str] = []
    written: dict[int, frozenset[int]] = {}  # cells that are surely written, whatever the trip counts

    def random_task(visible: list[int]) -> int:
        readable = [t for t in visible if written.get(t)]
        reads = [build.written_part(t, written[t], rng) for t in rng.sample(readable, min(len(readable), rng.randint(0, 3)))]
        writes = [build.part(t, rng) for t in rng.sample(visible, min(len(visible), rng.randint(0, 1)))]
        writes = [w for w in writes if w[0] not in {r[0] for r in reads}]
        creates = tuple(build.tensor(rng.randint(1, max_cells)) for _ in range(rng.choice((0, 1, 1, 1, 2))))
        visible += creates
        if not creates and not writes:
            reads.append(build.whole(result))
            writes.append(build.whole(result))
        for tensor, low, high in writes + [build.whole(t) for t in creates]:
            written[tensor] = written.get(tensor, frozenset()) | set(range(low, high))
        core = rng.choice(("AIC", "AIV", "MIX"))
        return build.task(reads or [build.whole(source)], writes + [build.whole(t) for t in creates], creates, core)

    def body(budget: int, visible: list[int], depth: int) -> list[int | Span]:
        items: list[int | Span] = []
        while budget > 0:
            kind = rng.random()
            if kind < 0.12:
                made = tuple(build.tensor(rng.randint(1, max_cells)) for _ in range(rng.randint(1, 3)))
                items.append(build.alloc(made))
                visible += made
            elif kind < 0.24 and loops and depth < 3 and (readable := [t for t in visible if written.get(t)]):
                read = rng.choice(readable)
                loop_names.append(f"loop{len(loop_names)}")
                trips = Trips(loop_names[-1], (read,), build.writers(read), rng.randint(1, 3), lambda value: 0)
                bodies = []
                before = dict(written)
                for k in range(trips.bound):
                    bodies.append(Span("iteration", f"{trips.path}.{k}", tuple(body(2, list(visible), depth + 1))))
                    written.clear()
                    written.update(before)
                items.append(Span("dynamic", trips.path, tuple(bodies), trips=trips))
                budget -= 2 * trips.bound
            elif kind < 0.34 and scopes and depth < 4:
                inner = body(rng.randint(1, 3), list(visible), depth + 1)
                items.append(Span("scope", f"scope{len(build.tasks)}", tuple(inner)))
                budget -= 2
            else:
                items.append(random_task(visible))
                budget -= 1
        return items

    items = body(rng.randint(1, max_tasks), [], 0)
    return Program(f"random{seed}", tuple(build.tensors), tuple(build.tasks), Span("root", "root", tuple(items)))


def loop_program(seed: int) -> Program:
    """A random program whose loops, static and dynamic and nested, have trips that are alike."""
    rng = random.Random(seed)
    build = Builder()
    source, result = build.tensor(1, "input"), build.tensor(1, "output")
    visible: list[int] = []

    def straight(count: int) -> list[int]:
        ids = []
        for _ in range(count):
            made = build.tensor(rng.randint(1, 4))
            reads = [build.whole(t) for t in rng.sample(visible, min(len(visible), 2))] or [build.whole(source)]
            ids.append(build.task(reads, [build.whole(made)], (made,)))
            visible.append(made)
        return ids

    def loop(depth: int, key: int) -> list[int | Span]:
        """A task and a loop; the loop's recipe is drawn once: per task what it reads (outer tensors, own ones of the trip) and
        writes."""
        num_trips = rng.randint(3, 4)
        outer = rng.sample(visible, min(len(visible), 3))
        shared = build.tensor(num_trips * 2)  # trips write parts of their own, or all the same part
        visible.append(shared)
        init = build.task([build.whole(source)], [build.whole(shared)], (shared,))
        recipe = [
            (rng.random(), rng.choice(("own", "shared", "result", "same")), rng.randint(1, 3), rng.random())
            for _ in range(rng.randint(1, 3))
        ]
        nested = depth < 1 and rng.random() < 0.5
        inner_seed = rng.random()
        dynamic = rng.random() < 0.6 and bool(outer)
        trips = []
        for trip in range(num_trips):
            items: list[int | Span] = []
            own: list[int] = []
            for k, (draw, kind, cells, other) in enumerate(recipe):
                reads = [build.whole(own[int(draw * len(own))])] if own and draw < 0.8 else []
                if outer and other < 0.6:
                    reads.append(build.whole(outer[int(other * len(outer))]))
                if kind == "own":
                    made = build.tensor(cells)
                    items.append(build.task(reads or [build.whole(source)], [build.whole(made)], (made,)))
                    own.append(made)
                elif kind == "result":
                    items.append(build.task([*reads, build.whole(result)], [build.whole(result)]))
                else:
                    low = 2 * trip if kind == "shared" else 0
                    items.append(build.task(reads or [build.whole(source)], [(shared, low, low + 1 + k % 2)]))
                if nested and k == 0:
                    state = rng.getstate()
                    rng.seed(inner_seed)
                    before = list(visible)
                    items += loop(depth + 1, key)
                    visible[:] = before
                    rng.setstate(state)
            trips.append(Span("iteration", f"{key}.{trip}", tuple(items)))
        if not dynamic:
            return [init, Span("for", f"for{key}", tuple(trips))]
        names.append(f"dynamic{len(names)}")
        read = Trips(names[-1], (outer[0],), build.writers(outer[0]), num_trips, lambda value: 0)
        return [init, Span("dynamic", names[-1], tuple(trips), trips=read)]

    names: list[str] = []
    items: list[int | Span] = [*straight(2)]
    for key in range(rng.randint(1, 3)):
        items += loop(0, key)
        items += straight(rng.randint(0, 3))
    build.task([build.whole(t) for t in visible if build.writers(t)][:3], [build.whole(result)])
    items.append(len(build.tasks) - 1)
    return Program(f"loops{seed}", tuple(build.tensors), tuple(build.tasks), Span("root", "root", tuple(items)))


# --- running --------------------------------------------------------------------------------------------------------


def dynamic_loops(program: Program) -> dict[str, int]:
    """The bound of every dynamic loop, by path."""
    spans = (item for item in SpanWalk(program.body) if isinstance(item, Span))
    return {span.path: span.trips.bound for span in spans if span.kind == "dynamic" and span.trips is not None}


def random_trips(program: Program, rng: random.Random) -> dict[str, int]:
    """A trip count within its bound for every dynamic loop, by path."""
    return {path: rng.randint(0, bound) for path, bound in dynamic_loops(program).items()}


def _values(program: Program, task: Task, load) -> int:
    """What a task writes: a hash of its own name and every cell it reads."""
    read = [
        load(region, cell) for name, region in task.operands.items() if name.startswith("in") for cell in range(*region.box[0])
    ]
    return hash((task.path, *read))


def run_in_order(program: Program, trips: Mapping[str, int]) -> dict[tuple[int, int], int]:
    """Every external cell after the program ran in submission order with a buffer per tensor."""
    memory: dict[tuple[int, int], int] = {}

    def run(span: Span) -> None:
        items = span.items[: trips[span.path]] if span.kind == "dynamic" else span.items
        for item in items:
            if isinstance(item, Span):
                run(item)
                continue
            task = program.tasks[item]
            value = _values(program, task, lambda region, cell: memory.get((region.tensor, cell), 0))
            for name, region in task.operands.items():
                if name.startswith("out"):
                    memory.update({(region.tensor, cell): hash((value, region.tensor, cell)) for cell in range(*region.box[0])})

    run(program.body)
    return {key: value for key, value in memory.items() if not program.tensors[key[0]].is_local}


class Shuffled:
    """One run of a schedule in a random order of completion."""

    def __init__(
        self, program: Program, schedule: Schedule, sizes: RingSizes, trips: Mapping[str, int], rng: random.Random
    ) -> None:
        self.program, self.schedule, self.trips, self.rng = program, schedule, trips, rng
        self.heap = RingHeap(schedule, sizes)
        self.memory: dict[tuple[int, int], int] = {}
        self.external: dict[tuple[int, int], int] = {}
        self.pending: list[int] = []  # submitted, not completed
        self.skipped: set[int] = set()
        self.place: dict[int, tuple[int, int]] = {}  # tensor -> (ring, first cell)

    def run(self) -> dict[tuple[int, int], int]:
        at, steps = 0, self.schedule.steps
        jumps: dict[int, int] = {}
        while at < len(steps):
            if at in jumps:
                at = jumps[at]
                continue
            step = steps[at]
            if isinstance(step, Submit):
                self.submit(step.submission)
            elif isinstance(step, Begin):
                self.heap.begin(step.scope)
            elif isinstance(step, End):
                self.heap.end(step.scope)
            elif isinstance(step, Read | Repeat):
                self.finish(step.waits)
                if isinstance(step, Repeat):
                    assert step.trips is not None
                    count = self.trips[step.trips.path]
                    stop = step.starts[count] if count < len(step.starts) else step.end
                    self.skipped |= {s.submission for s in steps[stop : step.end] if isinstance(s, Submit)}
                    if stop < step.end:
                        if count == 0:
                            at = step.end
                            continue
                        jumps[stop] = step.end
            at += 1
            while self.pending and self.rng.random() < 0.4:
                self.complete_one()
        while self.pending:
            self.complete_one()
        return self.external

    def submit(self, submission: int) -> None:
        while (offset := self.heap.try_submit(submission)) is None:
            deadlock = self.heap.deadlock(submission)
            assert deadlock is None, str(deadlock)
            self.complete_one()
        item = self.schedule.submissions[submission]
        ring = self.heap._ring_of[submission]
        for slot in item.slots:
            self.place[slot.tensor] = (ring, (offset + slot.offset) // CELL)
        if item.core is not None:
            self.pending.append(submission)

    def resolve(self, waits: tuple[int, ...]) -> set[int]:
        """Waits on skipped submissions become waits on what those wait for."""
        seen, stack = set(waits), list(waits)
        while stack:
            wait = stack.pop()
            if wait in self.skipped:
                further = set(self.schedule.submissions[wait].waits) - seen
                seen |= further
                stack += further
        return seen - self.skipped

    def ready(self) -> list[int]:
        done = self.heap.completed
        return [p for p in self.pending if all(done[w] for w in self.resolve(self.schedule.submissions[p].waits))]

    def complete_one(self) -> None:
        ready = self.ready()
        assert ready, "tasks are pending and none is ready"
        self.complete(self.rng.choice(ready))

    def finish(self, waits: tuple[int, ...]) -> None:
        while not all(self.heap.completed[w] for w in self.resolve(waits)):
            self.complete_one()

    def complete(self, submission: int) -> None:
        task = self.program.tasks[self.schedule.submissions[submission].task]
        value = _values(self.program, task, self.load)
        for name, region in task.operands.items():
            if name.startswith("out"):
                for cell in range(*region.box[0]):
                    self.store(region, cell, hash((value, region.tensor, cell)))
        self.pending.remove(submission)
        self.heap.complete(submission)

    def load(self, region: Region, cell: int) -> int:
        if self.program.tensors[region.tensor].is_local:
            ring, low = self.place[region.tensor]
            return self.memory.get((ring, low + cell), 0)
        return self.external.get((region.tensor, cell), 0)

    def store(self, region: Region, cell: int, value: int) -> None:
        if self.program.tensors[region.tensor].is_local:
            ring, low = self.place[region.tensor]
            self.memory[ring, low + cell] = value
        else:
            self.external[region.tensor, cell] = value


def run_shuffled(
    program: Program, schedule: Schedule, sizes: RingSizes, trips: Mapping[str, int], seed: int
) -> dict[tuple[int, int], int]:
    """Every external cell after a run whose order of completion is drawn from `seed`."""
    return Shuffled(program, schedule, sizes, trips, random.Random(seed)).run()


def without_scopes(program: Program) -> Program:
    """The same program with its written scopes taken away."""

    def flat(span: Span) -> Span:
        items: list[int | Span] = []
        for item in span.items:
            if isinstance(item, Span):
                inner = flat(item)
                items += inner.items if item.kind == "scope" else [inner]
            else:
                items.append(item)
        return replace(span, items=tuple(items))

    return replace(program, body=flat(program.body))
