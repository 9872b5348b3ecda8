"""Matrix products `x @ w.T`, and weights laid out for them once, as the libraries of this machine like them best.

A matrix is laid out in cells, cut where some task reads a part of it, so that one layout serves a graph that reads it whole and
one that reads it in tiles. What multiplies a cell is chosen by dtype and by what the CPU can do, never by a clock: two processes
on equal machines make the same bits.

| weight | on a CPU with | laid out as | sums |
|---|---|---|---|
| f32 | MKL, if it takes the widest instructions | its packed form | f32 |
| f32 | oneDNN | its blocks | f32 |
| bf16, or int8 without VNNI, few values | MKL, likewise | f32, packed | f32, int32 |
| bf16 | FBGEMM | f16 times a power of two, which changes no value | f32 |
| bf16, fast | oneDNN and BF16 or AMX instructions | its blocks | f32, rounded to bf16 |
| int8 | FBGEMM, and VNNI of 512 bits | its blocks | int32 |
| int8 | oneDNN and VNNI | its blocks | int32 |
| int8 | FBGEMM | f16, 1,024 columns at a time | int32 |

A row's bits do not depend on what other rows there are, nor on threads: experiments in `tests/ops/test_products.py`. oneDNN takes
another way for one row with AVX-512, which is why it gets two unless `is_fast`; FBGEMM does so without AVX-512 for the one or two
rows that its kernels of three to six may leave at the end, which is why it gets rows in threes. Of MKL tells `packed.py`.

Shape suffixes of names: M rows, K summed, N columns.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from ops.kernels.packed import Multiply, Way, has_avx2_alone, has_packed, pack, packed

Cuts = Callable[[Mapping[str, tuple[int, ...]]], tuple[Sequence[int], Sequence[int]]]
"""Rows and columns at which a kernel cuts an operand itself, by the shapes of the call's operands."""

_EXACT_K = 1024
"""int8 products summed over this many elements stay within the 24 bits that f32 holds exactly (128 * 128 * 1024 == 2**24)."""
_EXACT_F32 = 2.0**24
_HALF_TOP = 2.0**14
"""Weights are scaled so that the largest magnitude in f16 is at most this."""
_PANEL_N = 256
"""Columns whose weights are widened to f32 at a time, few enough to stay in a core's cache."""
_ROWS = 16
"""Rows of every product of a library whose bits may depend on how many there are."""
_HALF_ROWS = 3
"""Rows of an f16 product on a CPU without AVX-512 are a multiple of this."""
_ALIKE_COLUMNS = 32
"""FBGEMM takes another way for columns that are left over of as many with AVX-512, oneDNN for a few."""
_LEAST_ROWS, _FEW_ROWS = 8, 64
"""Products of as many rows leave out rows at the end that are zero: what pads a few tokens to a whole tile."""
_LEAST_BYTES = 2**20
"""Of a matrix for which it pays to look for them."""
_FEW_VALUES = 2**17
"""A bf16 matrix of no more is read as fast in f32."""


# --- laid out weights ---


