"""Rings of exactly the printed bounds, attacked: random programs on worker threads with delays, at every trip count.

`pytest -m slow -s tests/rings/test_bounds.py` runs 1,500 programs and prints counts; it takes about a quarter of an hour.
"""

import random
import time
from dataclasses import dataclass, field
from itertools import product
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch

from runner.execution.executor import execute
from runner.expansion.expander import expand
from runner.language.library import load_graph
from runner.program.ops import OpRegistry
from runner.rings import capacity
from runner.rings.common_sizes import refuse_deadlock, safe_sizes
from runner.rings.parts import ring
from runner.rings.replay import eager, lagging
from schedulers import get_scheduler

WORKERS = (1, 2, 3, 4, 8)
DELAYS = random.Random(0)
OPS = OpRegistry()


@OPS.op("make", "a: f32[M] -> y: f32[N]", core="AIV")
def make(a, *, y):
    """Takes no time, or long enough that tasks submitted later come first."""
    time.sleep(DELAYS.choice((0, 0, 0, 0.0002, 0.001)))


@dataclass
class Graph:
    """A random graph file in the making; `most` has the bound of every dynamic loop."""

    rng: random.Random
    most: list[int] = field(default_factory=list)
    count: int = 0

    def text(self) -> str:
        body = self.body(2, 0, [])
        return f"graph: bounds\ninputs: {{a: 'f32[4]', n: 'i32[{max(1, len(self.most))}]'}}\nbody:\n{body}"

    def body(self, indent: int, depth: int, visible: list[str]) -> str:
        """A few tasks, scopes and loops; `visible` are the tasks that new ones may wait for."""
        visible, found, pad = list(visible), [], " " * indent
        for _ in range(self.rng.randint(2, 4)):
            kind = self.rng.choice(("task", "task", "many", "scope", "loop") if depth < 3 else ("task", "many"))
            if kind in ("task", "many"):
                made = [self.task(pad, visible) for _ in range(1 if kind == "task" else self.rng.randint(2, 8))]
                visible += [name for name, _ in made]
                found += [text for _, text in made]
            elif kind == "scope":
                self.count += 1
                found.append(f"{pad}- scope: s{self.count}\n{pad}  body:\n{self.body(indent + 4, depth + 1, visible)}")
            else:
                found.append(self.loop(indent, depth, visible))
        return "".join(found)

    def task(self, pad: str, visible: list[str]) -> tuple[str, str]:
        self.count += 1
        name = f"t{self.count}"
        read = f"{self.rng.choice(visible)}_y" if visible and self.rng.random() < 0.5 else "a"
        after = self.rng.sample(visible, min(len(visible), self.rng.choice((0, 1, 3, 8))))
        waits = f", after: [{', '.join(after)}]" if after else ""
        size = self.rng.choice((4, 4, 256, 700, 2000))
        return name, f"{pad}- {{op: make, id: {name}, in: {{a: {read}}}, out: {{y: '{name}_y: f32[{size}]'}}{waits}}}\n"

    def loop(self, indent: int, depth: int, visible: list[str]) -> str:
        self.count += 1
        pad, name = " " * indent, f"i{self.count}"
        if len(self.most) < 3:
            self.most.append(self.rng.randint(1, 2))
            trips = f"n[{len(self.most) - 1}]\n{pad}  max: {self.most[-1]}"
        else:
            trips = str(self.rng.randint(1, 3))
        return f"{pad}- for: {name}\n{pad}  range: {trips}\n{pad}  body:\n{self.body(indent + 4, depth + 1, visible)}"


def attack(seed: int, path) -> int:
    """Runs one program at every trip count on every number of workers; returns the number of runs."""
    rng = random.Random(seed)
    graph = Graph(rng)
    path.write_text(graph.text())
    period = rng.choice((2, 3, 8, 64))  # pools are swept after fewer tasks, so that small programs cross many sweeps
    runs = 0
    with patch.object(capacity, "POOL_SWEEP", period), patch.object(ring, "POOL_SWEEP", period):
        program = expand(load_graph(path), SimpleNamespace(values={}, dtypes={}), OPS)
        schedule = get_scheduler(rng.choice(("annotated", "annotated", "autoscope")))(program, {})
        sizes = safe_sizes([schedule])
        refuse_deadlock([schedule], sizes)
        assert eager(schedule, sizes).deadlock is None and lagging(schedule, sizes).deadlock is None
        for trips in product(*(range(most + 1) for most in graph.most)):
            given = {"a": torch.zeros(4), "n": torch.tensor([*trips, 0][: max(1, len(trips))], dtype=torch.int32)}
            externals = {program.inputs[name]: value for name, value in given.items()}
            for workers in WORKERS:
                execute(schedule, OPS, externals, rings=sizes, workers=workers)
                runs += 1
    return runs


@pytest.mark.parametrize("seed", range(8))
def test_no_run_exceeds_the_bounds(seed, tmp_path):
    assert attack(seed, tmp_path / "g.yaml") >= len(WORKERS)


def test_a_pool_below_the_bound_is_exceeded_by_some_run(tmp_path):
    """The attack is strong enough to see a bound that is too small."""
    exceeded = 0
    for seed in range(40):
        graph = Graph(random.Random(seed))
        (tmp_path / "g.yaml").write_text(graph.text())
        program = expand(load_graph(tmp_path / "g.yaml"), SimpleNamespace(values={}, dtypes={}), OPS)
        schedule = get_scheduler("annotated")(program, {})
        sizes = safe_sizes([schedule])
        small = type(sizes)(sizes.heap, sizes.window, tuple(max(4, pool // 2) for pool in sizes.pool))
        exceeded += lagging(schedule, small).deadlock is not None
    assert exceeded >= 20


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_no_run_of_many_programs_exceeds_the_bounds(tmp_path):
    runs, start = 0, time.monotonic()
    for seed in range(1500):
        runs += attack(1000 + seed, tmp_path / "g.yaml")
        if seed % 100 == 99:
            print(f"{seed + 1:,} programs, {runs:,} runs, {time.monotonic() - start:.0f} s: none deadlocked", flush=True)
