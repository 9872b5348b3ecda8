"""Values of tensors that are made of others, of which no more is read than what is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from runner.checkpoint.headers import Stored

Rows = tuple[int, int]
Read = Callable[[Stored, Rows | None], torch.Tensor]
"""Reads a tensor of a file, or its rows."""


def value_of(stored: Stored, rows: Rows | None, read: Read) -> torch.Tensor:
    """A tensor, or its rows `[lo, hi)`, whatever it is made of."""
    if not stored.pieces:
        return read(stored, rows)
    if stored.form == "take":
        (piece,) = stored.pieces
        value = value_of(piece.stored, (piece.lo, piece.hi), read).squeeze(0)
        return value if rows is None else value[rows[0] : rows[1]]
    if stored.form == "stack":
        lo, hi = rows or (0, len(stored.pieces))
        return _stacked([value_of(piece.stored, None, read) for piece in stored.pieces[lo:hi]])
    if stored.dim:
        whole = (value_of(piece.stored, rows, read).narrow(stored.dim, piece.lo, piece.hi - piece.lo) for piece in stored.pieces)
        return _joined(list(whole), stored.dim)
    if not stored.spec.shape:
        return value_of(stored.pieces[0].stored, None, read)
    lo, hi = rows or (0, stored.spec.shape[0])
    return _joined([value_of(part, ends, read) for part, ends in _parts(stored, lo, hi)], 0)


def _parts(stored: Stored, lo: int, hi: int) -> Iterator[tuple[Stored, Rows]]:
    """What rows `[lo, hi)` of a tensor made of rows consist of; the first piece stands for no rows at all."""
    begin = 0
    for at, piece in enumerate(stored.pieces):
        first, last = max(lo, begin), min(hi, begin + piece.hi - piece.lo)
        if first < last or (lo >= hi and at == 0):
            yield piece.stored, (piece.lo + first - begin, piece.lo + max(first, last) - begin)
        begin += piece.hi - piece.lo


def _joined(values: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
    return values[0] if len(values) == 1 else _bytewise(values, lambda parts: torch.cat(parts, dim))


def _stacked(values: Sequence[torch.Tensor]) -> torch.Tensor:
    return _bytewise(values, torch.stack)


def _bytewise(values: Sequence[torch.Tensor], put: Callable[[list[torch.Tensor]], torch.Tensor]) -> torch.Tensor:
    """As torch puts tensors together, of dtypes too that it has no copy for."""
    dtype = values[0].dtype
    if dtype.itemsize > 1:
        return put(list(values))
    return put([value.contiguous().view(torch.uint8) for value in values]).view(dtype)
