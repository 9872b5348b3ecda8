"""What every command begins with: all ops, and a graph's configuration, program, verified schedule and rings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.base.errors import ConfigError, GraphError, RinggraphError
from runner.rings.defaults import ROUTING

if TYPE_CHECKING:
    from runner.base.errors import Diagnostic
    from runner.config.config import Config
    from runner.language.graph import Graph
    from runner.language.library import GraphLibrary
    from runner.program.ops import OpRegistry
    from runner.program.program import Program
    from runner.rings.placement import Scheduler
    from runner.rings.schedule import Schedule
    from runner.rings.sizes import Four, RingSizes

DEFAULT_CONFIG = ("tiny",)
RING_VARIABLES = ("PTO2_RING_HEAP", "PTO2_RING_TASK_WINDOW", "PTO2_RING_DEP_POOL")


@cache
def registry() -> OpRegistry:
    """All ops: ours, and those that other packages declare by entry point; raises RinggraphError."""
    import ops as ours
    from runner.program.ops import OpRegistry

    found = OpRegistry()
    if not hasattr(ours, "register_all"):
        hint = "call it otherwise, or start ringgraph in another folder"
        raise RinggraphError(f"'{getattr(ours, '__file__', 'ops')}' hides ringgraph's own package 'ops'", hint=hint)
    ours.register_all(found)
    return found


@dataclass(frozen=True)
class Setup:
    """What graphs are expanded with: configuration layers, `key=value` over them, a deployment, ranks, and ops besides ours: a
    table, or Python files (`runner.program.op_files`)."""

    configs: Sequence[str | Path] = ()
    sets: Sequence[str] = ()
    deploy: str | None = None
    ep: int | None = None
    ops: OpRegistry | Sequence[str | Path] | None = None

    @cached_property
    def op_files(self) -> tuple[str | Path, ...]:
        """The Python files that bring ops: those that are given, and those that layers name."""
        from runner.config.config import op_files_of

        given = () if self.ops is None or isinstance(self.ops, Mapping) else self.ops
        return *given, *op_files_of(self.configs)

    @cached_property
    def registry(self) -> OpRegistry:
        """All ops that graphs may use; raises RinggraphError where two have one name, or a file cannot be used."""
        from runner.program.op_files import ops_of_files
        from runner.program.ops import OpRegistry

        given = self.ops if isinstance(self.ops, OpRegistry) else OpRegistry()
        if not given and not self.op_files:
            return registry()
        both = OpRegistry()
        try:
            for definition in (*registry().values(), *given.values(), *ops_of_files(self.op_files).values()):
                both.add(definition)
        except RinggraphError as error:
            raise error if isinstance(error, ConfigError) else ConfigError(error.message, hint=error.hint) from error
        return both

    def config(self, graph: str | Path | None = None, library: GraphLibrary | None = None) -> Config:
        """The configuration, for a graph that may say its own deployment; raises ConfigError or GraphError."""
        return resolve(self.configs, self.sets, self.deploy, self.ep, graph, library, lambda: self.registry)

    def program(self, graph: str | Path, *, routing: str = ROUTING, library: GraphLibrary | None = None) -> Program:
        """A graph, expanded under its configuration."""
        from runner.language.library import GraphLibrary

        library = library or GraphLibrary()
        return program_of(graph, self.config(graph, library), routing=routing, library=library, ops=self.registry)


def resolve(
    configs: Sequence[str | Path],
    sets: Sequence[str] = (),
    deploy: str | None = None,
    ep: int | None = None,
    graph: str | Path | None = None,
    library: GraphLibrary | None = None,
    ops: Callable[[], OpRegistry] = registry,
) -> Config:
    """The configuration of the options. Without `deploy`, a graph's own deployment, if it names one, else the default one.

    `ops` gives the ops that a graph may use, whose params may be fields of the configuration. Raises ConfigError, and GraphError
    where the graph has to be read and cannot.
    """
    from runner.checkpoint.own_config import with_flavour
    from runner.config.config import load_config
    from runner.language.library import GraphLibrary, find_graph, with_source_lines

    layers = tuple(map(with_flavour, configs)) or _layers_of(graph)
    if deploy is not None or graph is None:
        return load_config(layers, tuple(sets), deploy, ep)
    library = library or GraphLibrary()
    try:
        read = library.load(find_graph(graph))
    except GraphError as error:
        raise _by_phase(error, str(graph), layers, sets) from None
    if layers == DEFAULT_CONFIG and not configs and not sets and ep is None and _needs_nothing(read, library, ops):
        return load_config(())
    said = read.deploy
    try:
        return load_config(layers, tuple(sets), said and said.value, ep, deploy_mark=said and said.mark)
    except ConfigError as error:
        if said is None or not error.diagnostics:
            raise
        raise ConfigError(with_source_lines(list(error.diagnostics), {read.file: read.lines})) from None


def _layers_of(graph: str | Path | None) -> tuple[str | Path, ...]:
    """The layers where none are given: those of the family in whose folder the graph lies, else the default ones."""
    from runner.config.config import layers_beside
    from runner.language.library import find_graph

    try:
        return (graph is not None and layers_beside(find_graph(graph))) or DEFAULT_CONFIG
    except GraphError:  # it is told when the graph is read
        return DEFAULT_CONFIG


def _by_phase(error: GraphError, graph: str, layers: Sequence[Any], sets: Sequence[str]) -> GraphError:
    """The same, where a graph is called as the family calls a phase with what that graph's name is."""
    from runner.config.config import load_config
    from runner.models.protocols import PHASES

    if graph not in PHASES:
        return error
    try:
        config = load_config(layers, tuple(sets))
        name = config.family.serving(config).graphs[graph]
    except (RinggraphError, KeyError):
        return error
    hint = f"did you mean '{name}'? So '{config.name}' calls its graph for {graph}"
    return GraphError([replace(found, hint=hint) for found in error.diagnostics])


