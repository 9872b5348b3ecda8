"""`Driver`: the commands from Python, with results as data. What one of them needs is imported when it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.base.errors import ConfigError
from runner.driver.driver import Setup, resolve, ring_sizes, routing_notes, schedule_of
from runner.rings.defaults import ROUTING

if TYPE_CHECKING:
    import torch

    from runner.base.errors import Diagnostic
    from runner.config.config import Config
    from runner.driver.compare.compare import PlanDifference
    from runner.driver.linting import Linted
    from runner.driver.planning import MinpeakOptions, PlanResult, TimedOptions
    from runner.driver.serve import Served
    from runner.driver.single import Ran
    from runner.driver.sizing import SizeResult
    from runner.language.graph import Graph
    from runner.program.ops import OpRegistry
    from runner.program.program import Program
    from runner.report.explain import Explanation
    from runner.report.frontier import Frontier, Point
    from runner.rings.placement import Scheduler
    from runner.serving.session import Placement


@dataclass(frozen=True)
class Driver:
    """What graphs are loaded, linted, expanded, planned, drawn and run with. Methods raise RinggraphError, and print nothing.

    config   a preset, YAML layer or Hugging Face `config.json`, or several, of which later ones win
    sets     `key=value`, over the layers
    deploy   a deployment in place of the one that a graph's file names
    ep       expert-parallel ranks
    ops      ops that graphs may use beside the registered ones: a table, or Python files that declare them

    A graph is a file, the name of a shipped one, or a recorded program (a capture's folder, a `.json` file, a trace), for which
    no configuration may be given. A scheduler is a name, or a function `(program, options) -> Schedule`.
    """

    config: str | Path | Sequence[str | Path] = ()
    sets: Sequence[str] = ()
    deploy: str | None = None
    ep: int | None = None
    ops: OpRegistry | Sequence[str | Path] | None = None

    @property
    def setup(self) -> Setup:
        """The same for functions of the driver; no layers at all stand for `tiny`."""
        layers = (self.config,) if isinstance(self.config, str | Path) else tuple(self.config)
        return Setup(layers, tuple(self.sets), self.deploy, self.ep, self.ops)

    def load(self, graph: str | Path) -> Graph:
        """A graph as written, with the place of every name."""
        from runner.language.library import load_graph

        return load_graph(graph)

    def resolve(self, graph: str | Path | None = None) -> Config:
        """The configuration, for a graph under its deployment."""
        return self.setup.config(graph)

    def lint(self, *paths: str | Path, ring_heap: str | None = None) -> list[Diagnostic]:
        """Findings in files, folders or shipped graphs; `ring_heap`: whether every scope fits rings of this size too."""
        return self.linted(*paths, ring_heap=ring_heap).findings

    def linted(
        self, *paths: str | Path, ring_heap: str | None = None, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Linted:
        """The findings of `lint`, with what was looked at; `progress` is told how many graphs of how many are done."""
        from runner.driver.linting import lint
        from runner.rings.sizes import RingSizes

        heap = RingSizes.resolve(ring_heap, environ={}).heap if ring_heap is not None else None
        return lint(self.setup, paths, ring_heap=heap, progress=progress)

    def expand(self, graph: str | Path, routing: str = ROUTING) -> Program:
        """All tasks of a graph in submission order, with the dynamic loops' trips that `routing` says."""
        from runner.driver.recorded import is_recorded, open_recorded

        if is_recorded(graph):
            return open_recorded(self.setup, graph, None if routing == "bound" else routing).program
        return self.setup.program(graph, routing=routing)

    def explain(self, graph: str | Path, node: str) -> Explanation:
        """What a node does, its operands, and who reads what it makes; `node` is a dotted path, or how one ends."""
        from runner.driver.recorded import is_recorded
        from runner.expansion.sharing.texts import texts_of
        from runner.report.explain import explain

        texts = None if is_recorded(graph) else partial(texts_of, graph)
        return explain(self.expand(graph), self.setup.registry, node, texts)

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
        from runner.driver.planning import PlanRequest, plan

        return plan(self.setup, PlanRequest(graph, scheduler, rings=(ring_heap, None, None), **options), say)

    def compare(self, left: str | PlanResult, right: str | PlanResult, **options: Any) -> PlanDifference:
        """Two plans, ring by ring and scope by scope; each a result of `plan`, `GRAPH:STRATEGY`, or a file of `--json`."""
        from runner.driver.compare.compare import compare
        from runner.driver.planning import PlanRequest

        return compare(self.setup, left, right, PlanRequest("", **options))

    def draw(
        self,
        graph: str | Path,
        *,
        level: str = "stage",
        layer: int | None = None,
        scheduler: str | Scheduler = "annotated",
        unfold: bool = False,
    ) -> str:
        """A graph's schedule as DOT; a node is a `layer`, `stage` or `task`, of all layers or of one.

        Layers that are alike are drawn once, unless `unfold`.
        """
        from runner.driver.planning import PlanRequest, place
        from runner.report.dot.dot import to_dot

        return to_dot(place(self.setup, PlanRequest(graph, scheduler)).schedule, level, layer, unfold=unfold)

    def size(
        self,
        *graphs: str,
        scheduler: str = "annotated",
        minpeak: MinpeakOptions | None = None,
        timed: TimedOptions | None = None,
    ) -> SizeResult:
        """The smallest ring sizes known to be safe for all the graphs together; `GRAPH@DEPLOY` says for which deployment."""
        from runner.driver.sizing import size

        return size(self.setup, graphs, scheduler, minpeak, timed=timed)

    def frontier(
        self,
        graph: str | Path,
        num_points: int = 6,
        *,
        routing: str = ROUTING,
        timed: TimedOptions | None = None,
        say: Callable[[str], None] = lambda text: None,
        shown: Callable[[Point], None] = lambda point: None,
    ) -> Frontier:
        """What more bytes buy in time: minpeak within `num_points` budgets between its ends, beside other strategies.

        Routing and `timed` are those of `plan` where they are not given. `say` is told what is planned, `shown` each placement
        when it is found. Ctrl-C after the first raises StoppedFrontier with those that there are.
        """
        from runner.driver.frontier import refuse_large, trace_frontier
        from runner.driver.planning import TimedOptions
        from runner.driver.recorded import is_recorded, open_recorded
        from runner.language.library import GraphLibrary
        from runner.report.frontier import StoppedFrontier

        given = timed or TimedOptions()
        given.check()
        notes, warnings = (), ()
        if is_recorded(graph):
            recorded = open_recorded(self.setup, graph, None if routing == ROUTING else routing)
            program, name, warnings = recorded.program, recorded.recording.name, recorded.recording.sizes.warnings()
            timing = partial(given.of_recorded, recorded)
        else:
            library = GraphLibrary()
            config, program = self.setup.config(graph, library), self.setup.program(graph, routing=routing, library=library)
            name, notes = f"{program.name}, routing {routing}", routing_notes(program, config, routing)
            timing = partial(given.timing, ops=self.setup.registry, dtypes=config.dtypes)
        refuse_large(program, graph)

        def told(found: Frontier) -> Frontier:
            assumed = {"timing": given.as_json(is_recorded(graph)), "routing_notes": tuple(notes)}
            return replace(found, warnings=(*warnings, *found.warnings), **assumed)

        try:
            return told(trace_frontier(program, timing, name, num_points, say, shown))
        except StoppedFrontier as stopped:
            raise StoppedFrontier(told(stopped.found)) from None

    def run(
        self,
        graph: str | Path,
        given: Mapping[str, torch.Tensor] | None = None,
        keep: Sequence[str] = (),
        *,
        scheduler: str | Scheduler = "annotated",
        ring_heap: str | None = None,
        workers: int = 1,
        **options: Any,
    ) -> Ran:
        """A graph, once: `tensors` of the result are those that `keep` names (full names, last names or globs), else the outputs.

        `given` are inputs, weights and states by name; the rest is random by `seed`. Without `ring_heap` there are no rings.
        `options` are other fields of `runner.driver.single.Request`.
        """
        from runner.driver import single

        request = single.Request(str(graph), dump=tuple(keep), given=given or {}, **options)
        placement = self._placement(scheduler, ring_heap, workers)
        return single.run(self.resolve(graph), self.expand(graph), request, self.setup.registry, placement)

    def generate(
        self,
        checkpoint: str | Path,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int = 16,
        *,
        scheduler: str | Scheduler = "annotated",
        ring_heap: str | None = None,
        workers: int = 1,
        **options: Any,
    ) -> Served:
        """Prompts of token ids in, tokens out, on one rank, under the checkpoint's configuration, `config` over it, and `sets`.

        `options` are other fields of `runner.driver.serve.Request`. Raises ConfigError for more ranks.
        """
        from runner.driver import serve

        folder = Path(checkpoint)
        request = serve.Request(folder, tuple(map(tuple, prompts)), max_new_tokens, **options)
        config = serve.prepared(resolve(serve.own_layers(folder, self.setup.configs), self.sets, None, self.ep), request)
        if (ranks := serve.num_ranks(config)) > 1:
            raise ConfigError(f"{ranks} ranks are processes of their own", hint="run 'ringgraph generate'")
        served = serve.serve(config, request, self.setup.registry, self._placement(scheduler, ring_heap, workers))
        assert served is not None, "rank 0 tells what was made"
        return served

    def _placement(self, scheduler: str | Scheduler, ring_heap: str | None, workers: int) -> Placement:
        from runner.serving.session import Placement

        return Placement(
            lambda program: schedule_of(program, scheduler)[0],
            lambda schedules: ring_sizes(schedules, ring_heap, None, None),
            workers,
        )
