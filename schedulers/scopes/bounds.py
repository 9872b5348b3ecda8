"""Lower bounds for scopes without sharing, beyond the most bytes alive at once.

A *chain* is a row of tensors in which each lives together with the next, such as the streams that layers hand on. Two tensors
that live at once cannot lie in scopes side by side, so wherever scopes end inside a chain, a tensor that crosses the place lies
further out; four rings then need more of the chain than what is alive of it. docs/memory-model.md has the proof.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from math import prod

import numpy as np

from runner.program.lifetimes import Ints, Lives, distinct, live_units

MAX_SIZES = 16
"""Sizes from which chains are looked for, the largest first: a chain's bound is its number of tensors times its least size, and
tensors below the largest dozen sizes are too small to count."""

MAX_TENSORS = 200_000
"""Tensors of one search for chains at most: about a second."""


def chain_bound(lives: Lives) -> int:
    """Bytes, in units, that all rings need together if no two tensors share any; at least the most that is alive at once."""
    live = live_units(lives.first, lives.end, lives.size, lives.num_times)
    best = int(live.max(initial=0))
    for least in distinct(lives.size)[::-1][:MAX_SIZES].tolist():
        large = np.flatnonzero(lives.size >= max(1, least))
        if len(large) > MAX_TENSORS:
            break
        for chain in _chains(lives.first[large], lives.end[large]):
            if len(chain) > 1:  # one tensor needs no more than what is alive
                best = max(best, _bound(lives, large[chain], live))
    return best


def _chains(first: Ints, end: Ints) -> Iterator[Ints]:
    """Of each run of tensors that hang together one chain: that with the fewest tensors from its begin to its end."""
    order = np.lexsort((end, first))
    starts, ends = first.tolist(), end.tolist()
    reach = np.maximum.accumulate(end[order])
    for run in np.split(order, np.flatnonzero(first[order][1:] >= reach[:-1]) + 1):
        if len(run):
            yield _chain(run.tolist(), starts, ends)


def _chain(run: Sequence[int], starts: Sequence[int], ends: Sequence[int]) -> Ints:
    """Of all that begin before the last one ends, always the one that ends last."""
    chain = [run[0]]
    furthest = run[0]
    for tensor in run:
        if starts[tensor] >= ends[chain[-1]]:
            chain.append(furthest)
        if ends[tensor] >= ends[furthest]:  # of equals the last: one more link at the end of the run
            furthest = tensor
    if furthest != chain[-1]:
        chain.append(furthest)
    return np.array(chain)


def _bound(lives: Lives, chain: Ints, live: Ints) -> int:
    """For any number of the chain's tensors: the bytes beside the chain at a moment of each, and what the chain costs there."""
    begin, size = int(lives.first[chain[0]]), lives.size[chain]
    first, end = lives.first[chain] - begin, lives.end[chain] - begin
    beside = live[begin : begin + int(end.max())] - live_units(first, end, size, int(end.max()))
    most_beside = sorted((int(beside[low:high].max()) for low, high in zip(first, end, strict=True)), reverse=True)
    least = int(size.min())
    return max(level + least * _fewest(number) for number, level in enumerate(most_beside, 1))


def _fewest(num_tensors: int) -> int:
    """The least sum of four counts c for which the product of all c + 1 exceeds `num_tensors`."""
    return next(total for total in count() if prod((total + k) // 4 + 1 for k in range(4)) > num_tensors)
