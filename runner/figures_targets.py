"""`make figures`, part `targets`: what minpeak was to reach, what it reaches, and the bound that nothing can pass."""

from __future__ import annotations

from dataclasses import dataclass

from runner.capacity import program_peak_live, ring_loads, safe_heap
from runner.commands_common import console, table
from runner.figures_cases import BOUND, MIB, RANDOM, Case, mib, step
from runner.figures_strategies import GIB, compare
from schedulers import get_scheduler

SEED = ("flash", "seed")
WORST_TARGET_PERCENT = 52.0
PADDED = Case(SEED, "prefill_fwd", 2)


@dataclass(frozen=True, slots=True)
class Target:
    """A case and the most MiB that its four rings may take in all."""

    name: str
    case: Case
    most_mib: float


TARGETS = (
    Target("seed's program, padded, prefill, ep2", PADDED, 413),
    Target("the same, ragged, ep8", Case(SEED, "prefill_fwd", 8, ("recv_layout=ragged",)), 128),
    Target("the same, ragged, chunked, ep8", Case(SEED, "prefill_fwd", 8, ("recv_layout=ragged", "chunked=true")), 96),
    Target("the same, ragged, chunked, ep2", Case(SEED, "prefill_fwd", 2, ("recv_layout=ragged", "chunked=true")), 64),
    Target("flash, padded, decode 8x1, ep8", Case(("flash",), "decode_fwd", 8, ("recv_layout=padded",)), 8),
)


def total_and_bound(case: Case) -> tuple[int, int]:
    """Bytes of minpeak's four rings, safe for any routing, and the lower bound."""
    with step(f"{case.name}, minpeak, routing {BOUND}"):
        program = case.program(BOUND)
        schedule = get_scheduler("minpeak")(program, {})
        return sum(safe_heap(load) for load in ring_loads(schedule)), program_peak_live(program)


def print_targets() -> None:
    """The table of targets; totals in MiB hold for any routing."""
    out = table("target", "at most>", "found>", "lower bound>", "met", title="safe capacity of all four rings, MiB, any routing")
    for target in TARGETS:
        total, bound = total_and_bound(target.case)
        out.add_row(target.name, f"{target.most_mib:,.0f}", mib(total), mib(bound), _met(total <= target.most_mib * MIB))
    console().print(out)
    rows = compare(PADDED, {"total": ("minpeak", {}), "worst": ("minpeak", {"objective": "worst"})})
    title = f"\nseed's program, padded, prefill, ep2: worst ring of 1 GiB under timed, routing {RANDOM}, %"
    out = table("objective", "at most>", "found>", "lower bound>", "met", title=title)
    largest = max(tensor.spec.size_bytes for tensor in PADDED.program(RANDOM).tensors if tensor.is_local)
    for row in rows:
        floor = 100 * max(largest, row.lower_bound_bytes / len(row.safe_bytes)) / GIB  # one ring holds a fourth, and the largest
        found = row.timed_percent if row.timed_percent is not None else float("inf")
        out.add_row(
            row.strategy, f"{WORST_TARGET_PERCENT:.0f}", f"{found:.1f}", f"{floor:.1f}", _met(found <= WORST_TARGET_PERCENT)
        )
    console().print(out)


def _met(yes: bool) -> str:
    return "yes" if yes else "no"
