"""Programs of the graphs that ringgraph ships."""

from __future__ import annotations

from runner.driver.driver import registry, resolve
from runner.expansion.expander import expand
from runner.language.library import GraphLibrary, find_graph
from runner.program.program import Program


def shipped_program(graph: str) -> Program:
    """A shipped graph under a small configuration of its family, random routing."""
    is_qwen3 = graph.startswith("qwen3")
    sets = [] if is_qwen3 else ["num_hidden_layers=3", "compress_ratios=[0,4,128,0]"]
    config = resolve(["qwen3-tiny" if is_qwen3 else "tiny"], sets, None, None, graph)
    library = GraphLibrary()
    trips = None if is_qwen3 else config.family.trip_counts("random:0", config)
    return expand(library.load(find_graph(graph)), config, registry(), library=library, trips=trips)
