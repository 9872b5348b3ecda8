"""The tensormap against a plain list of entries, over random tasks, retirements and sweeps."""

import random

import pytest

from runner.rings.schedule import MapEntry
from runner.rings.tensormap import SWEEP, TensorMap


class Plain:
    """Every entry as [address, ring, number, begin, end] in one list."""

    def __init__(self):
        self.entries, self.swept, self.seen = [], [0, 0], [0, 0]

    def sync(self, ring, number, alive, window):
        self.seen[ring] = alive
        if alive - self.swept[ring] >= SWEEP or (number - self.swept[ring]) % window == 0:
            self.swept[ring] = alive
            self.entries = [e for e in self.entries if e[1] != ring or e[2] >= alive]

    def cover(self, entries, addresses):
        for address, entry in zip(addresses, entries, strict=True):
            if entry.covers:
                self.entries = [e for e in self.entries if not self._is_covered(e, address, entry.begin, entry.end)]

    def register(self, ring, number, entries, addresses):
        self.entries += [(a, ring, number, e.begin, e.end) for a, e in zip(addresses, entries, strict=True)]

    def _is_covered(self, held, address, begin, end):
        at, ring, number, first, last = held
        return at == address and number >= self.seen[ring] and begin <= first < last <= end


@pytest.mark.parametrize("seed", range(20))
def test_as_many_entries_as_in_a_plain_list(seed):
    draw = random.Random(seed)
    table, plain = TensorMap(), Plain()
    numbers, alive, peak, most = [0, 0], [0, 0], 0, 0
    for _ in range(600):
        ring = draw.randrange(2)
        alive[ring] = draw.randint(alive[ring], max(alive[ring], numbers[ring] - draw.choice((0, 5, 100))))
        for side in (table, plain):
            side.sync(ring, numbers[ring], alive[ring], 256)
        entries = []
        for _ in range(draw.randint(0, 3)):
            begin = draw.randrange(40)
            entries.append(MapEntry(0, 0, begin, begin + draw.choice((0, 1, 1, 4, 40)), draw.random() < 0.6))
        addresses = [(draw.randrange(2), 0) for _ in entries]
        for side in (table, plain):
            side.cover(entries, addresses)
            side.register(ring, numbers[ring], entries, addresses)
        numbers[ring] += 1
        peak = max(peak, len(plain.entries))
        most = max([most, *(len(held) for held in table._held.values())])
        assert (table.used, table.peak) == (len(plain.entries), peak)
    assert most < 8 * peak
