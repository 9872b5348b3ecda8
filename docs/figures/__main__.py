"""`make figures`: what docs/memory-model.md and docs/minpeak.md show, worked out again, kept as data and put into the pages.

    python -m docs.figures [seed|strategies|targets|frontier|balanced ...]     all of them without arguments
    python -m docs.figures render                                              the pages from the data as they are

seed        the seed's table from our own graphs, beside the traced program
strategies  all strategies on prefill and decode of flash
targets     what minpeak was to reach
frontier    bytes against time, drawn to docs/images/frontier.svg too
balanced    the same for four programs, with the balanced point, beside what it was to reach
"""

from __future__ import annotations

import argparse
import gc
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from docs.figures.balanced import balanced
from docs.figures.cases import CASES, RANDOM, Case
from docs.figures.seed import seed
from docs.figures.strategies import strategies
from docs.figures.tables import TABLES, render, render_pages, save
from docs.figures.targets import targets
from runner import Driver, RinggraphError, TimedOptions
from runner.report.frontier import draw_frontier

FRONTIER_TITLE = f"flash prefill, 8 of 43 layers, 8 ranks, 128 tokens, routing {RANDOM}, 20 µs a task"
FRONTIER = Path(__file__).parents[1] / "images" / "frontier.svg"


def frontier() -> dict[str, Any]:
    """Prefill of flash cut to eight layers, on eight ranks, timed as in the other parts.

    They are layers of every kind, a fifth of the tasks: each point of the frontier is a plan of its own.
    """
    case = Case.of(CASES["frontier"])
    timing = TimedOptions(0.5, 20, "unlimited")
    found = Driver(case.configs, case.sets, ep=case.ep).frontier(
        case.graph, 3, routing=RANDOM, timed=timing, say=lambda text: print(f"  {text}", file=sys.stderr, flush=True)
    )
    found = replace(found, name=FRONTIER_TITLE)
    draw_frontier(found, FRONTIER)
    return found.as_json()


PARTS = {"seed": seed, "strategies": strategies, "targets": targets, "frontier": frontier, "balanced": balanced}


def main() -> None:
    """Work out the parts asked for, print their tables, and write data and pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}, or render")
    given = parser.parse_args().parts
    if unknown := [name for name in given if name not in (*PARTS, "render")]:
        parser.error(f"unknown part '{unknown[0]}': expected any of {', '.join(PARTS)}, render")
    gc.disable()  # a large plan is millions of objects, hardly any in cycles; parts collect where they drop one
    for name in [name for name in given if name != "render"] if given else PARTS:
        print(f"{name}:", file=sys.stderr)
        save(name, PARTS[name]())
        for shown in [shown for shown, (source, _) in TABLES.items() if source == name]:
            print(f"\n== {shown} ==\n{render(shown)}", flush=True)
    for page in render_pages():
        print(f"wrote {page.name}")


if __name__ == "__main__":
    try:
        main()
    except RinggraphError as problem:
        sys.exit(f"error: {problem}")
