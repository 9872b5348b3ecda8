"""Tasks expanded and placed per second, at 10^3 to 10^6 tasks: `make bench`.

The rows of a table differ in size alone, so that the last column shows how near to linear the growth is. A last table shows
programs expanded with and without copies; `RINGGRAPH_BASE=/path/to/another/checkout` sets that one's expansion beside ours, by
turns in one run.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import process_time
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from ops import register_all
from runner.config.config import Config, load_config
from runner.expansion.expander import expand
from runner.language.graph import Graph
from runner.language.library import GraphLibrary, load_graph, shipped_graphs
from runner.models.protocols import Settings
from runner.program.ops import OpRegistry
from runner.program.program import Program
from schedulers.layouts.layouts import annotated

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

Result = TypeVar("Result")

CHAIN = """\
graph: chain
inputs: {x: "f32[64, 32]", n: "i32[1]"}
outputs: {y: "f32[64, 32]"}
body:
  - for: layer
    range: num_layers
    carry: {x: z}
    body:
      - alloc: {z: "f32[64, 32]"}
      - for: i
        range: n[0]
        max: 4
        body:
          - for: j
            range: 2
            body:
              - op: half
                in: {x: "x[16 * i + 8 * j : 16 * i + 8 * j + 8]"}
                out: {y: "z[16 * i + 8 * j : 16 * i + 8 * j + 8]"}
      - {op: half, id: whole, in: {x: z}, out: {y: "w: f32[64, 32]"}}
"""
"""Boxes that are written and read back in short loops: the ordinary path, of which next to nothing is copied."""


def seconds(work: Callable[[], Result]) -> tuple[float, Result]:
    """CPU seconds, which others on the machine disturb less than wall time, and what the work gave."""
    gc.collect()
    start = process_time()
    result = work()
    return process_time() - start, result


def table(title: str, sizes: Sequence[Settings], expanded: Callable[[Settings], Program]) -> None:
    names = f"{'tasks':>10} {'expand s':>9} {'tasks/s':>9} {'place s':>9} {'tasks/s':>9}"
    print(f"\n{title}\n{names} {'us a task, against the first row':>34}")
    first = None
    for config in sizes:
        expanding, program = seconds(lambda config=config: expanded(config))
        placing, schedule = seconds(lambda program=program: annotated(program, {}))
        num = len(program.tasks)
        assert len(schedule.submissions) == num
        each = (expanding + placing) / num * 1e6
        first = first or each
        rates = f"{expanding:9.2f} {num / expanding:9,.0f} {placing:9.2f} {num / placing:9,.0f}"
        print(f"{num:10,} {rates} {each:25.1f} {each / first:7.2f}x", flush=True)
        del program, schedule


def registry() -> OpRegistry:
    ops = OpRegistry()
    register_all(ops)
    ops.op("half", "x: f32[N, M] -> y: f32[N, M]", core="AIV")(lambda **_: None)
    return ops


def with_layers(num: int, sets: list[str], ep: int | None = None) -> Config:
    ratios = ([0, 0, *[4, 128] * num])[:num]
    return load_config(["flash"], [f"num_hidden_layers={num}", f"compress_ratios={ratios}", *sets], "prefill", ep)


def loaded(path: Path) -> tuple[Graph, GraphLibrary]:
    """A graph, and all others parsed already."""
    library = GraphLibrary()
    for shipped in shipped_graphs().values():
        library.load(shipped)
    return load_graph(path), library


def test_prefill_with_every_row_tile():
    ops, (graph, library) = registry(), loaded(shipped_graphs()["prefill_fwd"])
    padded = [with_layers(num, [f"recv_max={rows}", "recv_layout=padded"], 8) for num, rows in ((1, 16), (3, 64), (11, 128))]
    sizes = [*padded, *[with_layers(num, [], 8) for num in (11, 43, 70)]]
    table("flash prefill at ep8", sizes, lambda config: expand(graph, config, ops, library=library))


def test_chain_of_boxes(tmp_path):
    (tmp_path / "chain.yaml").write_text(CHAIN)
    ops, (graph, library) = registry(), loaded(tmp_path / "chain.yaml")
    sizes: list[Any] = [SimpleNamespace(values={"num_layers": num}, dtypes={}) for num in (100, 1_000, 10_000, 100_000)]
    table("chain of boxes in short loops", sizes, lambda config: expand(graph, config, ops, library=library))


EXPANSION = """\
import gc, sys
from time import process_time
from ops import register_all
try:
    from runner.config.config import load_config
    from runner.expansion.expander import expand_all
    from runner.language.library import GraphLibrary, load_graph, shipped_graphs
    from runner.program.ops import OpRegistry
except ImportError:  # before modules had rooms
    from runner.config import load_config
    from runner.expand import expand_all
    from runner.loader import GraphLibrary, load_graph, shipped_graphs
    from runner.registry import OpRegistry
name, stamp, *sets = sys.argv[1:]
config = load_config(["flash"], sets, name.partition("_")[0], 8)
ops, library = OpRegistry(), GraphLibrary()
register_all(ops)
for shipped in shipped_graphs().values():
    library.load(shipped)
graph = load_graph(shipped_graphs()[name])
start = process_time()
program = expand_all(graph, config, ops, library=library, stamp=stamp == "copies").program
print(process_time() - start, len(program.tasks))
"""
"""What a checkout of its own process does; expansion alone is timed."""

EIGHT_LAYERS = ("num_hidden_layers=8", "compress_ratios=[0, 0, 4, 128, 4, 128, 4, 128, 0]")
PROGRAMS = {"prefill": ("prefill_fwd", ()), "prefill, 8 layers": ("prefill_fwd", EIGHT_LAYERS), "decode": ("decode_fwd", ())}
ROUNDS = 4
SLOWER = 1.1
"""How much more CPU than the other checkout an expansion may take before that is no noise."""


def expansion(root: Path, name: str, sets: Sequence[str], stamp: str) -> tuple[float, int]:
    """CPU seconds that a checkout needs to expand a graph, and how many tasks there are."""
    command = [sys.executable, "-c", EXPANSION, name, stamp, *sets]
    done = subprocess.run(
        command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True, check=True
    )
    elapsed_s, num_tasks = done.stdout.split()
    return float(elapsed_s), int(num_tasks)


def test_what_copies_save():
    ours, base = Path(__file__).parents[2], os.environ.get("RINGGRAPH_BASE")
    kinds = {"copies": (ours, "copies"), "none": (ours, "none")} | ({"base": (Path(base), "copies")} if base else {})
    print(f"\nflash at ep8, CPU seconds, the least of {ROUNDS}")
    print(f"{'':20} {'tasks':>9} {'copies':>7} {'without':>8} {'ratio':>6} {'base':>7} {'ratio':>6}")
    for title, (name, sets) in PROGRAMS.items():
        best = dict.fromkeys(kinds, float("inf"))
        sizes = set()
        for _ in range(ROUNDS):
            for kind, (root, stamp) in kinds.items():
                elapsed_s, num_tasks = expansion(root, name, sets, stamp)
                best[kind] = min(best[kind], elapsed_s)
                sizes.add(num_tasks)
        (size,) = sizes
        row = f"{title:20} {size:9,} {best['copies']:7.2f} {best['none']:8.2f} {best['copies'] / best['none']:6.2f}"
        print(row + (f" {best['base']:7.2f} {best['copies'] / best['base']:6.2f}" if base else ""), flush=True)
        assert best["copies"] < best["none"]
        assert best["copies"] < SLOWER * best.get("base", best["copies"])
