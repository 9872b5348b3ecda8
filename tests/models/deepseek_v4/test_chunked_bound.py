"""No plan of the chunked prefill takes at most 64 MiB within 5 % of the fastest run, if workers are without limit: the proof that
docs/minpeak.md gives in words, worked out from the program.

A layer that attends sparsely gathers, attends and merges eight tiles of tokens. They are alike, so a search over how many tiles
are at which stage finds the fewest steps of 20 us in which a layer can do that within so many bytes; layers come one after the
other. Tasks may start at any time; if each started a whole number of steps after its layer instead, rounded down, all orders
would hold and no more would be in use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import pytest

from docs.figures.cases import CASES, RANDOM, Case
from runner.program.lifetimes import lives_of
from runner.program.program import Program

STEP_US, SLACK, FASTEST_US = 20, 1.05, 53_181
LIMIT_KIB = 64 * 1024
PLAN_MIB, PLAN_US = 87.84, 55_680
STAGES = ("gather_kv", "qk_pv", "merge_norm")


@dataclass(frozen=True)
class Tiles:
    """Units of 1,024 bytes: what stays in use as long as tiles are worked on, what each attention reads, what all merges fill,
    and per tile what is gathered, what attention holds for itself, and what it leaves to be merged."""

    num: int
    base: int
    query: int
    merged: int
    gathered: int
    scratch: int
    attended: int


def fewest_steps(tiles: Tiles, most: int) -> int:
    """The fewest steps in which all tiles pass the three stages, each in a step of its own, with at most so many units in use."""

    def in_use(waiting: int, attended: int, left: int, begun: bool, starts: tuple[int, int, int]) -> int:
        gathers, attends, _ = starts
        shared = tiles.base + tiles.query * (left > 0) + tiles.merged * begun
        return (
            shared + tiles.gathered * (waiting + gathers) + attends * (tiles.scratch + tiles.attended) + attended * tiles.attended
        )

    states, steps = {(0, 0, 0, 0)}, 0  # gathered in all, attended in all, merged in all, whether a merge has begun
    while not any(merged == tiles.num for _, _, merged, _ in states):
        following = set()
        for gathered, attended, merged, begun in states:
            for gathers in range(tiles.num - gathered + 1):
                for attends in range(gathered - attended + 1):
                    for merges in range(attended - merged + 1):
                        now = (gathers, attends, merges)
                        waiting, left = gathered - attended, tiles.num - attended
                        if in_use(waiting, attended - merged, left, bool(begun or merges), now) <= most:
                            following.add((gathered + gathers, attended + attends, merged + merges, int(begun or merges > 0)))
        assert following - states, "nothing goes on"
        states, steps = following, steps + 1
    return steps


def test_steps_of_tiles():
    """Ample bytes: the three stages. What one tile needs: one after the other, but the next one is gathered beside a merge."""
    tiles = Tiles(num=4, base=1, query=2, merged=3, gathered=5, scratch=1, attended=5)
    assert fewest_steps(tiles, 1000) == 3
    assert fewest_steps(tiles, 1 + 2 + 3 + 11) == 9
    assert fewest_steps(tiles, 1 + 2 + 3 + 11 + 10) == 6


class Chunked:
    """The program, in time steps of its tasks without regard to bytes, and its phases: the tiles of each sparse layer."""

    def __init__(self, program: Program) -> None:
        self.program, self.lives = program, lives_of(program, allocs_touch=False)
        self.waits = [sorted(set(task.waits + task.after)) for task in program.tasks]
        self.lengths = [STEP_US if task.op is not None and task.core is not None else 0 for task in program.tasks]
        self.users: list[list[int]] = [[] for _ in self.waits]
        for task, waits in enumerate(self.waits):
            for wait in waits:
                self.users[wait].append(task)

    @cached_property
    def ends(self) -> list[int]:
        ends: list[int] = []
        for waits, length in zip(self.waits, self.lengths, strict=True):
            ends.append(max((ends[wait] for wait in waits), default=0) + length)
        return ends

    @cached_property
    def tails(self) -> list[int]:
        """The longest path from a task's start to the end."""
        tails = [0] * len(self.waits)
        for task in reversed(range(len(tails))):
            tails[task] = self.lengths[task] + max((tails[user] for user in self.users[task]), default=0)
        return tails

    def phases(self) -> Iterator[list[list[int]]]:
        """Per sparse layer the tasks of the three stages."""
        at: dict[str, list[int]] = {stage: [] for stage in STAGES}
        found: list[list[list[int]]] = []
        for task, it in enumerate(self.program.tasks):
            if it.op in at:
                at[it.op].append(task)
            if it.op == "proj_a" and at["merge_norm"]:
                found.append([at[stage] for stage in STAGES])
                at = {stage: [] for stage in STAGES}
        largest = max(self.gathered(stages) for stages in found)
        yield from (stages for stages in found if self.gathered(stages) == largest)

    def gathered(self, stages: list[list[int]]) -> int:
        return self.tiles_of(stages, base=0).gathered

    def touched(self, task: int) -> set[int]:
        return set(self.lives.touches.row(task))

    def tiles_of(self, stages: list[list[int]], base: int) -> Tiles:
        """What tiles hold, and nothing else: the rest is left out, which only makes it easier."""
        gather, attend, merge = ([self.touched(task) for task in tasks] for tasks in stages)
        size, alone = self.lives.size, self.alone(stages)
        of_all_merges = set.intersection(*merge)
        return Tiles(
            num=len(stages[0]),
            base=base,
            query=int(sum(size[t] for t in set.intersection(*attend) - of_all_merges if size[t] >= 1024)),
            merged=int(sum(size[t] for t in of_all_merges - set.union(*attend))),
            gathered=min(int(sum(size[t] for t in g & a)) for g, a in zip(map(alone, gather), map(alone, attend), strict=True)),
            scratch=min(int(sum(size[t] for t in alone(a) - g - m)) for g, a, m in zip(gather, attend, merge, strict=True)),
            attended=min(int(sum(size[t] for t in a & m)) for a, m in zip(map(alone, attend), map(alone, merge), strict=True)),
        )

    def alone(self, stages: list[list[int]]):
        """Of a task's tensors those that no other tile and nothing before or after the stages touches."""
        tasks = [task for stage in stages for task in stage]
        low, high = min(tasks), max(tasks)
        first, end = self.lives.first, self.lives.end
        uses: dict[int, int] = {}
        for stage in stages:
            for task in stage:
                for tensor in self.touched(task):
                    uses[tensor] = uses.get(tensor, 0) + 1
        return lambda tensors: {t for t in tensors if first[t] >= low and end[t] <= high + 1 and uses[t] <= 2}

    def reached(self, task: int, up_to: int, backward: bool = False) -> set[int]:
        seen, todo = {task}, [task]
        while todo:
            for other in (self.waits if backward else self.users)[todo.pop()]:
                if other not in seen and (other >= up_to if backward else other <= up_to):
                    seen.add(other)
                    todo.append(other)
        return seen

    def base_of(self, stages: list[list[int]], around: int = 2000) -> int:
        """Units of tensors made before any tile can begin, and used after all have ended."""
        low, high = min(stages[0]) - around, max(stages[2]) + around
        before = set.intersection(*(self.reached(task, low, backward=True) for task in stages[0])) - set(stages[0])
        after = set.intersection(*(self.reached(task, high) for task in stages[2])) - set(stages[2])
        touches = self.lives.touches
        made = {tensor for task in before for tensor in touches.row(task)}
        used = {tensor for task in after for tensor in touches.row(task)}
        return int(sum(self.lives.size[tensor] for tensor in made & used))

    def rest_us(self, merges: list[int], gathers: list[int]) -> int:
        """The longest path between two phases, from the end of any merge to the start of any gathering: no run cuts it short."""

        def longest(start: int) -> int:
            ends = {start: 0}
            for task in range(start + 1, max(gathers) + 1):
                known = [ends[wait] for wait in self.waits[task] if wait in ends]
                if known:
                    ends[task] = max(known) + self.lengths[task]
            return min(ends[task] - self.lengths[task] for task in gathers)

        return min(longest(merge) for merge in merges)


