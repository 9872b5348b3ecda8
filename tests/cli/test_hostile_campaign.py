"""Hostile and mutated inputs of every kind, each in a process of its own: `tests/hostile_campaign.py` says what is counted."""

import subprocess
import sys

import pytest
from places import ROOT, TESTS


@pytest.mark.parametrize(
    ("num_hostile", "num_mutated", "seed"),
    [(6, 8, 5), pytest.param(1_000, 3_000, 11, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])],
)
def test_no_traceback_and_little_time_and_memory(num_hostile, num_mutated, seed):
    command = [sys.executable, str(TESTS / "hostile_campaign.py"), "--hostile", str(num_hostile), "--mutated", str(num_mutated)]
    done = subprocess.run([*command, "--seed", str(seed)], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0 and f"{num_hostile + num_mutated:,} inputs: " in done.stdout, (
        done.stdout[-5_000:] + done.stderr[-2_000:]
    )
