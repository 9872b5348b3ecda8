"""Exchanges between processes, and the group of one."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from places import TESTS
from sampled import sampled

from runner.execution.comm import LocalComm

PROGRAMS = TESTS / "rank_programs"


@pytest.mark.parametrize("num_ranks", sampled((3, 4), (3,)))
def test_ranks_exchange_rows_of_every_dtype(num_ranks):
    """Ragged, empty and strided; the program checks every byte on every rank."""
    launch = f"launch([sys.executable, {str(PROGRAMS / 'comm.py')!r}], {num_ranks}, timeout_s=120)"
    code = f"from runner.ranks.launch import launch; import sys; {launch}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert sorted(re.findall(r"rank \d: \d+ cases", done.stdout)) == [f"rank {rank}: 32 cases" for rank in range(num_ranks)]


def test_a_group_of_one_receives_what_it_sends():
    comm, x = LocalComm(), torch.arange(6).view(3, 2)
    assert torch.equal(comm.all_gather(x), x.view(1, 3, 2))
    assert torch.equal(comm.all_to_all(x, [3], [3]), x)
