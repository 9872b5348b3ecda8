"""Products of weights laid out in cells: right, and a row's bits its own whatever rows there are beside it."""

import pytest
import torch

from ops.kernels import numerics, products
from ops.kernels.products import lay_out, way_of

SHAPES = [(1, 1), (64, 64), (333, 96), (24, 4096), (1000, 1100), (512, 1024)]
"""Columns and summed elements: a few, odd ones, and more than a library sums at a time."""
NUM_ROWS = 40
VNNI_WAYS = ([products._codes_blocked] if products.has_vnni() else []) + (
    [products._codes_packed] if products.has_fbgemm_codes() else []
)


def operands(dtype, n, k, rows=NUM_ROWS):
    torch.manual_seed(n * k)
    if dtype == torch.int8:
        return (torch.randint(-128, 128, shape, dtype=torch.int8) for shape in ((rows, k), (n, k)))
    return torch.randn(rows, k).to(dtype), (torch.randn(n, k) * k**-0.5).to(dtype)


@pytest.fixture(params=["as it is", "nothing packed", "no oneDNN", "no FBGEMM", "neither"])
def library(request, monkeypatch):
    """This machine with some of its libraries hidden."""
    if request.param != "as it is":
        monkeypatch.setattr(products, "has_packed", lambda: False)
    for name in ("has_onednn", "has_vnni", "has_fbgemm_codes", "has_bf16") if request.param in ("no oneDNN", "neither") else ():
        monkeypatch.setattr(products, name, lambda: False)
    if request.param in ("no FBGEMM", "neither"):
        for name in ("has_fbgemm", "has_fbgemm_codes"):
            monkeypatch.setattr(products, name, lambda: False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("n, k", SHAPES)
def test_products_are_sums_in_f32_or_exact_and_no_row_sees_another(dtype, n, k, library):
    x, w = operands(dtype, n, k)
    laid = lay_out(w)
    whole = laid.product(x)
    expected = x.double() @ w.double().T
    if dtype == torch.int8:
        assert whole.dtype == torch.int32 and torch.equal(whole.double(), expected)
    else:
        assert whole.dtype == torch.float32
        assert float((whole - expected).norm() / expected.norm()) < 1e-6
    for first, count in ((0, 1), (7, 1), (3, 2), (0, 3), (5, 8), (1, 16), (8, 17), (0, 0)):
        assert torch.equal(laid.product(x[first : first + count]), whole[first : first + count]), (first, count)


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("n, k", [(5, 64), (66, 1000), (1003, 520), (512, 512), (2000, 520)])
def test_a_column_is_the_same_however_many_ranks_share_a_matrix(n, k, dtype, packs, monkeypatch):
    """Shares for which a library would take another way, or which another would take: of few columns, odd ones, few values."""
    monkeypatch.setattr(products, "has_packed", lambda has=products.has_packed: packs and has())
    x, w = operands(dtype, n, k)
    for rows in (x[:1], x[:8], x):
        expected = products.lay_out(w, is_share=True).product(rows)
        for ranks in (2, 4):
            shares = [products.lay_out(share, is_share=True) for share in w.split(-(-n // ranks))]
            assert torch.equal(torch.cat([share.product(rows) for share in shares], dim=1), expected)
    exact = x.double() @ w.double().T
    assert float((expected - exact).norm() / exact.norm()) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("n, k", [(8, 0), (0, 8), (0, 0)])
def test_products_of_nothing_are_zeros(dtype, n, k, library):
    x, w = torch.ones(4, k, dtype=dtype), torch.ones(n, k, dtype=dtype)
    made = lay_out(w).product(x)
    assert made.shape == (4, n) and made.dtype == lay_out(w[:1] if n else torch.ones(1, k, dtype=dtype)).product(x).dtype
    assert not made.any()
    assert lay_out(w, rows=(0, n)).part((0, n), (0, k)).product(x[:0]).shape == (0, n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
@pytest.mark.parametrize("rows, columns", [((0, 0), (0, 1)), ((0, 3), (0, 0)), ((3, 3), (1, 1))])
def test_parts_without_elements_of_a_matrix_are_products_of_nothing(dtype, rows, columns):
    """The first half of one column, say."""
    part = lay_out(torch.ones(3, 1, dtype=dtype), rows=(0, 3), columns=(0, 1)).part(rows, columns)
    made = part.product(torch.ones(4, columns[1] - columns[0], dtype=dtype))
    assert made.shape == (4, rows[1] - rows[0]) and not made.any()
    assert made.dtype == (torch.int32 if dtype == torch.int8 else torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("n, k", [(1, 256), (40, 300), (16, 1100)])
def test_any_number_of_rows_anywhere_in_memory_gives_the_same_bits(dtype, n, k):
    """A library has kernels for some numbers of rows, and takes what is left over by others."""
    x, w = operands(dtype, n, k, rows=260)
    laid = lay_out(w)
    whole = laid.product(x)
    for count in (*range(1, 45), *range(118, 136), *range(241, 248)):
        first = count * 7 % (260 - count)
        room = torch.empty(count * k + 16, dtype=dtype)
        rows = room[count % 16 :][: count * k].view(count, k).copy_(x[first : first + count])
        for given in (x[first : first + count], rows):
            assert torch.equal(laid.product(given), whole[first : first + count]), (first, count)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("n, k", SHAPES)
def test_threads_change_no_bit(dtype, n, k):
    x, w = operands(dtype, n, k)
    laid, made = lay_out(w), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made.append([laid.product(x[:rows]) for rows in (1, 2, 7, 8, NUM_ROWS)])
    finally:
        torch.set_num_threads(1)
    for other in made[1:]:
        assert all(torch.equal(a, b) for a, b in zip(made[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_cells_are_parts_of_the_whole(dtype):
    x, w = operands(dtype, 96, 200)
    laid = lay_out(w, rows=(32, 33), columns=(64,))
    expected = x.double() @ w.double().T
    out = torch.empty(NUM_ROWS, 96, dtype=torch.int32 if dtype == torch.int8 else torch.float32)
    laid.product_into(x, out)
    assert torch.equal(out, laid.product(x))
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-4)
    part = laid.part((32, 96), (64, 200))
    assert part.shape == (64, 136) and part.rows == (0, 1, 64)
    torch.testing.assert_close(
        part.product(x[:, 64:]).double(), x[:, 64:].double() @ w[32:, 64:].double().T, rtol=1e-5, atol=1e-4
    )
    assert laid.part((0, 96), (0, 200)) is laid


def test_codes_whose_sums_f32_does_not_hold_are_summed_in_parts():
    x, w = (torch.full(shape, -128, dtype=torch.int8) for shape in ((3, 4100), (24, 4100)))
    w[5, 7] = 127
    for way in (products._codes_half, products._codes_plain, *VNNI_WAYS):
        assert torch.equal(way(w)(x).long(), x.long() @ w.long().T)


def test_small_bf16_values_beside_large_ones_keep_their_bits():
    w = ((torch.rand(64, 256) + 0.5) * 2.0 ** torch.randint(-28, 1, (64, 256))).bfloat16()
    one = torch.eye(256)
    assert torch.equal(lay_out(w).product(one).T, w.float()) or way_of(w.dtype, "cpu", False) is not products._half


def test_a_fast_bf16_product_is_rounded_once_more():
    x, w = operands(torch.bfloat16, 64, 256)
    exact, fast = lay_out(w).product(x), lay_out(w, is_fast=True).product(x)
    assert fast.dtype == torch.float32
    torch.testing.assert_close(fast, exact, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("live", [0, 1, 5, 16])
def test_rows_at_the_end_that_are_zero_are_left_out_and_change_nothing(dtype, live, monkeypatch):
    monkeypatch.setattr(products, "_LEAST_BYTES", 1)
    x, w = operands(dtype, 96, 200, rows=16)
    x[live:], x[1::3] = 0, 0  # rows before them that are zero as well
    laid, out = lay_out(w, rows=(32,), columns=(64,)), torch.full((16, 96), 7.0 if dtype != torch.int8 else 7)
    laid.product_into(x, out)
    last = 1 + max((row for row in range(16) if x[row].any()), default=0)
    assert laid.skips_zeros and last <= products._live_rows(x) <= 2 * last
    assert torch.equal(laid.product(x), out.to(laid.product(x).dtype))
    monkeypatch.setattr(products, "_FEW_ROWS", 0)
    assert torch.equal(laid.product(x), out.to(laid.product(x).dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("scales", ["ones", "others"])
@pytest.mark.parametrize("live", [0, 3, 16])
def test_a_scaled_product_is_the_product_times_both_scales(dtype, scales, live, monkeypatch):
    monkeypatch.setattr(products, "_LEAST_BYTES", 1)
    x, w = operands(dtype, 48, 200, rows=16)
    x[live:] = 0
    row_scale, column_scale = torch.rand(16, 1), torch.ones(48) if scales == "ones" else torch.rand(48)
    laid = lay_out(w)
    expected = numerics.dequantise(laid.product(x), row_scale, column_scale)
    assert torch.equal(numerics.scaled_product(x, laid, row_scale, column_scale), expected)
    for out in (torch.full((16, 48), torch.nan), torch.full((16, 48), torch.nan, dtype=torch.bfloat16)):
        numerics.scaled_product_into(x, laid, row_scale.view(-1), column_scale, out)
        assert torch.equal(out, expected.to(out.dtype))
    before = torch.rand(18, 48)  # has a row more than `x` at each end
    added, plain = before.clone(), before.clone()
    numerics.add_scaled_product(x, laid, row_scale, column_scale, added[1:17])
    numerics.add_product(x, laid, plain[1:17])
    assert torch.equal(added, before + torch.nn.functional.pad(expected, (0, 0, 1, 1)))
    assert torch.equal(plain, before + torch.nn.functional.pad(laid.product(x), (0, 0, 1, 1)))


def test_rows_of_zeros_times_what_is_not_finite_are_not_zeros(monkeypatch):
    monkeypatch.setattr(products, "_LEAST_BYTES", 1)
    w = torch.ones(8, 64)
    w[3, 5] = float("inf")
    made = lay_out(w).product(torch.zeros(4, 64))
    assert made[:, 3].isnan().all() and not made[:, :3].any()
