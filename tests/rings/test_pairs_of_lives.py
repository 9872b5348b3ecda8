"""Pairs of tensors that may not share, beside all pairs looked at one by one."""

import numpy as np
import pytest

from runner.rings.devices import pairs
from runner.rings.devices.pairs import Neighbours, are_met, met_pairs


def lives_of(rng: np.random.Generator, num: int, shortest: int):
    begin = rng.integers(0, 40, num)
    return begin, begin + rng.integers(shortest, 15, num)


@pytest.mark.parametrize("num_lives", [1, 2])
@pytest.mark.parametrize("shortest", [0, 1])
def test_pairs_are_those_that_are_not_apart_in_one_order(num_lives: int, shortest: int):
    rng = np.random.default_rng(num_lives)
    for _ in range(200):
        num = int(rng.integers(0, 25))
        lives = [lives_of(rng, num, shortest) for _ in range(num_lives)]
        found = met_pairs(lives)
        assert found is not None
        wanted = {(i, j) for i in range(num) for j in range(i + 1, num) if not apart(lives, i, j)}
        assert set(zip(*(row.tolist() for row in found), strict=True)) == wanted and len(found[0]) == len(wanted)
        for tensor in range(num):
            met = are_met(lives, tensor, slice(None))
            assert {min(tensor, o) * num + max(tensor, o) for o in np.flatnonzero(met).tolist() if o != tensor} == {
                i * num + j for i, j in wanted if tensor in (i, j)
            }


def apart(lives, i: int, j: int) -> bool:
    return all(end[i] <= begin[j] for begin, end in lives) or all(end[j] <= begin[i] for begin, end in lives)


def test_too_many_pairs_are_not_listed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pairs, "MAX_PAIRS", 9)
    assert met_pairs([(np.zeros(5), np.ones(5))]) is None
    assert met_pairs([(np.zeros(4), np.ones(4))]) is not None


@pytest.mark.parametrize("most", [8, 1_000])
def test_neighbours_are_the_others_of_its_pairs(most: int, monkeypatch: pytest.MonkeyPatch):
    """Listed or not."""
    rng = np.random.default_rng(most)
    for _ in range(50):
        num = int(rng.integers(1, 25))
        lives = [lives_of(rng, num, 1), lives_of(rng, num, 1)]
        found = met_pairs(lives)
        assert found is not None
        together = set(zip(*(row.tolist() for row in found), strict=True))
        with monkeypatch.context() as patched:
            patched.setattr(pairs, "MAX_PAIRS", most)
            near = Neighbours(*lives)
        for tensor in range(num):
            wanted = {o for pair in together if tensor in pair for o in pair} - {tensor}
            *others, none = near.of(tensor).tolist()
            assert {*others} - {tensor} == wanted and none == num
