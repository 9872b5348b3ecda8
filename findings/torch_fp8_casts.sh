#!/usr/bin/env bash
# torch 2.13.0 beside ml_dtypes 0.6.0: what does not fit into an FP8 number or an E8M0 scale.
#
# A good guess: a cast marks what it cannot hold. E4M3FN has no infinity, so that infinity and what is too large become NaN, as in
# earlier releases of torch and in ml_dtypes (jax, numpy); a power-of-two scale that is zero or negative becomes NaN.
# What happens: torch 2.13 turns all of it into numbers: in float8_e4m3fn 1e6 and infinity are 448, though in float8_e5m2 they are
# infinity; in float8_e8m0fnu -2 is 2, and 0 is 2 ** -127. ml_dtypes gives NaN for each, and for 1e6 in float8_e5m2 infinity.
# Who is hurt: whoever looks for overflow by isnan or isinf after a cast to FP8 finds none any more: an infinite activation goes on as
# 448. A negative or zero scale that a quantiser made by mistake loses its sign without a word. And the same numbers written by jax
# and by torch make different files.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 2>/dev/null
"$work/venv/bin/pip" install -q --disable-pip-version-check numpy ml_dtypes==0.6.0 2>/dev/null
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'P'
import ml_dtypes
import numpy as np
import torch

CASES = {
    "float8_e4m3fn": ([465.0, 1e6, float("inf")], [448.0, 448.0, 448.0], "all NaN"),
    "float8_e5m2": ([1e6, float("inf")], [float("inf"), float("inf")], "the same"),
    "float8_e8m0fnu": ([-2.0, 0.0, -0.75], [2.0, 2.0**-127, 1.0], "all NaN"),
}
print(f"torch {torch.__version__}, ml_dtypes {ml_dtypes.__version__}")
for name, (values, torch_gives, numpy_gives) in CASES.items():
    by_torch = torch.tensor(values).to(getattr(torch, name)).float().tolist()
    with np.errstate(all="ignore"):
        by_numpy = np.array(values, np.float32).astype(getattr(ml_dtypes, name)).astype(np.float32)
    print(f"  {name} of {values}: torch {by_torch}, ml_dtypes {by_numpy.tolist()}")
    assert by_torch == torch_gives, "the behaviour of torch has changed"
    same = by_numpy.tolist() == torch_gives if numpy_gives == "the same" else bool(np.isnan(by_numpy).all())
    assert same, "the behaviour of ml_dtypes has changed"
P
echo "still so"
