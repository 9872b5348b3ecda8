"""`make figures`, part `targets`: what minpeak was to reach, what it reaches, and the bound that nothing can pass.

Sizes are of routing `bound`, every loop at its most trips, and so hold for any routing; `annotated` stands beside them.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass

from runner.capacity import program_peak_live
from runner.figures_cases import BOUND, MIB, RANDOM, SEED, Case, mib, safe_bytes, step
from runner.figures_strategies import GIB, Row, compare
from runner.program import Program
from schedulers import get_scheduler

WORST_TARGET_PERCENT = 52.0
RAGGED, CHUNKED = "recv_layout=ragged", "chunked=true"
PADDED = Case(SEED, "prefill_fwd", 2)


@dataclass(frozen=True, slots=True)
class Target:
    """A case and the most MiB that its four rings may take in all, None where none was set."""

    name: str
    case: Case
    most_mib: int | None = None


TARGETS = (
    Target("seed's program, padded, prefill, ep2", PADDED, 413),
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


def print_targets(targets: tuple[Target, ...] = TARGETS, padded: Case = PADDED) -> None:
    """A line a target, each printed as soon as it is known; then the worst ring of `padded`."""
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
    _print_worst(padded)


def _print_worst(case: Case) -> None:
    program = case.program(RANDOM)
    largest = max(tensor.spec.size_bytes for tensor in program.tensors if tensor.is_local)
    print(f"\n{case.name}: worst ring of 1 GiB under timed, %, routing {RANDOM}")
    _line("minpeak, objective", "at most", "found", "bound", "met")
    for row in compare(program, {name: ("minpeak", {"objective": name}) for name in ("total", "worst")}):
        found = float("inf") if row.timed_percent is None else row.timed_percent
        met = "yes" if found <= WORST_TARGET_PERCENT else "no"
        _line(row.strategy, f"{WORST_TARGET_PERCENT:.0f}", f"{found:.1f}", f"{floor_percent(row, largest):.1f}", met)


def floor_percent(row: Row, largest_bytes: int) -> float:
    """What the worst ring shows at least: one ring holds a fourth of what is live at once, and one the largest block."""
    return 100 * max(largest_bytes, row.lower_bound_bytes / len(row.safe_bytes)) / GIB


def _line(name: str, *columns: str) -> None:
    print(f"{name:<42}" + "".join(f"{column:>11}" for column in columns), flush=True)