@dataclass(frozen=True, slots=True)
class Laid:
    """A matrix [N, K] laid out in cells: `cells[i][j]` has rows `rows[i]` to `rows[i + 1]`, columns alike."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    cells: tuple[tuple[Multiply, ...], ...]
    nbytes: int = 0
    is_finite: bool = False
    """Whether a product with a row of zeros is known to be zeros."""
    skips_zeros: bool = False
    """Whether it pays to look for such rows."""
    lines: tuple[Multiply, ...] = field(init=False, repr=False, compare=False)
    """Products with the rows of each line of cells."""
    sums: Multiply = field(init=False, repr=False, compare=False)
    """`product`, all rows multiplied whether they are zero or not."""
    wide_sums: Multiply = field(init=False, repr=False, compare=False)
    """`wide_product`, likewise."""
    _parts: dict[tuple[tuple[int, int], tuple[int, int]], Laid] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Where there is one cell, what multiplies it is called at once: in decoding each call of Python's counts."""
        lines = tuple(_line(cells, self.columns) for cells in self.cells)
        sums = lines[0] if len(lines) == 1 else lambda x: torch.cat([multiply(x) for multiply in lines], dim=1)
        wide = getattr(sums, "exact_sums", None) or ((lambda x: sums(x).float()) if self.dtype == torch.int8 else sums)
        for name, value in (("lines", lines), ("sums", sums), ("wide_sums", wide)):
            object.__setattr__(self, name, value)

    def part(self, rows: tuple[int, int], columns: tuple[int, int]) -> Laid:
        """Rows and columns `[lo, hi)`, which must be cuts."""
        known = self._parts.get((rows, columns))
        if known is None:
            known = self._parts[rows, columns] = self._part(rows, columns)
        return known

    def _part(self, rows: tuple[int, int], columns: tuple[int, int]) -> Laid:
        if (rows, columns) == ((0, self.shape[0]), (0, self.shape[1])):
            return self
        top, bottom = (self.rows.index(row) for row in rows)
        left, right = (self.columns.index(column) for column in columns)
        cut_rows = tuple(row - rows[0] for row in self.rows[top : bottom + 1])
        cut_columns = tuple(column - columns[0] for column in self.columns[left : right + 1])
        cells = tuple(line[left:right] for line in self.cells[top:bottom])
        shape = (rows[1] - rows[0], columns[1] - columns[0])
        if not shape[0] * shape[1]:
            return Laid(shape, self.dtype, (0, shape[0]), (0, shape[1]), ((_no_sums(shape[0], self.dtype),),))
        skips_zeros = self.is_finite and _is_large(shape, self.dtype)
        return Laid(shape, self.dtype, cut_rows, cut_columns, cells, is_finite=self.is_finite, skips_zeros=skips_zeros)

    def live_rows(self, x: torch.Tensor) -> int:
        """Rows of `x` that are to be multiplied: those after them are zero, and so are their products."""
        num_rows = x.shape[0]
        return _live_rows(x) if self.skips_zeros and _LEAST_ROWS <= num_rows <= _FEW_ROWS else num_rows

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """`x @ self.T`."""
        return self._of_live_rows(self.sums, x)

    def product_into(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """The same, rounded to `out` [M, N]."""
        num_live = self.live_rows(x)
        if num_live < x.shape[0]:
            out[num_live:].zero_()
            x, out = x[:num_live], out[:num_live]
        if len(self.cells) == 1:
            out.copy_(self.sums(x))
            return
        for multiply, lo, hi in zip(self.lines, self.rows, self.rows[1:], strict=False):
            out[:, lo:hi] = multiply(x)

    def wide_product(self, x: torch.Tensor) -> torch.Tensor:
        """The same as f32, to which an int32 sum is rounded."""
        return self._of_live_rows(self.wide_sums, x)

    def _of_live_rows(self, multiply: Multiply, x: torch.Tensor) -> torch.Tensor:
        num_rows, num_live = x.shape[0], self.live_rows(x)
        if num_live < num_rows:
            return torch.nn.functional.pad(multiply(x[:num_live]), (0, 0, 0, num_rows - num_live))
        return multiply(x)


def _line(cells: Sequence[Multiply], columns: Sequence[int]) -> Multiply:
    """Products with cells side by side, cut at `columns`."""
    if len(cells) == 1:
        return cells[0]

    def multiply(x: torch.Tensor) -> torch.Tensor:
        total = cells[0](x[:, : columns[1]])
        for cell, lo, hi in zip(cells[1:], columns[1:], columns[2:], strict=False):
            total += cell(x[:, lo:hi])
        return total

    return multiply


def _is_large(shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    return shape[0] * shape[1] * dtype.itemsize >= _LEAST_BYTES


def _live_rows(x: torch.Tensor) -> int:
    """Rows of `x` but for a half of them, of what is left another, and so on, as long as the half at the end is zero.

    The first column, which costs little, says how many these are; all columns must agree.
    """
    first = x[:, 0].tolist()
    num_rows = num_live = len(first)
    while num_live > 1 and not any(first[num_live - num_live // 2 : num_live]):
        num_live -= num_live // 2
    return num_live if num_live < num_rows and not any(torch.aminmax(x[num_live:])) else num_rows


def lay_out(
    w: torch.Tensor, rows: Sequence[int] = (), columns: Sequence[int] = (), *, is_fast: bool = False, is_share: bool = False
) -> Laid:
    """`w` [N, K] in cells cut at `rows` and `columns`.

    Of a share, rows that a rank has of a matrix, a row's product does not depend on how many they are (unless `is_fast`).
    """
    cut_rows, cut_columns = ((0, *sorted({*cuts} - {0, size}), size) for size, cuts in zip(w.shape, (rows, columns), strict=True))
    make = way_of(w.dtype, w.device.type, is_fast) if w.numel() else _without_elements
    if is_share and not is_fast and w.device.type == "cpu" and w.dtype in (torch.float32, torch.bfloat16) and w.numel():
        make = _alike
    cells = tuple(
        tuple(make(w[top:bottom, left:right]) for left, right in pairwise(cut_columns)) for top, bottom in pairwise(cut_rows)
    )
    is_finite = w.device.type == "cpu" and bool(w.sum(dtype=torch.float32).isfinite())  # a sum that overflows costs time alone
    skips_zeros = is_finite and _is_large(w.shape, w.dtype)
    return Laid(tuple(w.shape), w.dtype, cut_rows, cut_columns, cells, w.nbytes, is_finite, skips_zeros)


def part_of(w: torch.Tensor | Laid, rows: tuple[int, int], columns: tuple[int, int]) -> torch.Tensor | Laid:
    """Rows and columns `[lo, hi)` of a matrix; of one that is laid out they must be cuts."""
    return w.part(rows, columns) if isinstance(w, Laid) else w[slice(*rows), slice(*columns)]


def reads_laid_out(**operands: Cuts | None) -> Callable[[Any], Any]:
    """Decorator of a kernel that takes these matrices [N, K] laid out as well as plain; see `runner.execution.layouts`.

    Each has None, or where the kernel cuts the matrix itself.
    """

    def mark(kernel: Any) -> Any:
        kernel.laid_out = operands
        kernel.lay_out = lay_out
        return kernel

    return mark


# --- what multiplies a cell ---


def way_of(dtype: torch.dtype, device: str, is_fast: bool) -> Callable[[torch.Tensor], Multiply]:
    """How matrices of a dtype are laid out."""
    if device != "cpu":
        return _elsewhere_codes if dtype == torch.int8 else _elsewhere
    if dtype == torch.int8:
        if has_fbgemm_codes():
            return _codes_packed
        return _codes_blocked if has_vnni() else _codes_half if has_fbgemm() else _codes_plain
    if dtype == torch.bfloat16:
        if is_fast and has_onednn() and has_bf16():
            return _bf16_blocked
        return _few_or_half if has_fbgemm() else _widened
    if dtype == torch.float32:
        return functools.partial(_wide, is_fast=is_fast)
    return _widened


@functools.cache
def has_onednn() -> bool:
    return torch.backends.mkldnn.is_available()


@functools.cache
def has_vnni() -> bool:
    """Whether this CPU sums int8 products in 32 bits; without VNNI, pairs of products may saturate at 16."""
    return has_onednn() and (torch.cpu._is_vnni_supported() or torch.cpu._is_amx_tile_supported())


@functools.cache
def has_fbgemm_codes() -> bool:
    """Whether FBGEMM multiplies int8 without saturating: it does so with VNNI, which the largest products there are must show."""
    if not has_vnni() or not has_fbgemm():
        return False
    x, w = torch.full((2, 64), -128, dtype=torch.int8), torch.full((16, 64), -128, dtype=torch.int8)
    w[1::2] = 127
    x[1] = 127
    return torch.equal(_codes_packed(w)(x).long(), x.long() @ w.long().T)


@functools.cache
def has_bf16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@functools.cache
def has_fbgemm() -> bool:
    return "fbgemm" in torch.backends.quantized.supported_engines


def _alike(w: torch.Tensor) -> Multiply:
    """f32 or bf16 by a library to which columns are alike, however many there are in whole blocks; to MKL they are not."""
    wide, narrow = _blocked if has_onednn() else _plain, _half if has_fbgemm() else _widened
    make, num_columns = wide if w.dtype == torch.float32 else narrow, w.shape[0]
    num_added = -num_columns % _ALIKE_COLUMNS
    if not num_added:
        return make(w)
    multiply = make(torch.nn.functional.pad(w, (0, 0, 0, num_added)))
    return lambda x: multiply(x)[:, :num_columns]


def _without_elements(w: torch.Tensor) -> Multiply:
    return _no_sums(w.shape[0], w.dtype)


def _no_sums(num_columns: int, dtype: torch.dtype) -> Multiply:
    """Sums of nothing, or no columns, of a weight of this dtype."""
    acc = torch.int32 if dtype == torch.int8 else torch.float32
    return lambda x: x.new_zeros(x.shape[0], num_columns, dtype=acc)


def _wide(w: torch.Tensor, is_fast: bool = False) -> Multiply:
    """f32 by the best library that there is."""
    multiply = packed(w, is_fast) if has_packed() else None
    return multiply or (_blocked(w, is_fast) if has_onednn() else _plain(w))


def _blocked(w: torch.Tensor, is_fast: bool = False) -> Multiply:
    blocks = torch.ops.mkldnn._reorder_linear_weight(w.contiguous(), None)
    linear, columns = torch.ops.mkldnn._linear_pointwise.default, w.shape[0]
    doubles_one = not is_fast and not has_avx2_alone()

    def multiply(x: torch.Tensor) -> torch.Tensor:
        num_rows = x.shape[0]
        if x.dtype != torch.float32:
            x = x.float()
        if num_rows == 1 and doubles_one:
            return linear(torch.cat((x, x)), blocks, None, "none", [], "")[:1]
        if num_rows == 0:
            return x.new_empty(0, columns)
        return linear(x.contiguous(), blocks, None, "none", [], "")

    return multiply


def _bf16_blocked(w: torch.Tensor) -> Multiply:
    blocks = torch.ops.mkldnn._reorder_linear_weight(w.contiguous(), None)
    columns = w.shape[0]

    def multiply(x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] == 0:
            return x.new_empty(0, columns, dtype=torch.float32)
        return torch.ops.mkldnn._linear_pointwise.default(x.bfloat16().contiguous(), blocks, None, "none", [], "").float()

    return multiply


def _few_or_half(w: torch.Tensor) -> Multiply:
    """A call of MKL costs a third of FBGEMM's, which outweighs twice the bytes of a small matrix."""
    multiply = packed(w.float()) if w.numel() <= _FEW_VALUES and has_packed() else None
    return multiply or _half(w)


def _half(w: torch.Tensor) -> Multiply:
    """bf16 as f16: eight bits of a value fit, and times a power of two all of a matrix do that matter in a sum.

    Of a value below 2**-31 of the largest, what is lost is less than 2**-40 of the largest.
    """
    values = w.float()
    largest = float(values.abs().max()) if values.numel() else 0.0
    if not 0.0 < largest < float("inf"):
        return _widened(w)
    scale = 2.0 ** (torch.tensor(_HALF_TOP / largest).log2().floor().clamp(-100, 100).item())
    packed, columns = torch.ops.quantized.linear_prepack_fp16((values * scale).contiguous(), None), w.shape[0]
    back, linear = torch.tensor([1.0 / scale]), torch.ops.quantized.linear_dynamic_fp16.default
    step = _HALF_ROWS if has_avx2_alone() else 1

    def multiply(x: torch.Tensor) -> torch.Tensor:
        num_rows = x.shape[0]
        if num_rows == 0:
            return x.new_empty(0, columns, dtype=torch.float32)
        if num_rows % step == 0:
            return linear(torch.mul(x, back).contiguous(), packed)
        padded = x.new_empty(num_rows + -num_rows % step, x.shape[1], dtype=torch.float32)
        torch.mul(x, back, out=padded[:num_rows])
        padded[num_rows:].zero_()
        return linear(padded, packed)[:num_rows]

    return multiply


def _codes_packed(w: torch.Tensor) -> Multiply:
    """int8 times int8 as FBGEMM's u8 times s8: it takes off the 128 that rows are shifted by. A call costs less than oneDNN's."""
    engine = torch.backends.quantized.engine
    try:
        torch.backends.quantized.engine = "fbgemm"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.ao is said to go; the kernels are not
            codes = torch.ops.aten._make_per_tensor_quantized_tensor(w.contiguous(), 1.0, 0)
            packed = torch.ops.quantized.linear_prepack(codes, None)
    finally:
        torch.backends.quantized.engine = engine
    linear = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default
    return _exact_sums(lambda x: linear(x.float(), 1.0, 128, packed), *w.shape)


def _codes_blocked(w: torch.Tensor) -> Multiply:
    """int8 times int8 as oneDNN's u8 times s8: it takes off the 128 that rows are shifted by, all in 32 bits."""
    blocks = torch.ops.onednn.qlinear_prepack(w.contiguous(), None)
    ones, zeros = torch.ones(w.shape[0]), torch.zeros(w.shape[0], dtype=torch.int32)

    def sums(x: torch.Tensor) -> torch.Tensor:
        shifted = x.contiguous().view(torch.uint8) ^ 128
        return torch.ops.onednn.qlinear_pointwise.default(
            shifted, 1.0, 128, blocks, ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )

    return _exact_sums(sums, *w.shape)


def _exact_sums(sums: Multiply, num_rows: int, num_columns: int) -> Multiply:
    """int32 of sums that a library gives as f32, exact below 2**24; where one is not, columns are taken a few at a time."""

    def multiply(x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] == 0:
            return x.new_empty(0, num_rows, dtype=torch.int32)
        total = sums(x)
        if num_columns <= _EXACT_K or float(total.abs().amax()) < _EXACT_F32:
            return total.int()
        exact = torch.zeros(total.shape, dtype=torch.int32)
        for k in range(0, num_columns, _EXACT_K):
            part = torch.zeros_like(x)
            part[:, k : k + _EXACT_K] = x[:, k : k + _EXACT_K]
            exact += sums(part).int()
        return exact

    if num_columns <= _EXACT_K:
        no_rows = torch.empty(0, num_rows)
        multiply.exact_sums = lambda x: sums(x) if x.shape[0] else no_rows  # type: ignore[attr-defined]
    return multiply


def _codes_half(w: torch.Tensor) -> Multiply:
    """Without integer instructions: codes are small integers, which f16 and f32 hold, and sums of few of them f32."""
    panels = [_codes_wide(w[:, k : k + _EXACT_K].float()) for k in range(0, w.shape[1], _EXACT_K)]

    def multiply(x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(x.shape[0], w.shape[0], dtype=torch.int32)
        if x.shape[0]:
            for k, panel in zip(range(0, w.shape[1], _EXACT_K), panels, strict=True):
                total += panel(x[:, k : k + _EXACT_K].float()).int()
        return total

    if len(panels) != 1:
        return multiply
    return _exact_sums(lambda x: panels[0](x.float()), *w.shape)


def _codes_wide(w: torch.Tensor) -> Multiply:
    """f32 sums of so few codes that no order of adding them rounds."""
    if w.numel() <= _FEW_VALUES and has_packed():
        return pack(w, Way(threads=torch.get_num_threads()))
    values = torch.ops.quantized.linear_prepack_fp16(w.contiguous(), None)
    linear = torch.ops.quantized.linear_dynamic_fp16.default
    return lambda x: linear(x.contiguous(), values)


def _codes_plain(w: torch.Tensor) -> Multiply:
    def multiply(x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(x.shape[0], w.shape[0], dtype=torch.int32, device=x.device)
        for k in range(0, w.shape[1], _EXACT_K):
            total += (x[:, k : k + _EXACT_K].float() @ w[:, k : k + _EXACT_K].float().t()).int()
        return total

    return multiply


def _plain(w: torch.Tensor) -> Multiply:
    """f32 by whatever library there is, in blocks of one size: its bits may depend on the number of rows."""
    turned = w.t()

    def multiply(x: torch.Tensor) -> torch.Tensor:
        num_rows = x.shape[0]
        padded = torch.nn.functional.pad(x.float(), (0, 0, 0, -num_rows % _ROWS))
        parts = [padded[row : row + _ROWS] @ turned for row in range(0, padded.shape[0], _ROWS)]
        return torch.cat(parts)[:num_rows] if parts else padded @ turned

    return multiply


def _widened(w: torch.Tensor) -> Multiply:
    """A narrow float, widened a panel at a time."""

    def multiply(x: torch.Tensor) -> torch.Tensor:
        panels = [_plain(w[n : n + _PANEL_N].float())(x) for n in range(0, w.shape[0], _PANEL_N)]
        return torch.cat(panels, dim=1)

    return multiply


# --- on accelerators ---


def _elsewhere(w: torch.Tensor) -> Multiply:
    turned = w.t()

    def multiply(x: torch.Tensor) -> torch.Tensor:
        if w.dtype == torch.float32:
            return x.float() @ turned
        if w.device.type == "cuda":
            return torch.mm(x.to(w.dtype), turned, out_dtype=torch.float32)
        return x.float() @ turned.float()

    return multiply


def _elsewhere_codes(w: torch.Tensor) -> Multiply:
    """`_int_mm` of CUDA wants more than 16 rows, and columns in eights on both sides: rows are padded, else sums are in f32."""
    if w.device.type != "cuda" or w.shape[0] % 8 or w.shape[1] % 8:
        return _codes_plain(w)
    turned = w.contiguous().t()

    def multiply(x: torch.Tensor) -> torch.Tensor:
        num_rows = x.shape[0]
        num_padded = max(32, num_rows + -num_rows % 8)
        return torch.ops.aten._int_mm(torch.nn.functional.pad(x, (0, 0, 0, num_padded - num_rows)), turned)[:num_rows]

    return multiply
