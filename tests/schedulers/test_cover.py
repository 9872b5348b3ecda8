"""The cover kernel against trying every set of scopes side by side; the examples in the docstrings of planner modules."""

from __future__ import annotations

import doctest
import random
from collections.abc import Iterator
from functools import partial
from importlib import import_module

import numpy as np
import pytest

from schedulers.scopes.cover import Run, cover


@pytest.mark.parametrize(
    "name", ["schedulers.scopes.cover", "schedulers.scopes.bodies", "schedulers.written.cuts", "runner.writeback.bodies"]
)
def test_the_example_of_a_docstring(name: str) -> None:
    failed, tried = doctest.testmod(import_module(name))
    assert tried > 2 and not failed


def covers(low: int, high: int) -> Iterator[list[Run]]:
    """Every set of runs side by side in an interval."""
    if low == high:
        yield []
        return
    yield from covers(low + 1, high)
    for end in range(low + 1, high + 1):
        for rest in covers(end, high):
            yield [(low, end), *rest]


def test_equal_to_trying_all() -> None:
    rng = random.Random(0)
    for num in (1, 2, 3, 4, 5, 6) * 5:
        worth = np.array([[rng.randint(0, 9) for _ in range(num + 1)] for _ in range(num + 1)])
        fits = np.array([[rng.random() < 0.6 for _ in range(num + 1)] for _ in range(num + 1)])
        gaps = [rng.randint(0, 3) for _ in range(num)]
        value = partial(value_of, worth, gaps)
        found, plain, prefixes = (cover(worth, fits, gaps, **how) for how in ({"nested": True}, {}, {"prefixes": True}))
        for low in range(num):
            for high in range(low + 1, num + 1):
                allowed = [runs for runs in covers(low, high) if all(fits[run] for run in runs)]
                most = max(value(runs, low, high) for runs in allowed)
                inner = max(value(runs, low, high) for runs in allowed if (low, high) not in runs)
                assert found.best[low, high] == most == value(found.scopes(low, high), low, high)
                assert plain.best[low, high] == most == value(plain.scopes(low, high), low, high)
                assert value(found.scopes(low, high, inside=True), low, high) == inner
                if low == 0:
                    assert prefixes.best[0, high] == most == value(prefixes.scopes(0, high), 0, high)


def value_of(worth: np.ndarray, gaps: list[int], runs: list[Run], low: int, high: int) -> int:
    inside = {item for run in runs for item in range(*run)}
    return sum(worth[run] for run in runs) + sum(gaps[item] for item in range(low, high) if item not in inside)
