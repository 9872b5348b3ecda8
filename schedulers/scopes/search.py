"""Scopes without sharing: which runs of tasks become scopes, and in which scope each tensor lies.

Intervals of bodies give scopes to programs of any length (`intervals`), in shorter ones tensors are then
hoisted out of the deepest scopes (`climbing`), and in small ones a search finds better scopes or proves that there are none (`exact`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from runner.program.lifetimes import Lives
from runner.rings.placement import PlacedItem
from schedulers.minpeak.folding import Fold, template
from schedulers.scopes.climbing import annealed, climbed, kinds_climbed
from schedulers.scopes.exact import prove
from schedulers.scopes.intervals import cut_intervals
from schedulers.scopes.placement import place_scopes
from schedulers.scopes.scoping import Goal, Lifetimes, Scoping

CLIMB_UP_TO = 400
"""Tasks of programs in which tensors are moved one by one, and two kinds at a time: each takes up to half a second."""

KINDS_FROM = 80
"""Tasks of programs that may be some layers, so that kinds of tensors are moved; in shorter ones single tensors do."""

PROVE_UP_TO = 12
"""Tasks of programs that are searched in full: that takes up to some seconds, and ten times that for a few tasks more."""


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
            start = climbed(whole, goal, start, lambda: over(1.0))
        found = min(found, start, key=lambda scoping: goal.value(scoping.need))
    if passes.climbing and whole.num_tasks <= CLIMB_UP_TO and goal.value(found.need) > bound:
        found = annealed(whole, goal, found, bound, lambda: over(1.0))
    if passes.climbing and KINDS_FROM <= whole.num_tasks <= CLIMB_UP_TO and goal.value(found.need) > bound:
        found = kinds_climbed(whole, goal, found, lambda: over(1.0))
    if passes.proof and whole.num_tasks <= PROVE_UP_TO and goal.value(found.need) > bound:
        found, is_least = prove(whole, goal, found, bound, lambda: over(1.0))
    value = goal.value(found.need)
    return Found(place_scopes(lives, found), value, value if is_least else bound)