def _needs_nothing(graph: Graph, library: GraphLibrary, ops: Callable[[], OpRegistry]) -> bool:
    """Whether a graph, with all that it uses, has no deployment and mentions no name of the configuration that is taken without
    any, nor has an op with a param that is one; of what it has itself, only names count that it does not declare."""
    from runner.language.graph import Op
    from runner.language.walk import all_items, mentioned, own_names, type_parameters, used_graphs

    graphs = [graph, *used_graphs(graph, library)]
    if any(one.deploy is not None for one in graphs):
        return False
    known, dtypes = _default_names()
    values = {name for one in graphs for name in mentioned(one, library) - own_names(one)}
    for item in (item for one in graphs for item in all_items(one.body) if isinstance(item, Op)):
        params = found.params if (found := ops().get(item.op.value)) is not None else {}
        values |= {default for name, default in params.items() if isinstance(default, str) and name not in item.attrs}
    return not (values & known or {name for one in graphs for name in type_parameters(one)} & dtypes)


@cache
def _default_names() -> tuple[frozenset[str], frozenset[str]]:
    """The names and the dtypes of the configuration that is taken without any, which is part of our code."""
    from runner.config.config import load_config

    default = load_config(DEFAULT_CONFIG)
    return frozenset(default.values), frozenset(default.dtypes)


def program_of(
    graph: str | Path,
    config: Config,
    *,
    routing: str = ROUTING,
    library: GraphLibrary | None = None,
    ops: OpRegistry | None = None,
) -> Program:
    """A graph, by path or shipped name, expanded under a configuration; `routing` says how many trips dynamic loops make."""
    from runner.expansion.expander import expand
    from runner.language.library import GraphLibrary, find_graph

    library = library or GraphLibrary()
    trips, experts = config.family.trip_counts(routing, config), config.family.routed_experts
    decides = None if experts is None else experts.decides
    loaded = library.load(find_graph(graph))
    return expand(loaded, config, ops or registry(), library=library, trips=trips, decides=decides)


def routing_notes(program: Program, config: Config, routing: str) -> list[str]:
    """What a routing does not decide in a program, in sentences: dynamic loops of anything but rows of experts."""
    from runner.expansion.trip_counts import is_decided
    from runner.program.spans import host_reads

    experts = config.family.routed_experts
    if routing == ROUTING or experts is None:
        return []
    loops = {trips.path: trips for _, trips in host_reads(program.body)}
    others = [path for path, trips in loops.items() if not is_decided(trips, program, experts.decides)]
    notes = []
    if len(others) == len(loops):
        notes.append(f"--routing {routing} has no effect: no loop of '{program.name}' depends on the rows of experts")
    elif others:
        notes.append(f"--routing {routing} decides loops over rows of experts alone; '{others[0]}'")
        notes[-1] += " makes its most trips" if len(others) == 1 else f" and {len(others) - 1:,} others make their most trips"
    return notes


def schedule_of(
    program: Program, scheduler: str | Scheduler, *, given: Mapping[str, object] | None = None, unchecked: bool = False
) -> tuple[Schedule, list[Diagnostic]]:
    """A strategy's schedule, verified, and warnings: the edges that a manual scope lacks, if `unchecked`. Raises ScheduleError.

    `given` are the strategy's options.
    """
    from runner.verify.verify import check
    from schedulers import get_scheduler

    strategy = get_scheduler(scheduler) if isinstance(scheduler, str) else scheduler
    schedule = strategy(program, given or {})
    return schedule, check(schedule, allow_missing_edges=unchecked)


def usable_device(name: str) -> str:
    """`name` if torch can use that device here; raises ConfigError."""
    import torch

    try:
        if name.partition(":")[0] == "npu":
            import_module("torch_npu")
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"device '{name}' cannot be used here: {reason}") from error
    return name


def set_threads(threads: int | None, config: Config) -> None:
    """Torch's threads per op: as given, else as OMP_NUM_THREADS says, else as many as processors are free.

    A narrow model gets one: its ops are too short to be worth waking another.
    """
    import torch

    from runner.base.threads import free_processors, is_given

    if threads is None and not is_given():
        threads = 1 if config.family.is_narrow(config) else min(free_processors(), torch.get_num_threads())
    if threads is not None:
        torch.set_num_threads(threads)


def ring_sizes(
    schedules: Sequence[Schedule], heap: str | None, window: str | None, pool: str | None, *, unchecked: bool = False
) -> RingSizes | None:
    """The rings of the options and environment, None where neither asks for any; `safe` stands for the sizes known to be safe.

    Raises ScheduleError when a schedule can deadlock in them, unless `unchecked`.
    """
    from runner.rings.common_sizes import refuse_deadlock, safe_sizes
    from runner.rings.sizes import RingSizes

    set_outside = any(os.environ.get(name, "").strip() for name in RING_VARIABLES)
    if not set_outside and all(text is None for text in (heap, window, pool)):
        return None
    if heap == "safe":
        sizes = safe_sizes(schedules)
        sizes = RingSizes(sizes.heap, *_given_counts(sizes, window, pool))
    else:
        sizes = RingSizes.resolve(heap, window, pool)
    if not unchecked:
        refuse_deadlock(schedules, sizes)
    return sizes


def _given_counts(safe: RingSizes, window: str | None, pool: str | None) -> tuple[Four, Four]:
    """Windows and pools: as given, else as safe."""
    from runner.rings.sizes import RingSizes

    given = RingSizes.resolve(None, window, pool, {})
    return (given.window if window else safe.window), (given.pool if pool else safe.pool)
