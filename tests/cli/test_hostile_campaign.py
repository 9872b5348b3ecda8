"""Hostile and mutated inputs of every kind, each in a process of its own: `tests/hostile_campaign.py` says what is counted."""

import pytest
from places import TESTS
from warm import Warm


@pytest.mark.parametrize(
    ("num_hostile", "num_mutated", "seed"),
    [(6, 8, 5), pytest.param(1_000, 3_000, 11, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])],
)
def test_no_traceback_and_little_time_and_memory(num_hostile, num_mutated, seed):
    command = [TESTS / "hostile_campaign.py", "--hostile", num_hostile, "--mutated", num_mutated, "--seed", seed]
    campaign = Warm(command)
    out, err = campaign.communicate()
    assert campaign.returncode == 0 and f"{num_hostile + num_mutated:,} inputs: " in out, out[-5_000:] + err[-2_000:]
