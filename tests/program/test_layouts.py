"""Views of views and of slices against torch's, and the boxes that hold them."""

import math
import random

import pytest
import torch

from runner.base.tensor_spec import TensorSpec
from runner.program.layouts import Layout, hull, whole


def dims_of(number, random):
    """Dims with this product."""
    dims = []
    while number > 1 and random.random() < 0.8:
        dims.append(random.choice([k for k in range(1, number + 1) if number % k == 0]))
        number //= dims[-1]
    dims.append(number)
    random.shuffle(dims)
    return tuple(dims)


def ranges_in(shape, random):
    """Half-open ranges, and the axes that are dropped."""
    ranges, dropped = [], []
    for axis, size in enumerate(shape):
        low = random.randint(0, size - 1)
        high = random.randint(low + 1, size)
        if random.random() < 0.2:
            high = low + 1
            dropped.append(axis)
        ranges.append((low, high) if random.random() < 0.5 or axis in dropped else (0, size))
    return ranges, dropped


def cut(tensor, ranges, dropped):
    return tensor[tuple(low if axis in dropped else slice(low, high) for axis, (low, high) in enumerate(ranges))]


def elements(tensor):
    return set(tensor.flatten().tolist())


@pytest.mark.parametrize("seed", range(4))
def test_views_and_slices_in_any_order_are_torchs(seed):
    at, refused, exact, made = random.Random(seed), 0, 0, 0
    for _ in range(1000):
        shape = tuple(at.choice([1, 2, 3, 4, 6]) for _ in range(at.randint(0, 3)))
        spec = TensorSpec(at.choice(["f32", "i8", "f16"]), shape)
        tensor = seen = torch.arange(math.prod(shape)).reshape(shape)
        layout = whole(spec)
        for _ in range(at.randint(1, 3)):
            if layout.shape and at.random() < 0.6:
                ranges = ranges_in(layout.shape, at)
                layout, seen = layout.part(*ranges), cut(seen, *ranges)
                continue
            wanted = dims_of(math.prod(layout.shape), at)
            found = layout.seen_as(TensorSpec(layout.dtype, wanted))
            try:
                same = seen.view(wanted)
            except RuntimeError:
                same = None
            assert (found is None) == (same is None), (layout, wanted)
            if found is None or same is None:
                refused += 1
                break
            layout, seen = found, same
        assert torch.equal(torch.as_strided(tensor, layout.shape, layout.strides, layout.offset), seen)
        held = elements(tensor[tuple(slice(low, high) for low, high in hull(spec, layout))])
        assert elements(seen) <= held
        exact, made = exact + (elements(seen) == held), made + 1
        index = tuple(at.randrange(size) for size in layout.shape)
        assert tensor[layout.place(index, shape)] == seen[index]
    assert refused > 3 and exact > 0.8 * made


@pytest.mark.parametrize(
    "before, after", [("f32", "i8"), ("i8", "f32"), ("f32", "i32"), ("bf16", "f32"), ("f64", "bf16"), ("bool", "u8")]
)
def test_other_dtypes_have_the_same_bytes(before, after):
    size = {"f32": 4, "i8": 1, "i32": 4, "bf16": 2, "f64": 8, "bool": 1, "u8": 1}
    spec = TensorSpec(before, (6, 16 // size[before]))
    layout = whole(spec).part([(2, 4), (0, spec.shape[1])], ()).seen_as(TensorSpec(after, (32 // size[after],)))
    assert layout == Layout(after, 32 // size[after], (32 // size[after],), (1,))
    assert hull(spec, layout) == ((2, 4), (0, spec.shape[1]))
    half = layout.part([(0, 16 // size[after])], ())
    assert hull(spec, half) == ((2, 3), (0, spec.shape[1]))


def test_bytes_that_lie_apart_or_askew_are_no_other_dtype():
    bytes_ = whole(TensorSpec("i8", (4, 8)))
    assert bytes_.part([(0, 4), (0, 4)], ()).seen_as(TensorSpec("f32", (4,))) is None
    assert bytes_.part([(1, 2), (0, 4)], ()).seen_as(TensorSpec("f32", (1,))) == Layout("f32", 2, (1,), (1,))
    assert bytes_.part([(1, 2), (2, 6)], ()).seen_as(TensorSpec("f32", (1,))) is None


def test_empty_views():
    spec = TensorSpec("f32", (0, 4))
    assert whole(spec).seen_as(TensorSpec("f32", (2, 0))) == Layout("f32", 0, (2, 0), (0, 1))
    assert hull(spec, Layout("f32", 0, (2, 0), (0, 1))) == ((0, 0), (0, 0))
