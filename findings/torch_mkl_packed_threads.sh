#!/usr/bin/env bash
# torch 2.13.0 on a CPU: a matrix that `torch.ops.mkl._mkl_reorder_linear_weight` packed, as torch.compile with freezing packs the
# weights of f32 linears, multiplied by `torch.ops.mkl._mkl_linear`.
#
# A good guess: a packed matrix is a layout, and threads are a matter of the call; with `MKL_CBWR=AUTO,STRICT`, which promises the same
# bits for any number of threads, results are the same whoever packed.
# What happens: MKL packs for the number of threads that there are then. What one thread packed is multiplied with a few rows (8, as in
# decode) by one thread for ever, however many the process has later; and what four packed has other bits than what one packed, if there
# are few columns, under the promise as well (the number of threads at the call changes none of them).
# Who is hurt: whoever freezes or packs in a process before it sets its threads (a loader, a fork), and whoever compares bits of runs
# with other numbers of threads under MKL_CBWR.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy 2>/dev/null
MKL_CBWR=AUTO,STRICT OMP_WAIT_POLICY=PASSIVE "$work/venv/bin/python" - <<'P'
import os
from pathlib import Path

import torch

torch.manual_seed(0)
linear = torch.ops.mkl._mkl_linear.default


def packed_by(threads, w):
    torch.set_num_threads(threads)
    return torch.ops.mkl._mkl_reorder_linear_weight(w, 128)


def product(x, packed, w, threads):
    torch.set_num_threads(threads)
    return linear(x, packed, w, None, x.shape[0])


x, w = torch.randn(8, 4096), torch.randn(100, 4096)
results = {(by, at): product(x, packed_by(by, w), w, at) for by in (1, 4) for at in (1, 2, 4)}
for (by, at), made in results.items():
    print(f"packed by {by}, multiplied by {at} threads: as all by one: {torch.equal(made, results[1, 1])}")
assert all(torch.equal(made, results[by, 1]) for (by, _), made in results.items()), "the behaviour has changed"
assert not torch.equal(results[1, 1], results[4, 1]), "the behaviour has changed"



def seconds_of_other_threads():
    """CPU time that all threads but the first of this process have taken (Linux)."""
    ticks = 0
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) != os.getpid():
            ticks += int((task / "stat").read_text().rsplit(")", 1)[1].split()[11])
    return ticks / os.sysconf("SC_CLK_TCK")


x, w = torch.randn(8, 2048), torch.randn(2048, 2048)
took = {}
for by in (1, 2):
    packed, before = packed_by(by, w), seconds_of_other_threads()
    for _ in range(400):
        product(x, packed, w, 2)
    took[by] = seconds_of_other_threads() - before
    print(f"packed by {by}, multiplied by two threads: the second took {took[by]:.2f} s")
assert took[1] < 0.1 and took[2] > 0.3, "the behaviour has changed"
P
echo "still so"
