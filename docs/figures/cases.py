"""What the parts of `make figures` share: the programs that they plan, progress on standard error, and how sizes are written.

Which programs these are stands in `cases.json`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import Driver
from runner.program.program import Program
from runner.rings.capacity import ring_loads, safe_heap
from runner.rings.schedule import Schedule

MIB = 2**20
SEED = ("flash", "seed")
"""Presets: flash with the constants of the reference."""
RANDOM, BOUND = "random:0", "bound"
"""Routings: what a replay is shown with, and what a size has to hold for."""

CASES: dict[str, Any] = json.loads(Path(__file__).with_name("cases.json").read_text(encoding="utf-8"))
"""By part; `titles` are options as pages call them."""


@dataclass(frozen=True, slots=True)
class Case:
    """A graph, its ranks, and the options that tell it from others."""

    configs: tuple[str, ...]
    graph: str
    ep: int
    sets: tuple[str, ...] = ()

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Case:
        """The case of an entry of `CASES`."""
        return cls(tuple(entry["configs"]), entry["graph"], entry["ep"], tuple(entry["sets"]))

    @property
    def name(self) -> str:
        return " ".join([*self.configs, self.graph.removesuffix("_fwd"), f"ep{self.ep}", *self.sets])

    @property
    def title(self) -> str:
        """As pages call it: `flash prefill, ep2, ragged, chunked`."""
        model = "seed's" if self.configs == SEED else " ".join(self.configs)
        words = [CASES["titles"].get(text, text) for text in self.sets]
        return ", ".join([f"{model} {self.graph.removesuffix('_fwd')}", f"ep{self.ep}", *words])

    def program(self, routing: str) -> Program:
        """The graph under its presets and sets and a routing, in its own deployment."""
        return Driver(self.configs, self.sets, ep=self.ep).expand(self.graph, routing)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Say on standard error what is being done, and then how long it took, by the clock and of the CPU."""
    print(f"  {text} ...", end="", file=sys.stderr, flush=True)
    start, cpu = time.perf_counter(), time.process_time()
    yield
    print(f" {time.perf_counter() - start:.1f} s, {time.process_time() - cpu:.1f} s of CPU", file=sys.stderr, flush=True)


def safe_bytes(schedule: Schedule) -> tuple[int, ...]:
    """The safe capacity of each ring."""
    return tuple(safe_heap(load) for load in ring_loads(schedule))


def mib(size_bytes: float) -> float:
    """For data: to 3 digits, of which pages show fewer."""
    return round(size_bytes / MIB, 3)
