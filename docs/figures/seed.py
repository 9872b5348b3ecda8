"""`make figures`, part `seed`: the seed's table from our own graphs, beside the traced program, and block by block against it.

Prints what `docs/memory-model.md` explains. The traces lie in `tests/data/seed-program/` of a checkout; without them the
comparison is skipped, aloud.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, zip_longest
from pathlib import Path

from docs.figures.cases import SEED, Case
from runner.cli.shared import console, table
from runner.program.program import Program
from runner.recorded.programs import read_trace
from runner.recorded.scope_stats import ring_stats
from runner.rings.capacity import least_heap, ring_loads
from runner.rings.schedule import Begin, End, Schedule, Submit
from runner.rings.sizes import RingSizes
from runner.rings.steps import StepWalk
from runner.rings.timed import timed, uniform_timing
from schedulers import get_scheduler

GIB, MIB = 2**30, 2**20
TRACES = Path(__file__).parents[2] / "tests" / "data" / "seed-program"


@dataclass(frozen=True, slots=True)
class Variant:
    """One variant of the seed's program: our strategy, its trace, and the high-water that the seed reported."""

    strategy: str
    trace: str
    reported_percent: float


VARIANTS = (Variant("unscoped", "a", 126.0), Variant("manual", "b", 90.6), Variant("auto", "c", 71.2))


@dataclass(frozen=True, slots=True)
class Figures:
    """Worst ring by scope_high_water under `timed` in 1 GiB rings, and the least capacities, in bytes."""

    high_water_percent: float
    ring: int
    least_bytes: tuple[int, ...]


def figures_of(schedule: Schedule) -> Figures:
    """0.5 us a submission, 20 us a task, workers without limit."""
    replay = timed(schedule, RingSizes().with_heap([GIB] * 4), uniform_timing(0.5, 20))
    worst = max(ring_stats(replay), key=lambda stats: stats.high_water_bytes)
    least = tuple(least_heap(load) if load.epochs else 0 for load in ring_loads(schedule))
    return Figures(100 * worst.high_water_bytes / GIB, worst.ring, least)


def seed_program(routing: str = "random:0") -> Program:
    """The seed's prefill: flash with the reference's constants, two ranks, one prompt of 128 tokens."""
    return Case(SEED, "prefill_fwd", 2).program(routing)


# --- blocks -----------------------------------------------------------------------------------------------------------


def stages(schedule: Schedule) -> Iterator[tuple[int | None, str]]:
    """Per scope just below the root its index, and per block of the root None, each with the blocks' bytes in order.

    `3x32,768` stands for three equal blocks in a row, braces for an inner scope.
    """
    sizes, scope = [], 0
    walk = StepWalk(schedule)
    for step in walk:
        depth = len(walk.scopes)
        if isinstance(step, Begin):
            if depth == 2:
                sizes, scope = [], step.scope
            elif depth > 2:
                sizes.append("{")
        elif isinstance(step, End):
            if depth == 2:
                yield scope, _runs(sizes)
            elif depth > 2:
                sizes.append("}")
        elif isinstance(step, Submit) and (size := schedule.submissions[step.submission].size_bytes):
            if depth == 1:
                yield None, f"{size:,}"
            else:
                sizes.append(f"{size:,}")


def _runs(sizes: list[str]) -> str:
    counted = ((size, len(list(group))) for size, group in groupby(sizes))
    return " ".join(size if count == 1 else f"{count}x{size}" for size, count in counted)


@dataclass(frozen=True, slots=True)
class StageDifference:
    """A kind of stage whose blocks differ between our schedule and the trace; `count` stages do so in this way."""

    stage: str
    count: int
    ours: str
    traced: str


def compare_stages(ours: Schedule, traced: Schedule) -> tuple[int, list[StageDifference]]:
    """How many stages have the same blocks, and those that do not; row tiles, which routing decides, are not counted."""
    same, differences = 0, {}
    nothing = ("", "nothing")
    for (name, mine), (_, theirs) in zip_longest(_scoped(ours), _scoped(traced), fillvalue=nothing):
        if mine == theirs:
            same += 1
        else:
            key = (name.rpartition(".")[2], mine, theirs)
            differences[key] = differences.get(key, 0) + 1
    return same, [StageDifference(name, count, mine, theirs) for (name, mine, theirs), count in differences.items()]


def _scoped(schedule: Schedule) -> Iterator[tuple[str, str]]:
    tile = _tile_bytes(schedule)
    for scope, blocks in stages(schedule):
        if scope is not None:
            words = [word.rpartition("x")[2] if word.rpartition("x")[2] == tile else word for word in blocks.split()]
            yield schedule.scopes[scope].name, " ".join(words)


def _tile_bytes(schedule: Schedule) -> str:
    """The block that occurs most often: a row tile of an expert."""
    counts: dict[int, int] = {}
    for submission in schedule.submissions:
        if submission.size_bytes:
            counts[submission.size_bytes] = counts.get(submission.size_bytes, 0) + 1
    return f"{max(counts, key=lambda size: counts[size]):,}"


# --- printing ---------------------------------------------------------------------------------------------------------


def print_seed(routing: str = "random:0", folder: Path = TRACES) -> None:
    """Print the table, and the comparison of blocks with the traces in `folder`."""
    program = seed_program(routing)
    ours = {v.strategy: get_scheduler(v.strategy)(program, {"batch_allocs": True}) for v in VARIANTS}
    traces = {v.strategy: folder / f"program_{v.trace}.jsonl.xz" for v in VARIANTS}
    traced = {name: read_trace(path) for name, path in traces.items() if path.is_file()}
    print(f"prefill of flash with the seed's constants, 2 ranks, routing {routing}, 1 GiB rings, progress timed")
    print("worst: the largest scope_high_water of any ring; least: the smallest capacity of each ring that runs (MiB)")
    _print_table(ours, traced)
    if len(traced) < len(VARIANTS):
        print(f"\nskipped: no traces in {folder}, so nothing is compared with the traced program")
    else:
        _print_blocks(ours, traced)


def _print_table(ours: dict[str, Schedule], traced: dict[str, Schedule]) -> None:
    out = table("variant", "from", "ring>", "worst %>", "least 0>", "least 1>", "least 2>", "total MiB>")
    for variant in VARIANTS:
        out.add_row(variant.strategy, "report", "", f"{variant.reported_percent:.1f}", "", "", "", "")
        for source, schedules in (("trace", traced), ("ours", ours)):
            if variant.strategy in schedules:
                found = figures_of(schedules[variant.strategy])
                sizes = [f"{size / MIB:,.2f}" for size in (*found.least_bytes[:3], sum(found.least_bytes))]
                out.add_row("", source, str(found.ring), f"{found.high_water_percent:.2f}", *sizes)
    console().print(out)


def _print_blocks(ours: dict[str, Schedule], traced: dict[str, Schedule]) -> None:
    print("\nblocks of each attention, MoE stage and head, in order, against the trace (row tiles left out)")
    known: set[StageDifference] = set()
    for variant in VARIANTS:
        same, differences = compare_stages(ours[variant.strategy], traced[variant.strategy])
        print(f"{variant.strategy}: {same} stages have the same blocks, {sum(d.count for d in differences)} differ")
        for found in differences:
            if found not in known:
                print(f"  {found.count} x {found.stage}\n    ours   {found.ours}\n    traced {found.traced}")
        known.update(differences)
