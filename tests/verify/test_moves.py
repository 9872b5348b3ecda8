"""Who lay last in the bytes that tensors come to lie in, beside a look at every byte."""

import random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from runner.verify import needs


def random_slots(rng):
    """Slots (block, low, high) in the order of blocks: tiles of one grid, and some that lie across."""
    slots = []
    for block in sorted(rng.sample(range(10**5), rng.randrange(4))):
        grid, width = rng.choice((1, 4)), rng.choice((8, 40))
        for _ in range(rng.randrange(30)):
            low = rng.randrange(width) // grid * grid
            slots.append((block, low, low + rng.choice((grid, grid, rng.randrange(1, 9)))))
    return slots


def by_bytes(slots):
    """Per slot whose bytes others had: those that had them last, by address."""
    found, had = {}, {}
    for place, (block, low, high) in enumerate(slots):
        mine = [(block, at) for at in range(low, high)]
        before = list(dict.fromkeys(had[at] for at in mine if at in had))
        if before:
            found[place] = before
        had.update(dict.fromkeys(mine, place))
    return found


@pytest.mark.parametrize("cells", [0, needs.CELLS])
def test_who_lay_there_last_is_who_had_a_byte_last(cells):
    num_moves = 0
    for seed in range(200):
        slots = random_slots(random.Random(seed))
        block, low, high = np.array(slots, np.int64).reshape(-1, 3).T
        # `_moves` takes places among all slots, of which half are others here.
        columns: Any = SimpleNamespace(block=np.repeat(block, 2), offset=np.repeat(low, 2), size=np.repeat(high - low, 2))
        with patch.object(needs, "CELLS", cells):
            new, old = needs._moves(columns, np.arange(0, 2 * len(slots), 2))
        assert {place: old.row(k) for k, place in enumerate(new.tolist())} == by_bytes(slots), seed
        num_moves += len(new)
    assert num_moves > 1000
