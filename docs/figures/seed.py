"""Part `seed`: the seed's table from our own graphs, beside the traced program, and block by block against it.

docs/memory-model.md explains both. The traces lie in `tests/data/seed-program/` of a checkout; without them the
comparison is skipped, aloud.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

from docs.figures.cases import CASES, Case, mib
from runner.program.program import Program
from runner.recorded.scope_stats import ring_stats
from runner.recorded.traces import read_trace
from runner.rings.capacity import least_heap, ring_loads
from runner.rings.schedule import Begin, End, Schedule, Submit
from runner.rings.sizes import RingSizes
from runner.rings.steps import StepWalk
from runner.rings.timed import timed, uniform_timing
from schedulers import get_scheduler

GIB = 2**30
TRACES = Path(__file__).parents[2] / "tests" / "data" / "seed-program"


@dataclass(frozen=True, slots=True)
class Variant:
    """One variant of the seed's program: our strategy, its trace, and the high-water that the seed reported."""

    name: str
    strategy: str
    trace: str
    reported_percent: float


VARIANTS = (
    Variant("no scope in the MoE", "unscoped", "a", 126.0),
    Variant("one manual scope", "manual", "b", 90.6),
    Variant("one auto scope", "auto", "c", 71.2),
)


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
    return Case.of(CASES["seed"]).program(routing)


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


# --- the part ---------------------------------------------------------------------------------------------------------


def seed(routing: str = "random:0", folder: Path = TRACES) -> list[dict[str, Any]]:
    """A row a variant. Prints how its blocks differ from those of the traces in `folder`."""
    program = seed_program(routing)
    rows, known = [], set()
    for variant in VARIANTS:
        ours = get_scheduler(variant.strategy)(program, {"batch_allocs": True})
        path = folder / f"program_{variant.trace}.jsonl.xz"
        traced = read_trace(path) if path.is_file() else None
        if traced is None:
            print(f"{variant.strategy}: skipped: there is no {path}, so nothing is compared with the traced program")
        else:
            known |= _print_blocks(variant.strategy, ours, traced, known)
        head = {"variant": variant.name, "strategy": variant.strategy, "reported_percent": variant.reported_percent}
        rows.append(head | {"traced": traced and _row(traced), "ours": _row(ours)})
    return rows


def _row(schedule: Schedule) -> dict[str, Any]:
    found = figures_of(schedule)
    used = [mib(size) for size in found.least_bytes if size]
    return {"ring": found.ring, "percent": round(found.high_water_percent, 2), "least_mib": used}


def _print_blocks(strategy: str, ours: Schedule, traced: Schedule, known: set[StageDifference]) -> set[StageDifference]:
    """Blocks of each attention, MoE stage and head, in order, against the trace, row tiles left out; those that differ."""
    same, differences = compare_stages(ours, traced)
    print(f"{strategy}: {same} stages have the same blocks, {sum(d.count for d in differences)} differ")
    for found in differences:
        if found not in known:
            print(f"  {found.count} x {found.stage}\n    ours   {found.ours}\n    traced {found.traced}")
    return set(differences)
