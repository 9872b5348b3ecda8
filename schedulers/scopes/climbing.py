"""Depths of single tensors changed for as long as that makes the rings smaller.

Any depths are a scoping, for the cuts follow from them (`schedulers.scopes.scoping`), so a scoping can be improved one tensor at
a time. It often can be: a search for scopes puts every tensor into the deepest scope that holds its life, but a ring needs
what the fullest scope of its depth holds, and a tensor out of that one may cost less where another depth has room to spare.

    depth 1  [ a 6 ................. ][ b 9 ]        ring 1 needs 9, of which the first scope leaves 3
    depth 2     [ c 4, d 2 ][ e 5 ]                  ring 2 needs 6, for c and d; with d in the first scope above, 5
"""

from __future__ import annotations

from collections.abc import Callable

from schedulers.scopes.scoping import NUM_DEPTHS, Goal, Lifetimes, Scoping


def climbed(lives: Lifetimes, goal: Goal, found: Scoping, stop: Callable[[], bool]) -> Scoping:
    """A scoping that no other depth of a single tensor makes better: with a lower value, or the same on more equal rings."""

    def height(scoping: Scoping) -> tuple[int, int]:
        return goal.value(scoping.need), sum(units * units for units in scoping.need)

    least, changed, tensor = height(found), 0, 0
    while tensor - changed < len(found.depth) and not stop():  # until no tensor since the last change has helped
        at = tensor % len(found.depth)
        for d in range(NUM_DEPTHS):
            if d != found.depth[at]:
                depth = found.depth.copy()
                depth[at] = d
                tried = Scoping.of(lives, depth)
                if (new := height(tried)) < least:
                    found, least, changed = tried, new, tensor + 1
        tensor += 1
    return found
