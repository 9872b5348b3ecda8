"""Scopes without sharing: which runs of tasks become scopes, and in which scope each tensor lies.

Intervals of bodies give scopes to programs of any length (`intervals`), in shorter ones tensors are then
hoisted out of the deepest scopes (`climbing`), and in small ones a search finds the best and proves it (`exact`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from runner.program.lifetimes import Lives
from runner.rings.placement import PlacedItem
from schedulers.minpeak.folding import Fold, template
from schedulers.scopes.climbing import annealed, climbed
from schedulers.scopes.exact import prove
from schedulers.scopes.intervals import cut_intervals
from schedulers.scopes.placement import place_scopes
from schedulers.scopes.scoping import Goal, Lifetimes, Scoping

# Tasks of programs in which tensors are moved; that may be some layers, so that kinds of them are; that are searched in full.
CLIMB_UP_TO, KINDS_FROM, PROVE_UP_TO = 400, 80, 12  # half a second each; the last takes ten times that for a few tasks more


@dataclass(frozen=True)
class Passes:
    """Which passes run; whatever is off, what the others find is correct.

    intervals  covers of intervals; off, all tensors begin in the root
    bodies     intervals of loops' trips by themselves, kinds that are alike solved once; off, no scope lies inside a trip
    climbing   tensors of shorter programs hoisted, one by one and by annealing
    proof      small programs searched in full
    """

    intervals: bool = True
    bodies: bool = True
    climbing: bool = True
    proof: bool = True


@dataclass(frozen=True)
class Found:
    """The placement, the goal's value in units of 1,024 bytes, and one that no scopes can beat."""

    items: list[PlacedItem]
    value: int
    bound: int


def find_scopes(
    lives: Lives, fold: Fold, goal: Goal, over: Callable[[float], bool], bound: int = 0, passes: Passes = Passes()
) -> Found:
    """The best scopes found for a program; `bound` is a value that none can beat, `over` says whether a share of the time is."""
    whole = Lifetimes.of(lives)
    found, is_least = Scoping.of(whole, np.zeros_like(whole.size)), False
    starts = [found]
    if passes.intervals:
        starts.append(Scoping.of(whole, cut_intervals(fold, template(fold, lives), lives, goal, over, passes.bodies)))
    for start in reversed(starts):
        if passes.climbing and whole.num_tasks <= CLIMB_UP_TO and goal.value(found.need) > bound:
            start = annealed(whole, goal, climbed(whole, goal, start, lambda: over(1.0)), bound, lambda: over(1.0))
            if whole.num_tasks >= KINDS_FROM:
                start = climbed(whole, goal, start, lambda: over(1.0), kinds=True)
        found = min(found, start, key=lambda scoping: goal.value(scoping.need))
    if passes.proof and whole.num_tasks <= PROVE_UP_TO and goal.value(found.need) > bound:
        found, is_least = prove(whole, goal, found, bound, lambda: over(1.0))
    value = goal.value(found.need)
    return Found(place_scopes(lives, found), value, value if is_least else bound)
