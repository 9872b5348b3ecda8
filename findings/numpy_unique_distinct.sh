#!/usr/bin/env bash
# numpy 2.4.6: `np.unique` of integers that are mostly distinct.
#
# A good guess: `np.unique(a)` costs a sort and a comparison of neighbours, and asking for more (`return_index`, `return_inverse`,
# `return_counts`) costs more.
# What happens: without these options it puts the values into a hash table and sorts what is left. Where most values are
# distinct that takes about 80 times as long as `np.sort` and a mask, which give the same array, and five times as long as
# `np.unique` that returns indices too, which sorts. Seen, for a million int64 drawn from a thousand million: 0.47 s of CPU,
# 0.006 by sorting, 0.09 with return_index. Where there are few distinct values, it is five times as slow as sorting still.
# Who is hurt: whoever makes keys of pairs unique (edges of graphs, intervals that overlap, sparse indices). In a planner of
# 24,000 tasks such calls took a tenth of the whole command; none looked suspicious in the code.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check numpy==2.4.6 2>/dev/null
"$work/venv/bin/python" - <<'P'
import time

import numpy as np


def by_sorting(values):
    values = np.sort(values)
    return values[np.concatenate([[True], values[1:] != values[:-1]])]


def cpu_s(call, values):
    """The least of three."""
    times = []
    for _ in range(3):
        start = time.process_time()
        call(values)
        times.append(time.process_time() - start)
    return min(times)


values = np.random.default_rng(0).integers(0, 10**9, 10**6)
assert (np.unique(values) == by_sorting(values)).all()
plain = cpu_s(np.unique, values)
indexed = cpu_s(lambda a: np.unique(a, return_index=True), values)
sort = cpu_s(by_sorting, values)
print(f"numpy {np.__version__}: unique {plain:.3f} s, with return_index {indexed:.3f} s, sort and mask {sort:.3f} s")
assert plain > 10 * sort, "np.unique has become as fast as sorting, nearly"
assert plain > 1.5 * indexed, "np.unique costs less than with return_index"
print("as described: the plain call is the slowest")
P
