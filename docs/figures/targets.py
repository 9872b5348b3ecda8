"""Part `targets`: what minpeak was to reach, what it reaches, and the bound that nothing can pass.

Sizes are of routing `bound`, every loop at its most trips, and so hold for any routing; `annotated` stands beside them. The worst
ring of 1 GiB is in the part `strategies`.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

from docs.figures.cases import BOUND, SEED, Case, mib, safe_bytes, step
from runner.program.program import Program
from runner.rings.capacity import program_peak_live
from schedulers import get_scheduler

RAGGED, CHUNKED = "recv_layout=ragged", "chunked=true"


@dataclass(frozen=True, slots=True)
class Target:
    """A case and the most MiB that its four rings may take in all, None where none was set."""

    name: str
    case: Case
    most_mib: int | None = None


TARGETS = (
    Target("seed's program, padded, ep2", Case(SEED, "prefill_fwd", 2), 413),
    Target("the same, ragged, ep8", Case(SEED, "prefill_fwd", 8, (RAGGED,)), 128),
    Target("the same, ragged, chunked, ep8", Case(SEED, "prefill_fwd", 8, (RAGGED, CHUNKED)), 96),
    Target("the same, ragged, chunked, ep2", Case(SEED, "prefill_fwd", 2, (RAGGED, CHUNKED)), 64),
    Target("flash, padded, decode 8x1, ep8", Case(("flash",), "decode_fwd", 8, ("recv_layout=padded",)), 8),
    Target("flash, ragged, ep8, context 4,096", Case(("flash",), "prefill_fwd", 8, ("max_context=4096",))),
    Target("flash, ragged, ep8, context 131,072", Case(("flash",), "prefill_fwd", 8, ("max_context=131072",))),
    Target("the same, chunked", Case(("flash",), "prefill_fwd", 8, ("max_context=131072", CHUNKED))),
)


def find(program: Program) -> dict[str, float]:
    """MiB of all four rings, safe for any routing as the program is of routing `bound`; and what no placement does without."""
    sizes = {name: sum(safe_bytes(get_scheduler(name)(program, {}))) for name in ("minpeak", "annotated")}
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
