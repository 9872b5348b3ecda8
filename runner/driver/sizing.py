"""What `ringgraph size` works out: ring sizes for a device that runs a set of graphs on the same rings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from runner.base.errors import ConfigError
from runner.driver.driver import Setup, program_of, schedule_of
from runner.driver.planning import MinpeakOptions, Say, TimedOptions
from runner.driver.recorded import is_recorded, open_recorded
from runner.language.library import GraphLibrary, find_graph
from runner.rings.common_sizes import DeviceSizes, device_sizes
from runner.rings.defaults import ROUTING


@dataclass(frozen=True, slots=True)
class SizeResult:
    """Sizes that serve every graph; `names` are the graphs, each with its deployment (`GRAPH@DEPLOY`)."""

    scheduler: str
    names: tuple[str, ...]
    found: DeviceSizes
    timing: TimedOptions | None = None
    routing: str = ROUTING
    """Sizes that hold for any routing are of the most trips."""
    num_recorded: int = 0
    """Graphs that are recorded programs, which are timed as recorded but for what options say."""
    warnings: tuple[str, ...] = ()
    """What is to be said of the capacities with which programs were recorded."""

    def as_json(self) -> dict[str, Any]:
        """The object of `ringgraph size --json`; `timing` is what runs were timed under, null if none was."""
        timing = None if self.timing is None else self.timing.as_json(self.num_recorded == len(self.names))
        told = {"scheduler": self.scheduler, "routing": self.routing, "timing": timing, "warnings": [*self.warnings]}
        return told | self.found.as_json()


def size(
    setup: Setup,
    graphs: Sequence[str],
    scheduler: str = "annotated",
    minpeak: MinpeakOptions | None = None,
    say: Say | None = None,
    timed: TimedOptions | None = None,
) -> SizeResult:
    """The smallest ring sizes known to be safe for all the graphs together; raises RinggraphError.

    `timed` is what plans of minpeak are timed under, recorded programs as recorded but for what it says.
    """
    library, options, timed = GraphLibrary(), minpeak or MinpeakOptions(), timed or TimedOptions()
    given = options.mapping() | {"progress": say}
    timed.check()
    schedules, names, warnings = [], [], []
    for graph, deploy in deployments(graphs, setup.deploy, lambda graph: _said(library, graph)):
        if is_recorded(graph):
            recorded = open_recorded(replace(setup, deploy=deploy), graph)
            as_recorded = partial(timed.of_recorded, recorded)
            schedules.append(schedule_of(recorded.program, scheduler, given=given | {"timing": as_recorded})[0])
            names.append(recorded.recording.name)
            warnings += [f"{recorded.recording.name}: {warning}" for warning in recorded.recording.sizes.warnings()]
            continue
        config = replace(setup, deploy=deploy).config(graph, library)
        program = program_of(graph, config, library=library, ops=setup.registry)
        timing = partial(timed.timing, ops=setup.registry, dtypes=config.dtypes)
        schedules.append(schedule_of(program, scheduler, given=given | {"timing": timing})[0])
        names.append(f"{Path(graph).stem}@{config.deploy}" if config.deploy else Path(graph).stem)
    is_timed = scheduler == "minpeak" and (options.objective in (None, "balanced", "makespan") or options.budget is not None)
    found = device_sizes(schedules, names)
    num_recorded = sum(map(is_recorded, graphs))
    return SizeResult(scheduler, tuple(names), found, timed if is_timed else None, ROUTING, num_recorded, tuple(warnings))


def deployments(graphs: Sequence[str], deploy: str | None, said: Callable[[str], str | None]) -> list[tuple[str, str | None]]:
    """Each graph with the deployment to give it, None for what it says itself; `said` tells that.

    `GRAPH@DEPLOY` has its own. `deploy` is for all others, which then must not say different ones: sizes for a prefill that
    were worked out for a decode step would be far too small. Raises ConfigError.
    """
    named = [graph.rpartition("@")[::2] if "@" in graph else (graph, "") for graph in graphs]
    if deploy is not None:
        own = {graph: found for graph, given in named if not given and (found := said(graph)) is not None}
        if len(set(own.values())) > 1:
            told = ", ".join(f"'{graph}' for '{found}'" for graph, found in own.items())
            raise ConfigError(
                f"--deploy {deploy} is given for graphs of several deployments: {told}",
                hint=f"give it to those that it is meant for, as in {next(iter(own))}@{deploy}",
            )
    return [(graph, given or deploy) for graph, given in named]


def _said(library: GraphLibrary, graph: str) -> str | None:
    if is_recorded(graph):
        return None
    found = library.load(find_graph(graph)).deploy
    return None if found is None else found.value
