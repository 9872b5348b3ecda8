"""`make figures`: what docs/memory-model.md and docs/minpeak.md show, worked out again.

    python -m docs.figures [seed|strategies|targets|frontier ...]     all of them without arguments

seed        the seed's table from our own graphs, beside the traced program
strategies  all strategies on prefill and decode of flash
targets     what minpeak was to reach
frontier    bytes against time, drawn to docs/images/frontier.svg
"""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path

from docs.figures.cases import RANDOM, Case
from docs.figures.seed import print_seed
from docs.figures.strategies import print_strategies
from docs.figures.targets import print_targets
from runner.base.errors import RinggraphError
from runner.cli.sizing import print_frontier, say
from runner.driver.frontier import trace_frontier
from runner.report.frontier import draw_frontier
from runner.rings.timed import uniform_timing

EIGHT_LAYERS = ("num_hidden_layers=8", "compress_ratios=[0, 0, 4, 128, 4, 128, 4, 128, 0]")
"""Layers of every kind, a fifth of the tasks: each point of the frontier is a plan of its own."""
FRONTIER_TITLE = f"flash prefill, 8 of 43 layers, 8 ranks, 128 tokens, routing {RANDOM}, 20 µs a task"
FRONTIER = Path(__file__).parents[1] / "images" / "frontier.svg"


def frontier() -> None:
    """Prefill of flash cut to eight layers, on eight ranks, timed as in the other parts."""
    case, timing = Case(("flash",), "prefill_fwd", 8, EIGHT_LAYERS), uniform_timing(0.5, 20)
    found = trace_frontier(case.program(RANDOM), lambda schedule: timing, FRONTIER_TITLE, 3, say)
    draw_frontier(found, FRONTIER)
    print_frontier(found)
    print(f"drawn to {FRONTIER.name}")


PARTS = {"seed": print_seed, "strategies": print_strategies, "targets": print_targets, "frontier": frontier}


def main() -> None:
    """Print the parts asked for, each under its name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}")
    given = parser.parse_args().parts
    if unknown := [name for name in given if name not in PARTS]:
        parser.error(f"unknown part '{unknown[0]}': expected any of {', '.join(PARTS)}")
    gc.disable()  # a large plan is millions of objects, hardly any in cycles; parts collect where they drop one
    for name in given or PARTS:
        print(f"\n== {name} ==", flush=True)
        print(f"{name}:", file=sys.stderr)
        PARTS[name]()


if __name__ == "__main__":
    try:
        main()
    except RinggraphError as problem:
        sys.exit(f"error: {problem}")
