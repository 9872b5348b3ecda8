"""Tokens a second where every draft counts, beside single-token decoding of the same requests.

    pytest -s -m bench tests/bench/bench_drafts.py

Both decode the same four requests of a model whose draft layer always agrees, in turn; the fastest of several rounds counts.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from places import TESTS

sys.path.insert(0, str(TESTS / "models" / "deepseek_v4"))

from drafting import agreeing, random_prompts, session_of, with_draft

from runner.serving.generate import generate

STEPS, ROUNDS = 33, 3
LEAST = 1.6


def decode_s(session, given) -> float:
    made, figures = generate(session, given, STEPS)
    assert all(len(generation.tokens) == STEPS for generation in made)
    return figures.decode_s


@pytest.mark.bench
def test_a_draft_layer_that_always_agrees(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    sets = ("num_hidden_layers=10", "compress_ratios=[0,4,128,4,128,4,128,4,128,4,0]", "hidden_size=128")
    folder = agreeing(with_draft(tmp_path / "made", *sets), tmp_path / "agreeing")
    sessions = {decode: session_of(folder, decode) for decode in ("decode", "decode-mtp")}
    given = random_prompts((5, 9, 2, 30), sessions["decode"].vocabulary.size)
    times = {decode: [] for decode in sessions}
    for _ in range(ROUNDS):
        for decode, session in sessions.items():
            times[decode].append(decode_s(session, given))
    best = {decode: min(found) for decode, found in times.items()}
    tokens = len(given) * (STEPS - 1)
    ratio = best["decode"] / best["decode-mtp"]
    single, double = (tokens / best[decode] for decode in ("decode", "decode-mtp"))
    print(f"\nsingle {single:.1f}, with drafts {double:.1f} tokens a second: {ratio:.2f} times")
    assert ratio >= LEAST
