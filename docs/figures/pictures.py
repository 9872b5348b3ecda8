"""Sizes of the pictures that `ringgraph dot` draws of all shipped graphs: `python -m docs.figures.pictures [CONFIG ...]`.

Beside each picture stands the one with every layer by itself (`--unfold`). Sizes are Graphviz's, in points; it has to be
installed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from runner import Driver, RinggraphError
from runner.driver.planning import PlanRequest, place
from runner.language.library import shipped_graphs
from runner.report.dot.dot import to_dot
from runner.report.dot.nodes import LEVELS
from runner.rings.schedule import Schedule

FAMILIES = {"qwen3": ("qwen3-tiny", "qwen3-14b", "qwen3-32b"), "": ("tiny", "demo", "flash", "pro")}
"""Presets for the graphs whose names begin so; the first is small."""


def presets(graph: str) -> tuple[str, ...]:
    """The presets under which a shipped graph can be drawn, the smallest first."""
    return next(found for head, found in FAMILIES.items() if graph.startswith(head))


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a picture: its boxes, and its size in points."""

    boxes: int
    width: float
    height: float

    @property
    def ratio(self) -> float:
        return self.width / self.height

    def __str__(self) -> str:
        return f"{self.boxes:,} boxes, {self.width:,.0f} x {self.height:,.0f}, {self.ratio:.2f}:1"


def boxes(dot: str) -> int:
    """Boxes of DOT text."""
    return sum("[label=" in line and "fillcolor=" in line for line in dot.splitlines())


def shape(dot: str) -> Shape:
    """What Graphviz makes of DOT text; raises OSError where it is missing, CalledProcessError."""
    done = subprocess.run(["dot", "-Tplain"], input=dot, capture_output=True, text=True, check=True)
    _, _, width, height = done.stdout.splitlines()[0].split()
    return Shape(boxes(dot), 72 * float(width), 72 * float(height))


@cache
def planned(graph: str, preset: str) -> Schedule:
    return place(Driver(preset).setup, PlanRequest(graph)).schedule


def table(chosen: list[str]) -> Iterator[str]:
    """One line for each shipped graph, preset and level; the smallest preset of each graph without a choice."""
    for graph in sorted(shipped_graphs()):
        for preset in [name for name in presets(graph) if name in chosen] if chosen else presets(graph)[:1]:
            for level in LEVELS:
                folded, unfolded = (shape(to_dot(planned(graph, preset), level, unfold=all_of)) for all_of in (False, True))
                yield f"{graph:24} {preset:10} {level:5}  {folded!s:44}" + (
                    f"  unfolded {unfolded}" if folded != unfolded else ""
                )


if __name__ == "__main__":
    try:
        for line in table(sys.argv[1:]):
            print(line, flush=True)
    except (RinggraphError, OSError) as problem:
        sys.exit(f"error: {problem}")
