#!/usr/bin/env bash
# torch 2.13.0 on a CPU: `exp` of scores of which half are masked with -inf, as attention that is written out in torch takes it.
#
# A good guess: exp of -inf is 0 and takes as long as any other, or less; `exp` and `exp2` differ by a factor in front.
# What happens: `exp`, which is MKL's, takes several times as long where results underflow (six times on an EPYC, 15 to 28 on a
# Xeon), `exp2`, which is SLEEF's, takes the same for any value. `softmax`, which has an exponential of its own, does not slow down at -inf.
# Who is hurt: whoever keeps the largest score and the sum of exponentials block by block (online softmax) in torch's calls: under
# a causal mask, half of a block on the diagonal is -inf, and `exp` takes longer than both products.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 2>/dev/null
"$work/venv/bin/python" - <<'P'
from time import perf_counter

import torch

torch.set_num_threads(1)
torch.manual_seed(0)
plain = torch.randn(2048, 128) - 2
masked = plain.clone()
masked[:, ::2] = -torch.inf
out = torch.empty_like(plain)
CALLS = {
    "exp": lambda x: torch.exp(x, out=out),
    "exp2": lambda x: torch.exp2(x, out=out),
    "softmax": lambda x: torch.softmax(x, -1),
}


def microseconds(call, x):
    """The least of 15 rounds of 20 calls."""
    rounds = []
    for _ in range(15):
        start = perf_counter()
        for _ in range(20):
            call(x)
        rounds.append((perf_counter() - start) / 20)
    return min(rounds) * 1e6


ratios = {}
print(f"torch {torch.__version__}, MKL: {torch.backends.mkl.is_available()}")
for name, call in CALLS.items():
    times = [microseconds(call, x) for x in (plain, masked)]
    ratios[name] = times[1] / times[0]
    print(f"{name} of {plain.numel():,} scores: {times[0]:.0f} us, half of them -inf: {times[1]:.0f} us, {ratios[name]:.1f} times")
assert torch.equal(torch.exp(masked)[:, ::2], torch.zeros(2048, 64)), "the behaviour has changed"
assert ratios["exp"] > 3 > 2 > max(ratios["exp2"], ratios["softmax"]), "the behaviour has changed"
P
echo "still so"
