"""Edges to every registered writer: in no run does the runtime make an edge that the schedule does not have.

What the runtime does is told here by the rules' text alone, on the program of one run: its trips, and nothing but its tasks.
"""

import random
from types import SimpleNamespace
from typing import Any

import pytest

from runner.expansion.expander import expand
from runner.language.library import load_graph
from runner.program.ops import OpRegistry
from runner.program.program import Region
from runner.rings.capacity import ring_loads
from runner.rings.schedule import Begin, End, Submit
from schedulers import get_scheduler

OPS = OpRegistry()
OPS.op("read", "x: f32[...], n?: i32[...] -> y: f32[...]", core="AIV")(lambda **_: None)
OPS.op("add", "x: f32[...] -> &y: f32[...]", core="AIV")(lambda **_: None)
CONFIG: Any = SimpleNamespace(values={}, dtypes={})
SIZE = 6


class Scribe:
    """Writes a random graph of tensors of one dim that are written part by part, in loops and scopes of both modes."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.lines = []
        self.num = 0

    def part(self, name):
        low = self.rng.choice([0, 0, 0, 1, 2, 4])
        high = self.rng.randint(low + 1, SIZE)
        return name if self.rng.random() < 0.3 else f"{name}[{low} : {high}]"

    def body(self, indent, names, depth, manual):
        for _ in range(self.rng.randint(2, 5)):
            self.num += 1
            pad, number, kind = "  " * indent, self.num, self.rng.random()
            if kind < 0.12 and depth < 3:
                mode = "manual" if manual or self.rng.random() < 0.4 else "auto"
                self.lines += [f"{pad}- scope: s{number}", f"{pad}  mode: {mode}", f"{pad}  body:"]
                self.body(indent + 2, list(names), depth + 1, mode == "manual")
            elif kind < 0.3 and depth < 3:
                trips = "n[0]\n" + pad + "  max: 2" if self.rng.random() < 0.7 else "2"
                self.lines += [f"{pad}- for: t{number}", f"{pad}  range: {trips}", f"{pad}  body:"]
                self.body(indent + 2, list(names), depth + 1, manual)
            elif kind < 0.38:
                self.lines.append(f"{pad}- {{op: read, id: u{number}, in: {{x: a}}, out: {{y: 'v{number}: f32[{SIZE}]'}}}}")
                names.append(f"v{number}")
            else:
                op, read = self.rng.choice(["read", "add", "add"]), self.part(self.rng.choice(names))
                target = self.part(self.rng.choice([name for name in names if name != "a"]))
                self.lines.append(f"{pad}- {{op: {op}, id: u{number}, in: {{x: '{read}'}}, out: {{y: '{target}'}}}}")

    def graph(self, folder):
        self.lines = [f"  - alloc: {{b: 'f32[{SIZE}]', c: 'f32[{SIZE}]'}}", "    id: u0"]
        self.body(1, ["a", "b", "c", "s"], 0, False)
        head = f"graph: g\ninputs: {{a: 'f32[{SIZE}]', n: 'i32[1]'}}\nstate: {{s: {{type: 'f32[{SIZE}]', from: s}}}}\nbody:\n"
        (folder / "g.yaml").write_text(head + "\n".join(self.lines) + "\n")
        return load_graph(folder / "g.yaml")


@pytest.fixture
def any_shape(monkeypatch):
    """Operands of all sizes fit each other: only who touches what matters here."""
    match = SimpleNamespace(dims={}, problems=[])
    monkeypatch.setattr("runner.expansion.calls.Signature", lambda *_: SimpleNamespace(match=lambda _: match))


def schedule_of(graph, trips=None):
    program = expand(graph, CONFIG, OPS, trips=trips)
    return program, get_scheduler("annotated")(program, {})


def elements(region: Region):
    """The elements of a region, each as a pair of the tensor and its place."""
    low, high = region.box[0] if region.box is not None else (0, SIZE)
    return {(region.tensor, place) for place in range(low, high)}


def runtime_edges(program, schedule):
    """Per path of a task the paths that it waits for, if nothing has been swept."""
    registered, edges, modes, creator = [], {}, [], {}
    for step in schedule.steps:
        if isinstance(step, Begin):
            modes.append(schedule.scopes[step.scope].mode)
        elif isinstance(step, End):
            modes.pop()
        elif isinstance(step, Submit):
            task = program.tasks[schedule.submissions[step.submission].task]
            creator.update(dict.fromkeys(task.creates, task.path))
            if modes[-1] == "manual" or task.op is None:
                continue
            used = [(name, elements(r)) for name, r in task.operands.items() if r.tensor not in task.creates]
            found = {creator[tensor] for tensor in task.uses}
            for name, touched in used:
                found |= {path for path, written in registered if written & touched}
                if name == "y":
                    registered = [entry for entry in registered if not entry[1] <= touched]
            registered += [(task.path, touched) for name, touched in used if name == "y"]
            edges[task.path] = found
    return edges


def paths(program, schedule):
    names = [program.tasks[s.task].path for s in schedule.submissions]
    return {names[k]: {names[wait] for wait in s.waits} for k, s in enumerate(schedule.submissions)}


def attack(seeds, folder):
    """Graphs of `seeds` in several runs each; how many edges the runtime makes that are not to a last writer."""
    num_more = 0
    for seed in seeds:
        graph = Scribe(seed).graph(folder)
        program, full = schedule_of(graph)
        ours = paths(program, full)
        by_path = {task.path: task for task in program.tasks}
        bounds = [load.pool_bound for load in ring_loads(full)]
        for turn in range(4):
            rng = random.Random(seed * 4 + turn)
            run_program, run = schedule_of(graph, lambda path, at, bound, count, rng=rng: rng.randint(0, bound))
            for path, found in runtime_edges(run_program, run).items():
                assert found <= ours[path], (seed, path, found - ours[path])
                last = {program.tasks[wait].path for wait in by_path[path].waits}
                num_more += len(found - last)
            assert all(own <= most for own, most in zip([x.pool_bound for x in ring_loads(run)], bounds, strict=True))
    return num_more


def test_no_run_has_an_edge_that_the_schedule_has_not(tmp_path, any_shape):
    assert attack(range(60), tmp_path) > 100


@pytest.mark.slow
def test_no_run_of_1000_graphs_has_an_edge_that_the_schedule_has_not(tmp_path, any_shape):
    assert attack(range(1000), tmp_path) > 1000
