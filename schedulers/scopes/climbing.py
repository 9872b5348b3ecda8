"""Depths of single tensors changed for as long as that makes the rings smaller.

Any depths are a scoping, for the cuts follow from them (`schedulers.scopes.scoping`), so a scoping can be improved one tensor at
a time. It often can be: a search for scopes puts every tensor into the deepest scope that holds its life, but a ring needs
what the fullest scope of its depth holds, and a tensor hoisted out of that may cost less where another depth has room.

    depth 1  [ a 6 ................. ][ b 9 ]        ring 1 needs 9, of which the first scope leaves 3
    depth 2     [ c 4, d 2 ][ e 5 ]                  ring 2 needs 6, for c and d; with d in the first scope above, 5

Where no single move helps any more, several at random may (`annealed`). Layers repeat, and a ring needs what the fullest of them
holds, so tensors of about one size are moved together as well, two kinds at a time: one makes room for the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, product
from math import exp, inf
from random import Random

import numpy as np

from runner.program.lifetimes import distinct
from schedulers.scopes.scoping import NUM_DEPTHS, Four, Goal, Lifetimes, Scoping

STEPS, MAX_WORK = 1_500, 1_500_000  # tries of one annealing, fewer where they pass many tasks: up to a tenth of a second
TEMPERATURES = ((0.05, 0.01), (0.02, 0.001))  # begin and end, as parts of the value: where sizes are alike, and where they differ
MAX_KINDS = 12  # moved in pairs: 66 pairs in 16 ways take up to half a second
PAIRS = 0.3  # tries in which a second tensor moves: one makes room for the other


def climbed(lives: Lifetimes, goal: Goal, found: Scoping, stop: Callable[[], bool], kinds: bool = False) -> Scoping:
    """A scoping that no other depth of a single tensor, or no depths of two kinds, make better: less, or on more equal rings."""

    def height(depth: Sequence[int]) -> tuple[int, int]:
        need = needs.of(depth)
        return goal.value(need), sum(units * units for units in need)

    sizes = np.rint(4 * np.log2(lives.size + 1)).astype(np.int64)  # a kind: one size, a fifth more or less; largest first
    alike = [mine.tolist() for size in distinct(sizes)[::-1] if len(mine := np.flatnonzero(sizes == size)) > 1]
    groups = list(combinations(alike[:MAX_KINDS], 2)) if kinds else [([one],) for one in range(len(sizes))]
    needs, best = _Needs(lives), found.depth.tolist()
    least, changed = height(best), True
    while changed:
        changed = False
        for group in groups:
            for depths in () if stop() else product(range(NUM_DEPTHS), repeat=len(group)):
                tried = best.copy()
                for tensors, d in zip(group, depths, strict=True):
                    for one in tensors:
                        tried[one] = d
                if tried != best and (new := height(tried)) < least:
                    best, least, changed = tried, new, True
    return Scoping.of(lives, np.array(best, np.int64))


def annealed(lives: Lifetimes, goal: Goal, found: Scoping, bound: int, stop: Callable[[], bool]) -> Scoping:
    """A scoping found by simulated annealing: random tensors move, for the worse too, the less so the nearer the end is.

    The rings' sum counts for a tenth beside the goal: it says which of many equal ways lead on. `bound` is good enough.
    """
    rng, tensors, needs = Random(0), range(len(lives.size)), _Needs(lives)
    least, best = goal.value(found.need), found.depth.tolist()
    steps = min(STEPS, MAX_WORK // needs.work) if tensors else 0
    for hot, cold in TEMPERATURES:
        now, cost, start = best, inf, least
        for step in range(steps):
            if least <= bound or (step % 64 == 0 and stop()):
                break
            tried = now.copy()
            for _ in range(1 + (rng.random() < PAIRS)):
                tried[rng.choice(tensors)] = rng.randrange(NUM_DEPTHS)
            need = needs.of(tried)
            value = goal.value(need)
            new = value + sum(need) / 10
            if new <= cost or rng.random() < exp((cost - new) / (start * hot * (cold / hot) ** (step / steps))):
                now, cost = tried, new
                if value < least:
                    least, best = value, tried
    return Scoping.of(lives, np.array(best, np.int64))


class _Needs:
    """`Scoping.of(lives, depth).need` for lists of depths, some times as fast while programs are small: tasks are bits of
    integers."""

    def __init__(self, lives: Lifetimes) -> None:
        first, end, size = lives.first.tolist(), lives.end.tolist(), lives.size.tolist()
        self.inside = [max(0, (1 << high) - (2 << low)) for low, high in zip(first, end, strict=True)]
        loops = [lives.cuts_of(loop) for loop in lives.loops]
        self.loops = [((1 << tasks.stop) - (1 << tasks.start), sum(1 << edge for edge in {*edges})) for tasks, edges in loops]
        self.all_tasks, self.work = (1 << lives.num_tasks) - 1, int((lives.end - lives.first).sum()) + lives.num_tasks
        self.births = [(one, (2 << first[one]) - 1, size[one]) for one in np.argsort(lives.first, kind="stable").tolist()]

    def of(self, depth: Sequence[int]) -> Four:
        covered = [0] * NUM_DEPTHS  # by the lives of tensors of each depth, then of that and deeper ones
        for inside, d in zip(self.inside, depth, strict=True):
            covered[d] |= inside
        cuts, deeper = [0] * NUM_DEPTHS, 0  # the tasks before which scopes of each depth end; the root does not
        for d in range(NUM_DEPTHS - 1, 0, -1):
            kept = deeper = deeper | covered[d]
            for inside, edges in self.loops:
                kept |= inside if kept & edges else 0
            cuts[d] = self.all_tasks & ~kept
        held, most = [0] * NUM_DEPTHS, [0] * NUM_DEPTHS
        for tensor, until, size in self.births:
            d = depth[tensor]
            if ended := cuts[d] & until:
                cuts[d] ^= ended
                held[d] = 0
            held[d] += size
            most[d] = max(most[d], held[d])
        return (most[0], most[1], most[2], most[3])