@lru_cache
def chunked() -> Chunked:
    (entry,) = (e for e in CASES["balanced"] if e["picture"] == "chunked")
    assert entry["timing"] == {"task_us": STEP_US, "cores": "unlimited"} and entry["most_mib"] == LIMIT_KIB // 1024
    return Chunked(Case.of(entry).program(RANDOM))


@pytest.mark.slow
def test_no_plan_within_64_mib_is_in_time():
    program = chunked()
    phases = list(program.phases())
    fewest = [fewest_steps(program.tiles_of(stages, program.base_of(stages)), LIMIT_KIB) for stages in phases]
    between = [program.rest_us(one[2], two[0]) for one, two in pairwise(phases)]
    head = min(program.ends[task] - STEP_US for task in phases[0][0])
    tail = min(program.tails[task] - STEP_US for task in phases[-1][2])
    assert head + tail + sum(between) + 3 * STEP_US * len(phases) == max(program.ends), "tiles lie on the critical path"
    bound_us = head + tail + sum(between) + STEP_US * sum(fewest)
    print(f"{len(phases)} layers, {fewest[0]} steps each: {bound_us:,} us, {bound_us / FASTEST_US - 1:.2%} over the fastest")
    assert bound_us > SLACK * FASTEST_US
    assert bound_us <= max(program.ends) + STEP_US * 7 * len(phases)


@pytest.mark.slow
@pytest.mark.parametrize("limit_us", [SLACK * FASTEST_US, 1.02 * PLAN_US])
def test_bytes_of_any_run_in_time(limit_us: float) -> None:
    """What is ruled out: with so few bytes all layers together take longer than the limit, wherever tensors lie."""
    program = chunked()
    phases = list(program.phases())
    tiles = [program.tiles_of(stages, program.base_of(stages)) for stages in phases]
    steps = int((limit_us - max(program.ends)) / STEP_US / len(phases)) + 3
    low, high = max(one.base + one.query + one.merged + one.gathered + one.scratch + one.attended for one in tiles), 2 * LIMIT_KIB
    while high - low > 256:
        middle = (low + high) // 2
        if min(fewest_steps(one, middle) for one in set(tiles)) > steps:
            low = middle
        else:
            high = middle
    print(f"{limit_us:,.0f} us, at most {steps} steps in some layer: over {low / 1024:.2f} MiB, {high / 1024:.2f} may do")
    assert low < PLAN_MIB * 1024
