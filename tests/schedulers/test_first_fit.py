"""Where first fit puts a tensor, beside a search over all places by the definition."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from schedulers.minpeak.packing import FirstFit, Problem

PLACES = 24


def at_random(rng: np.random.Generator) -> Problem:
    """A few tensors; many times are equal, so that waits of no time and ties come up."""
    num = int(rng.integers(2, 12))
    first, begin = rng.integers(0, 8, num), rng.integers(0, 8, num).astype(float)
    late = begin + rng.integers(0, 3, num).astype(float) if rng.random() < 0.5 else None
    end, finish = first + rng.integers(1, 5, num), begin + rng.integers(1, 5, num).astype(float)
    walls = tuple(np.sort(rng.integers(1, PLACES, int(rng.integers(0, 3)))).tolist())
    most = int(rng.integers(1, PLACES))
    return Problem(first, end, rng.integers(1, 7, num), begin, finish, late, most, walls)


def is_before(problem: Problem, one: int, other: int) -> bool:
    """Whether one has ended when the other begins, in order and in time."""
    assert problem.begin is not None and problem.finish is not None
    return problem.end[one] <= problem.first[other] and problem.finish[one] <= problem.begin[other]


def wait(problem: Problem, one: int, other: int) -> float:
    """For how long one of two tensors waits that share bytes: for ever if both live at once."""
    assert problem.begin is not None and problem.finish is not None
    if problem.first[one] < problem.end[other] and problem.first[other] < problem.end[one]:
        return inf
    if is_before(problem, one, other) or is_before(problem, other, one):
        return 0.0
    before, after = (one, other) if problem.first[one] < problem.first[other] else (other, one)
    late = problem.begin if problem.late is None else problem.late
    return max(0.0, float(problem.finish[before] - late[after]))


def by_definition(problem: Problem, order: list[int]) -> list[int]:
    """Each at the lowest place where none waits, or if that ends above the soft limit, where the wait below it is shortest."""
    lows: dict[int, int] = {}

    def met(tensor: int, low: int) -> list[int]:
        return [o for o in lows if lows[o] < low + problem.size[tensor] and low < lows[o] + problem.size[o]]

    def is_walled(tensor: int, low: int) -> bool:
        return any(low < wall < low + problem.size[tensor] for wall in problem.walls)

    def cost(tensor: int, low: int) -> float:
        return inf if is_walled(tensor, low) else max((wait(problem, tensor, other) for other in met(tensor, low)), default=0.0)

    def is_apart(tensor: int, low: int) -> bool:
        apart = (is_before(problem, tensor, other) or is_before(problem, other, tensor) for other in met(tensor, low))
        return not is_walled(tensor, low) and all(apart)

    everywhere = range(sum(problem.size.tolist()) + PLACES)
    for tensor in order:
        low = next(low for low in everywhere if is_apart(tensor, low))
        if low + problem.size[tensor] > problem.soft_limit:
            below = range(max(0, problem.soft_limit - int(problem.size[tensor]) + 1))
            soonest = min(below, key=lambda low: (cost(tensor, low), low), default=None)
            if soonest is not None and cost(tensor, soonest) < inf:
                low = soonest
            else:
                low = next(low for low in everywhere if cost(tensor, low) < inf)
        lows[tensor] = low
    return [lows[tensor] for tensor in range(len(problem))]


@pytest.mark.parametrize("seed", range(5))
def test_first_fit_is_what_it_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(20):
        problem = at_random(rng)
        order = rng.permutation(len(problem))
        assert FirstFit(problem).offsets(order).tolist() == by_definition(problem, order.tolist())
