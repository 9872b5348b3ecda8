"""Products of matrices that MKL packed: a row's bits are its own, whatever MKL was promised and may use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ops.kernels import packed, products
from tests.ops import packed_bits

has_packed = pytest.mark.skipif(not hasattr(torch.ops.mkl, "_mkl_linear"), reason="torch without MKL")
OPTIONS = {
    "as it is": {},
    "AVX2": {"MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "promised": {"MKL_CBWR": "AUTO,STRICT"},
    "promised, AVX2": {"MKL_CBWR": "AUTO,STRICT", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
}


@has_packed
@pytest.mark.parametrize("name", OPTIONS)
def test_rows_keep_their_bits_beside_any_others_and_under_any_threads(name):
    env = {key: value for key, value in os.environ.items() if not key.startswith("MKL_")} | OPTIONS[name]
    root = Path(packed_bits.__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.ops.packed_bits"], env=env, cwd=root, capture_output=True, text=True, check=False
    )
    *wrong, last = ran.stdout.splitlines() or [ran.stderr]
    assert ran.returncode == 0 and not wrong, ran.stdout
    num_shapes = len(packed_bits.SUMS) * len(packed_bits.COLUMNS)
    assert last.startswith("packed") and (not products.has_packed() or int(last.split()[1]) > num_shapes / 3)


@has_packed
def test_where_no_way_keeps_bits_matrices_are_not_packed_unless_it_is_to_be_fast(monkeypatch):
    monkeypatch.setattr(packed, "way_of_shape", lambda *_: None)
    w, x = torch.randn(24, 64), torch.randn(3, 64)
    fast = packed.packed(w, is_fast=True)
    assert packed.packed(w) is None and fast is not None
    torch.testing.assert_close(fast(x), x @ w.T)
    torch.testing.assert_close(products.lay_out(w).product(x), x @ w.T)


@has_packed
@pytest.mark.parametrize("way", [packed.Way(), packed.Way(4, 24), packed.Way(4, 24, 2)])
def test_what_fills_up_rows_and_columns_is_not_seen(way):
    w, x = torch.randn(50, 64), torch.randn(7, 64)
    made = packed.pack(w, way)(x)
    assert made.shape == (7, 50) and made.is_contiguous()
    torch.testing.assert_close(made, x @ w.T)
    assert packed.pack(w, way)(x[:0]).shape == (0, 50)


@has_packed
def test_trying_threads_leaves_their_number_as_it_was():
    before = torch.get_num_threads()
    packed.way_of_shape.cache_clear()
    packed.way_of_shape(48, 512, before + 3)
    assert torch.get_num_threads() == before
