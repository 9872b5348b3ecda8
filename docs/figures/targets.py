"""Part `targets`: what minpeak was to reach, what it reaches, and the bound that nothing can pass.

Sizes are of routing `bound`, every loop at its most trips, and so hold for any routing; `annotated` stands beside them. The worst
ring of 1 GiB is in the part `strategies`.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

from docs.figures.cases import BOUND, CASES, Case, mib, safe_bytes, step
from runner.program.program import Program
from runner.rings.capacity import program_peak_live
from schedulers import get_scheduler


@dataclass(frozen=True, slots=True)
class Target:
    """A case and the most MiB that its four rings may take in all, None where none was set."""

    name: str
    case: Case
    most_mib: int | None = None


TARGETS = tuple(Target(entry["name"], Case.of(entry), entry["most_mib"]) for entry in CASES["targets"])


def find(program: Program) -> dict[str, float]:
    """MiB of all four rings, safe for any routing as the program is of routing `bound`; and what no placement does without."""
    sizes = {name: sum(safe_bytes(get_scheduler(name)(program, {"objective": "total"}))) for name in ("minpeak", "annotated")}
    return {
        "minpeak_mib": mib(sizes["minpeak"]),
        "lower_bound_mib": mib(program_peak_live(program)),
        "annotated_mib": mib(sizes["annotated"]),
    }


def targets(some: tuple[Target, ...] = TARGETS) -> list[dict[str, Any]]:
    """A row a target."""
    rows = []
    for target in some:
        with step(f"{target.case.name}, routing {BOUND}"):
            program = target.case.program(BOUND)
        with step(f"minpeak and annotated, {len(program.tasks):,} tasks"):
            rows.append({"program": target.name, "most_mib": target.most_mib} | find(program))
        del program
        gc.collect()
    return rows
