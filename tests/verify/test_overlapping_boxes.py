"""Boxes found by overlap, beside a look at every one of them."""

import random

import pytest

from runner.verify.needs import _Boxes


def random_box(rng, num_axes):
    """Tiles, bars along an axis, everything (None) and empty boxes."""
    if rng.random() < 0.05:
        return None
    lows = [rng.randrange(12) for _ in range(num_axes)]
    return tuple((0, 16) if rng.random() < 0.2 else (low, low + rng.choice((0, 1, 1, 1, 2, 4))) for low in lows)


def elements(box, num_axes):
    found = {()}
    for low, high in box or ((0, 16),) * num_axes:
        found = {(*point, at) for point in found for at in range(low, high)}
    return found


@pytest.mark.parametrize("seed", range(12))
def test_what_overlaps_is_what_shares_an_element(seed):
    rng, num_axes = random.Random(seed), 1 + seed % 3
    boxes, kept = _Boxes[int](), {}
    for number in range(120):
        box = random_box(rng, num_axes)
        if box is not None and rng.random() < 0.3:
            boxes.drop_covered(box)
            outer = elements(box, num_axes)
            kept = {n: other for n, other in kept.items() if not elements(other, num_axes) <= outer}
        if box is not None:
            boxes.add(box, number)
            if elements(box, num_axes):
                kept[number] = box
        asked = random_box(rng, num_axes)
        wanted = elements(asked, num_axes)
        found = boxes.overlapping(asked)
        assert sorted(found) == [n for n, other in kept.items() if elements(other, num_axes) & wanted]
