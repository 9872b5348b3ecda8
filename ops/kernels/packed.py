"""f32 products of MKL with a matrix that is packed once: faster than oneDNN's where MKL takes the widest instructions there are.

MKL packs for a number of rows and of threads, and multiplies any. A row's bits depend neither on other rows nor on threads where
MKL keeps the promise of `MKL_CBWR=AUTO,STRICT`, unless it cuts the sums of a narrow matrix for many threads. Without the promise
(nobody asked for it, or the CPU is not Intel's) rows that are left over of fours go another way, and so do columns that are left
over of 24s of a thread; both are filled up with zeros there. Which of it holds for a matrix of some shape an experiment tells,
once a process: equal machines find the same. `tests/ops/test_packed.py` makes many more.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

Multiply = Callable[[torch.Tensor], torch.Tensor]
"""`x` [M, K] to `x @ w.T` [M, N] of one matrix or cell: f32, or int32 where both are int8."""

_PACKED_FOR = 128
"""Rows for which matrices are packed: as fast for one row and for 2,048 as if they were packed for these."""
_TRIED_ROWS = (1, 2, 3, 4, 5, 7, 8, 13)
"""Each way that MKL goes for some rows, with AVX-512 or AVX2 and for whatever shape, it goes for one of these numbers of them."""
_ALL_ROWS = 32
_LEAST_COLUMNS, _TELLING_SHAPE = 16, (24, 64)
"""A narrower matrix is packed with the promise alone; without it one of this shape has rows and columns that go other ways."""
_ALIKE_COLUMNS = 3072
"""Of a wider matrix so many columns, and what is left over of them, are tried, as a try takes memory."""
_OFFSETS = 16
"""Elements by which rows begin behind a multiple of 64 bytes, or fewer."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a matrix is packed."""

    rows: int = 1
    """Products have a multiple of as many rows, or one more."""
    columns: int = 1
    """The matrix has a multiple of as many columns for each thread."""
    threads: int = 1
    """It is packed for."""


_WAYS = (Way(), Way(rows=4, columns=24))


@functools.cache
def has_packed() -> bool:
    """Whether there are packed products, and MKL takes the widest instructions: AVX-512 it does on Intel's CPUs alone."""
    return torch.backends.mkl.is_available() and hasattr(torch.ops.mkl, "_mkl_linear") and (has_avx2_alone() or _is_intel())


@functools.cache
def has_avx2_alone() -> bool:
    """Whether libraries take their kernels for AVX2, as there is no AVX-512."""
    return torch.cpu._is_avx2_supported() and not torch.cpu._is_avx512_supported()


def packed(w: torch.Tensor, is_fast: bool = False) -> Multiply | None:
    """Products with `w` [N, K] of f32; None where a row's bits would depend on other rows, which `is_fast` allows."""
    threads = torch.get_num_threads()
    way = Way(threads=threads) if is_fast else way_of_shape(w.shape[0], w.shape[1], threads)
    return way and pack(w, way)


@functools.cache
def way_of_shape(num_columns: int, num_sums: int, threads: int) -> Way | None:
    """The way in which rows of a product with a matrix [N, K] keep their bits, whatever rows there are; None if there is none.

    The bits are the same for all `threads`: where packing for as many would change them, it is for half as many, and so on. A way
    that keeps them for two goes before one that does so for one alone.
    """
    if num_columns < _LEAST_COLUMNS and way_of_shape(*_TELLING_SHAPE, 1) != Way():
        return None
    num_columns = min(num_columns, _ALIKE_COLUMNS + num_columns % _ALIKE_COLUMNS)
    made = torch.Generator().manual_seed(0)
    w, x = torch.randn(num_columns, num_sums, generator=made), torch.randn(_ALL_ROWS, num_sums, generator=made)
    chosen = None
    for way in _WAYS:
        with _threads(1):
            expected = pack(w, way)(x)
        if _keeps(pack(w, way), x, 1, expected):
            chosen = chosen or (way, expected)
            if _keeps(pack(w, replace(way, threads=2)), x, 1, expected):
                chosen = way, expected
                break
    if chosen is None:
        return None
    way, expected = chosen
    while threads > 1:
        many = replace(way, threads=threads)
        if _keeps(pack(w, many), x, threads, expected):
            return many
        threads = (threads + 1) // 2 if threads > 2 else 1
    return way


def _keeps(multiply: Multiply, x: torch.Tensor, threads: int, expected: torch.Tensor) -> bool:
    """Whether the first rows by themselves, anywhere in memory, have the bits that they have among more."""
    room = torch.empty(x.numel() + _OFFSETS)
    with _threads(threads):
        for number, count in enumerate((*_TRIED_ROWS, _ALL_ROWS)):
            for offset in (number, number * 5 % _OFFSETS + 1):
                rows = room[offset : offset + count * x.shape[1]].view(count, x.shape[1]).copy_(x[:count])
                if not torch.equal(multiply(rows), expected[:count]):
                    return False
    return True


def pack(w: torch.Tensor, way: Way) -> Multiply:
    """Products with `w` [N, K], packed in a way."""
    num_columns, step = w.shape[0], way.rows
    num_added = -num_columns % (way.columns * way.threads)
    filled = torch.nn.functional.pad(w, (0, 0, 0, num_added)) if num_added else w.contiguous()
    with _threads(way.threads):
        values = torch.ops.mkl._mkl_reorder_linear_weight(filled, _PACKED_FOR)
    linear, shape = torch.ops.mkl._mkl_linear.default, torch.empty(1).expand(filled.shape)  # is asked for its shape alone

    def multiply(x: torch.Tensor) -> torch.Tensor:
        num_rows = x.shape[0]
        if num_rows == 0:
            return x.new_empty(0, num_columns, dtype=torch.float32)
        return linear(x if x.dtype == torch.float32 else x.float(), values, shape, None, num_rows)

    def filled_up(x: torch.Tensor) -> torch.Tensor:
        num_rows = x.shape[0]
        product = multiply(torch.nn.functional.pad(x, (0, 0, 0, -num_rows % step)) if num_rows % step > 1 else x)
        return product[:num_rows, :num_columns].contiguous() if num_added else product[:num_rows]

    return filled_up if num_added or step > 1 else multiply


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if number == before:
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _is_intel() -> bool:
    try:
        with Path("/proc/cpuinfo").open() as info:
            told = info.read(4096)
    except OSError:
        told = platform.processor()
    return "GenuineIntel" in told
