"""Arithmetic that ops share: per-row INT8 quantisation and matrix products in every precision.

Shape suffixes of names: M rows, K summed, N columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ops.kernels.products import Laid, lay_out

INT8_MAX = 127.0
AMAX_FLOOR = 1e-4
"""Rows smaller than this are quantised as if their largest element were this."""
_VECTORS = 128
"""Bytes that a loop of torch's takes at a time on any CPU: two vectors of 64."""
_GRAIN = 32768
"""Elements of a share of a thread's, at least."""
_MOST_TILES = 8
"""Tiles of rows that are computed at a time: bounds what lies between, so that caches hold it."""


def of_each(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """`function` of each element of a float tensor, which it may write over; bits follow from the element alone.

    torch has one formula of a sigmoid, silu or softplus for whole vectors, and another for the elements that are left over at
    the end of a tensor, or of a thread's share of it: none is left over here.
    """
    if x.device.type != "cpu":
        return function(x)
    size, step = x.numel(), _VECTORS // x.itemsize
    if size > _GRAIN:
        step *= min(torch.get_num_threads(), -(-size // _GRAIN))
    if size % step == 0 and x.is_contiguous():
        return function(x)
    padded = x.new_zeros(size + -size % step)
    padded[:size].view(x.shape).copy_(x)
    return function(padded)[:size].view(x.shape)


def rms_scale(x: torch.Tensor, eps: float) -> torch.Tensor:
    """`1 / sqrt(mean(x^2) + eps)` over the last dimension of an f32 tensor, kept with size 1; a mean takes thrice as long."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def quantise_rows(x: torch.Tensor, out: torch.Tensor, scale_out: torch.Tensor) -> None:
    """Symmetric quantisation of each row (last dimension) of `x`, or a plain copy.

    `x` is any float [..., K]; `out` [..., K] decides: int8 gets `round(x * 127 / amax)` with `amax` floored at 1e-4 and ties to
    even; a float dtype gets `x`. `scale_out` (f32, one element a row, with or without a trailing 1) gets what a row must
    be multiplied by to get `x` back: `amax / 127`, or 1 where nothing was quantised.

    Source: W8A8 rules of the pypto-lib kernels. Their cast through FP16 changes nothing for integers up to 127.
    """
    if out.dtype != torch.int8:
        out.copy_(x)
        scale_out.fill_(1.0)
        return
    rows = x.float()
    scale = rows.abs().amax(dim=-1, keepdim=True).clamp_min_(AMAX_FLOOR).reciprocal_().mul_(INT8_MAX)
    out.copy_((rows * scale).round_())
    torch.reciprocal(scale.view(scale_out.shape), out=scale_out)


def widened(x: torch.Tensor) -> torch.Tensor:
    """Floats as several products on the CPU take them, f32, converted once; codes as they are."""
    return x.float() if x.is_floating_point() and x.device.type == "cpu" else x


def _laid(w: torch.Tensor | Laid) -> Laid:
    return w if isinstance(w, Laid) else lay_out(w)


def matmul_nt(x: torch.Tensor, w: torch.Tensor | Laid, out: torch.Tensor) -> None:
    """`out = x @ w.T`, summed in int32 for int8 operands and in f32 otherwise.

    `x` [M, K] and `w` [N, K] are both int8 (`out` int32 [M, N], exact) or both floating (`out` any float dtype [M, N],
    rounded once). A `w` that is not laid out is so for this product alone, which changes no bit.
    """
    _laid(w).product_into(x, out)


def product(x: torch.Tensor, w: torch.Tensor | Laid) -> torch.Tensor:
    """`x @ w.T` in the accumulator's dtype: int32 for int8 operands, else f32."""
    return _laid(w).product(x)


def wide_product(x: torch.Tensor, w: torch.Tensor | Laid, *, is_padded: bool = True) -> torch.Tensor:
    """`x @ w.T` as f32, to which an int32 sum is rounded; unless `is_padded` nobody looks for zeros at the end of `x`."""
    return _laid(w).wide_product(x) if is_padded else _laid(w).wide_sums(x)


def add_product(x: torch.Tensor, w: torch.Tensor | Laid, acc: torch.Tensor) -> None:
    """`acc += product(x, w)` where `x` [M, K] has rows; those at its end that are zero add nothing."""
    laid = _laid(w)
    num_live = laid.live_rows(x)
    acc[:num_live] += laid.sums(x[:num_live])


def scaled_product(
    x: torch.Tensor, w: torch.Tensor | Laid, row_scale: torch.Tensor, column_scale: torch.Tensor, *, is_padded: bool = True
) -> torch.Tensor:
    """`dequantise(wide_product(x, w), row_scale, column_scale)`; column scales of 1, which change nothing, are left out."""
    acc = wide_product(x, w, is_padded=is_padded).mul_(row_scale.reshape(-1, 1))
    return acc if is_ones(column_scale) else acc.mul_(column_scale)


def scaled_product_into(
    x: torch.Tensor,
    w: torch.Tensor | Laid,
    row_scale: torch.Tensor,
    column_scale: torch.Tensor,
    out: torch.Tensor,
    *,
    is_padded: bool = True,
) -> None:
    """The same, rounded once to `out` [M, N]."""
    laid, row_scale = _laid(w), row_scale.reshape(-1, 1)
    num_live = laid.live_rows(x) if is_padded else x.shape[0]
    if num_live < x.shape[0]:
        out[num_live:].zero_()
        x, row_scale, out = x[:num_live], row_scale[:num_live], out[:num_live]
    sums = laid.wide_sums(x)
    if is_ones(column_scale):
        torch.mul(sums, row_scale, out=out)
    else:
        torch.mul(sums.mul_(row_scale), column_scale, out=out)


def add_scaled_product(
    x: torch.Tensor, w: torch.Tensor | Laid, row_scale: torch.Tensor, column_scale: torch.Tensor, acc: torch.Tensor
) -> None:
    """`acc += scaled_product(...)` where `x` [M, K] has rows; those at its end that are zero add nothing."""
    laid = _laid(w)
    num_live = laid.live_rows(x)
    acc[:num_live] += scaled_product(x[:num_live], laid, row_scale[:num_live], column_scale, is_padded=False)


def dequantise(acc: torch.Tensor, row_scale: torch.Tensor, column_scale: torch.Tensor) -> torch.Tensor:
    """A new tensor: `acc` [M, N] (int32 or float) as f32, times `row_scale` [M] or [M, 1], times `column_scale` [N]."""
    return (acc.float() * row_scale.reshape(-1, 1)).mul_(column_scale)


def is_ones(scale: torch.Tensor) -> bool:
    """Whether `scale` is all ones; looked at again only when it was written, which nobody does to a weight."""
    if scale.is_inference():  # of a task's, nobody counts what is written
        return bool((scale == 1).all())
    version = scale._version
    known = getattr(scale, "_ringgraph_is_ones", None)
    if known is None or known[0] != version:
        known = version, bool((scale == 1).all())
        scale._ringgraph_is_ones = known  # type: ignore[attr-defined]
    return known[1]


def beside(parts: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Matrices [M, N] that lie side by side in one row-major matrix, as a view [M, sum of N] of it; None where they do not."""
    first = parts[0]
    (rows, columns), strides, dtype = first.shape, first.stride(), first.dtype
    begin, size = first.data_ptr(), first.itemsize
    for part in parts[1:]:
        is_next = part.data_ptr() == begin + columns * size
        if not is_next or part.shape[0] != rows or part.stride() != strides or part.dtype != dtype:
            return None
        columns += part.shape[1]
    return _seen(first, (rows, columns)) if strides[1] == 1 and columns <= strides[0] else None


def of_tiles(kernel: Callable[..., None], *tiled: str) -> Callable[..., None]:
    """A kernel of many units of `kernel`, to which a row's bits are its own: a few tiles of rows are computed by one call.

    Units run one by one where operands `tiled` do not lie one beneath the other, or any other one is not the same in all of them.
    """

    def run(units: Sequence[Mapping[str, Any]]) -> None:
        for first in range(0, len(units), _MOST_TILES):
            some = units[first : first + _MOST_TILES]
            wholes = {name: beneath([unit[name] for unit in some]) for name in tiled}
            shared = [(name, value) for name, value in some[0].items() if name not in wholes]
            is_one = all(is_same(unit[name], value) for unit in some[1:] for name, value in shared)
            is_one &= all(whole is not None for whole in wholes.values())
            for unit in [{**some[0], **wholes}] if is_one else some:
                kernel(**unit)

    return run


def beneath(parts: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Rows [M, ...] of one tensor that follow each other, as a view [sum of M, ...] of it; None where they do not."""
    first = parts[0]
    (rows, *shape), strides, dtype = first.shape, first.stride(), first.dtype
    begin, step = first.data_ptr(), strides[0] * first.itemsize
    for part in parts[1:]:
        is_next = part.data_ptr() == begin + rows * step
        if not is_next or part.shape[1:] != first.shape[1:] or part.stride() != strides or part.dtype != dtype:
            return None
        rows += part.shape[0]
    return _seen(first, (rows, *shape))


def _seen(first: torch.Tensor, shape: Sequence[int]) -> torch.Tensor | None:
    """A larger view that begins as `first` does; None where its storage ends before: what follows is another's by chance."""
    strides = first.stride()
    last = first.storage_offset() + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    return first.as_strided(shape, strides) if (last + 1) * first.itemsize <= first.untyped_storage().nbytes() else None


def is_same(a: Any, b: Any) -> bool:
    """Whether two values of an operand or an attribute are one: tensors are compared by where they lie."""
    if a is b:
        return True
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype
    return a == b
