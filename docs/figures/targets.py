"""`make figures`, part `targets`: what minpeak was to reach, what it reaches, and the bound that nothing can pass.

Sizes are of routing `bound`, every loop at its most trips, and so hold for any routing; `annotated` stands beside them. The worst
ring of 1 GiB is in the part `strategies`.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass

from docs.figures.cases import BOUND, MIB, SEED, Case, mib, safe_bytes, step
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
    Target("seed's program, padded, prefill, ep2", Case(SEED, "prefill_fwd", 2), 413),
    Target("the same, ragged, ep8", Case(SEED, "prefill_fwd", 8, (RAGGED,)), 128),
    Target("the same, ragged, chunked, ep8", Case(SEED, "prefill_fwd", 8, (RAGGED, CHUNKED)), 96),
    Target("the same, ragged, chunked, ep2", Case(SEED, "prefill_fwd", 2, (RAGGED, CHUNKED)), 64),
    Target("flash, padded, decode 8x1, ep8", Case(("flash",), "decode_fwd", 8, ("recv_layout=padded",)), 8),
    Target("flash, prefill, ep8, context 4,096", Case(("flash",), "prefill_fwd", 8, ("max_context=4096",))),
    Target("flash, prefill, ep8, context 131,072", Case(("flash",), "prefill_fwd", 8, ("max_context=131072",))),
    Target("the same, chunked", Case(("flash",), "prefill_fwd", 8, ("max_context=131072", CHUNKED))),
)


@dataclass(frozen=True, slots=True)
class Found:
    """Bytes of all four rings by strategy, safe for any routing, and those that no placement does without."""

    minpeak_bytes: int
    annotated_bytes: int
    lower_bound_bytes: int

    def met(self, most_mib: int | None) -> str:
        return "" if most_mib is None else "yes" if self.minpeak_bytes <= most_mib * MIB else "no"


def find(program: Program) -> Found:
    """Both strategies on a program expanded under routing `bound`."""
    minpeak, annotated = (sum(safe_bytes(get_scheduler(name)(program, {}))) for name in ("minpeak", "annotated"))
    return Found(minpeak, annotated, program_peak_live(program))


def print_targets(targets: tuple[Target, ...] = TARGETS) -> None:
    """A line a target, each printed as soon as it is known."""
    print(f"safe capacity of all four rings, MiB, for any routing ({BOUND})")
    _line("target", "at most", "minpeak", "bound", "met", "annotated")
    for target in targets:
        with step(f"{target.case.name}, routing {BOUND}"):
            program = target.case.program(BOUND)
        with step(f"minpeak and annotated, {len(program.tasks):,} tasks"):
            found = find(program)
        del program
        gc.collect()
        sizes = [mib(size, 3) for size in (found.minpeak_bytes, found.lower_bound_bytes)]
        at_most = "" if target.most_mib is None else f"{target.most_mib}"
        _line(target.name, at_most, *sizes, found.met(target.most_mib), mib(found.annotated_bytes))


def _line(name: str, *columns: str) -> None:
    print(f"{name:<42}" + "".join(f"{column:>11}" for column in columns), flush=True)
