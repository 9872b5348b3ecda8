"""`Driver`: the commands from Python, with results as data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.base.errors import Diagnostic
from runner.config.config import Config
from runner.driver.driver import Setup
from runner.driver.frontier import trace_frontier
from runner.driver.linting import lint
from runner.driver.planning import MinpeakOptions, PlanDifference, PlanRequest, PlanResult, TimedOptions, compare, place, plan
from runner.driver.sizing import SizeResult, size
from runner.language.graph import Graph
from runner.language.library import load_graph
from runner.program.ops import OpRegistry
from runner.program.program import Program
from runner.report.dot import to_dot
from runner.report.explain import Explanation, explain
from runner.report.frontier import Frontier
from runner.rings.placement import Scheduler
from runner.rings.sizes import RingSizes


@dataclass(frozen=True)
class Driver:
    """What graphs are loaded, linted, expanded, planned, drawn and run with. Methods raise RinggraphError, and print nothing.

    config   a preset, YAML layer or Hugging Face `config.json`, or several, of which later ones win
    sets     `key=value`, over the layers
    deploy   a deployment in place of the one that a graph's file names
    ep       expert-parallel ranks
    ops      ops that graphs may use beside the registered ones

    A graph is a file, or the name of a shipped one. A scheduler is a name, or a function `(program, options) -> Schedule`.
    """

    config: str | Path | Sequence[str | Path] = "tiny"
    sets: Sequence[str] = ()
    deploy: str | None = None
    ep: int | None = None
    ops: OpRegistry | None = None

    @property
    def setup(self) -> Setup:
        """The same for functions of the driver; no layers at all stand for `tiny`."""
        layers = (self.config,) if isinstance(self.config, str | Path) else tuple(self.config)
        return Setup(layers, tuple(self.sets), self.deploy, self.ep, self.ops)

    def load(self, graph: str | Path) -> Graph:
        """A graph as written, with the place of every name."""
        return load_graph(graph)

    def resolve(self, graph: str | Path | None = None) -> Config:
        """The configuration, for a graph under its deployment."""
        return self.setup.config(graph)

    def lint(self, *paths: str | Path, ring_heap: str | None = None) -> list[Diagnostic]:
        """Findings in files, folders or shipped graphs; `ring_heap`: whether every scope fits rings of this size too."""
        heap = RingSizes.resolve(ring_heap, environ={}).heap if ring_heap is not None else None
        return lint(self.setup, paths, ring_heap=heap)

    def expand(self, graph: str | Path, routing: str = "bound") -> Program:
        """All tasks of a graph in submission order, with the dynamic loops' trips that `routing` says."""
        return self.setup.program(graph, routing=routing)

    def explain(self, graph: str | Path, node: str) -> Explanation:
        """What a node does, its operands, and who reads what it makes; `node` is a dotted path, or how one ends."""
        return explain(self.expand(graph), self.setup.registry, node)

    def plan(
        self,
        graph: str | Path,
        scheduler: str | Scheduler = "annotated",
        *,
        ring_heap: str | None = None,
        say: Callable[[str, float], None] | None = None,
        **options: Any,
    ) -> PlanResult:
        """A graph on the four rings: its schedule, what it takes and needs, and whether it can deadlock.

        `ring_heap` is `1GiB`, four such values, or `safe`; `options` are other fields of `runner.driver.planning.PlanRequest`;
        `say` is told of better placements while minpeak looks for them.
        """
        return plan(self.setup, PlanRequest(graph, scheduler, rings=(ring_heap, None, None), **options), say)

    def compare(self, left: str | PlanResult, right: str | PlanResult, **options: Any) -> PlanDifference:
        """Two plans, ring by ring and scope by scope; each a result of `plan`, `GRAPH:STRATEGY`, or a file of `--json`."""
        return compare(self.setup, left, right, PlanRequest("", **options))

    def draw(
        self, graph: str | Path, *, level: str = "stage", layer: int | None = None, scheduler: str | Scheduler = "annotated"
    ) -> str:
        """A graph's schedule as DOT; a node is a `layer`, `stage` or `task`, of all layers or of one."""
        return to_dot(place(self.setup, PlanRequest(graph, scheduler)).schedule, level, layer)

    def size(self, *graphs: str, scheduler: str = "annotated", minpeak: MinpeakOptions | None = None) -> SizeResult:
        """The smallest ring sizes known to be safe for all the graphs together; `GRAPH@DEPLOY` says for which deployment."""
        return size(self.setup, graphs, scheduler, minpeak)

    def frontier(
        self,
        graph: str | Path,
        num_points: int = 6,
        *,
        routing: str = "random:0",
        timed: TimedOptions | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> Frontier:
        """What more bytes buy in time: minpeak within `num_points` budgets between its ends, beside other strategies."""
        given = timed or TimedOptions(task_us=20.0, cores="unlimited")
        config, program = self.resolve(graph), self.expand(graph, routing)
        name = f"{program.name}, routing {routing}"
        return trace_frontier(
            program, lambda schedule: given.timing(schedule, self.setup.registry, config.dtypes), name, num_points, say
        )
