"""Depths of single tensors changed for as long as that makes the rings smaller.

Any depths are a scoping, for the cuts follow from them (`schedulers.scopes.scoping`), so a scoping can be improved one tensor at
a time. It often can be: a search for scopes puts every tensor into the deepest scope that holds its life, but a ring needs
what the fullest scope of its depth holds, and a tensor out of that one may cost less where another depth has room to spare.

    depth 1  [ a 6 ................. ][ b 9 ]        ring 1 needs 9, of which the first scope leaves 3
    depth 2     [ c 4, d 2 ][ e 5 ]                  ring 2 needs 6, for c and d; with d in the first scope above, 5

Layers repeat, and a ring needs what the fullest of them holds, so that one tensor elsewhere gains nothing where all of its kind
would. So tensors of about one size are moved together as well, two kinds at a time: one makes room for the other.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product

import numpy as np

from runner.program.lifetimes import Ints, distinct
from schedulers.scopes.scoping import NUM_DEPTHS, Goal, Lifetimes, Scoping

MAX_KINDS = 12  # moved in pairs: 66 pairs in 16 ways take up to half a second


def climbed(lives: Lifetimes, goal: Goal, found: Scoping, stop: Callable[[], bool]) -> Scoping:
    """A scoping that no other depth of a single tensor makes better: with a lower value, or the same on more equal rings."""
    least, changed, tensor = _height(goal, found), 0, 0
    while tensor - changed < len(found.depth) and not stop():  # until no tensor since the last change has helped
        at = tensor % len(found.depth)
        for d in range(NUM_DEPTHS):
            if d != found.depth[at]:
                depth = found.depth.copy()
                depth[at] = d
                tried = Scoping.of(lives, depth)
                if (new := _height(goal, tried)) < least:
                    found, least, changed = tried, new, tensor + 1
        tensor += 1
    return found


def kinds_climbed(lives: Lifetimes, goal: Goal, found: Scoping, stop: Callable[[], bool]) -> Scoping:
    """A scoping that no other depths of two kinds of tensors make better."""
    kinds = _kinds(lives)
    least, changed = _height(goal, found), True
    while changed:
        changed = False
        for one, other in combinations(kinds, 2):
            if stop():
                return found
            for d, e in product(range(NUM_DEPTHS), repeat=2):
                depth = found.depth.copy()
                depth[one], depth[other] = d, e
                tried = Scoping.of(lives, depth)
                if (new := _height(goal, tried)) < least:
                    found, least, changed = tried, new, True
    return found


def _kinds(lives: Lifetimes) -> list[Ints]:
    """Tensors of about one size, a fifth more or less, where there are several; at most `MAX_KINDS` kinds, the largest first."""
    sizes = np.rint(4 * np.log2(lives.size + 1)).astype(np.int64)
    kinds = [np.flatnonzero(sizes == size) for size in distinct(sizes)[::-1]]
    return [kind for kind in kinds if len(kind) > 1][:MAX_KINDS]


def _height(goal: Goal, scoping: Scoping) -> tuple[int, int]:
    return goal.value(scoping.need), sum(units * units for units in scoping.need)
