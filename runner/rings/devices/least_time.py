"""A time that no run of a program is shorter than, wherever its tensors lie: stronger than its critical path and its work.

Every task gets a time before which it starts in no run. That is no sooner than when it is submitted, which may wait for a value
read on the host, nor than when what it waits for has ended, a task of more blocks than workers in several rounds. Where many
tasks end in one, the workers count as well: what must be done before it, and cannot begin before some time, is work that is
done after that time.

    m workers, and a join that waits for tasks a, b, c, ..., none of which starts before r: it starts at r + (a + b + c + ...) / m
    or later. Of all it waits for, directly or not, those are taken that start at r or later, for each r.

Stages that follow each other so add up, where the critical path has one task of each and the work idles nowhere.
"""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

from runner.program.lifetimes import Floats
from runner.rings.devices.timed_lives import Work
from runner.rings.timed import AIV_PER_MIX

JOIN = 3
"""Tasks that wait for at least so many are joins, in which work is counted: others that wait for a join follow it."""

GROUP = 1 << 12
"""Tasks among which joins look for what they wait for: sets of these are an eighth as many bytes each."""

_ROUNDING = 1 - 1e-9
"""Sums in another order may differ by the last bits."""


def least_us(work: Work) -> float:
    """No run takes less, in microseconds: a run of any placement, under the timing that `work` was made with."""
    num = len(work.blocks)
    begin, finish = array("d", bytes(8 * num)), array("d", bytes(8 * num))
    begins, shares = np.frombuffer(begin), _shares(work)
    starts, values, lengths = work.edges.starts.tolist(), work.edges.values.tolist(), _lengths(work)
    base, clock, sets = 0, 0.0, list[int]()  # sets: per task since the base those since then that it waits for
    for task, cost_us in enumerate(work.costs_us):
        heard = max(map(finish.__getitem__, work.reads.get(task, ())), default=0.0)
        if heard > clock or len(sets) == GROUP:
            base, clock, sets = task, max(clock, heard), []
        clock += cost_us
        waits = values[starts[task] : starts[task + 1]] if work.core[task] is not None else ()  # an alloc waits for nothing
        at, near = max([clock, *map(finish.__getitem__, waits)]), [wait - base for wait in waits if wait >= base]
        before = 0
        for wait in near:
            before |= sets[wait] | 1 << wait
        sets.append(before)
        if len(near) >= JOIN:
            at = max(at, _done_us(begins[base:], shares[base:], _members(before)))
        begin[task], finish[task] = at, at + lengths[task]
    return max(clock, max(finish, default=0.0), _done_us(begins, shares, np.arange(num))) * _ROUNDING


def _lengths(work: Work) -> list[float]:
    """How long each task takes at least, in rounds of as many blocks as there are workers."""
    rooms = {"AIC": work.aic, "AIV": work.aiv, "MIX": min(work.aic, work.aiv / AIV_PER_MIX), None: float("inf")}
    each = zip(work.task_us, work.blocks, work.core, strict=True)
    return [-(-blocks // rooms[core]) * task_us for task_us, blocks, core in each]


def _shares(work: Work) -> Floats:
    """What each task takes of all workers' time, AIC and AIV: float64[num_tasks, 2]."""
    total = np.asarray(work.blocks, np.float64) * np.asarray(work.task_us)
    aic = np.array([core in ("AIC", "MIX") for core in work.core], np.float64)
    aiv = np.array([(core == "AIV") + AIV_PER_MIX * (core == "MIX") for core in work.core], np.float64)
    return np.stack((total * aic / work.aic, total * aiv / work.aiv), axis=1)


def _members(bits: int) -> NDArray[np.intp]:
    octets = np.frombuffer(bits.to_bytes(bits.bit_length() // 8 + 1, "little"), np.uint8)
    return np.flatnonzero(np.unpackbits(octets, bitorder="little"))


def _done_us(begins: Floats, shares: Floats, members: NDArray[np.intp]) -> float:
    """When these tasks can have been done, by their work: the latest, over all times, of what starts no sooner than that."""
    if not len(members):
        return 0.0
    latest_first = members[np.argsort(-begins[members])]
    return float((np.cumsum(shares[latest_first], axis=0).max(axis=1) + begins[latest_first]).max())
