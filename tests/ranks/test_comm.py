"""Exchanges between processes, and the group of one."""

from __future__ import annotations

import re

import pytest
import torch
from places import TESTS
from sampled import sampled
from warm import launched

from runner.execution.comm import LocalComm

PROGRAMS = TESTS / "rank_programs"


@pytest.mark.parametrize("num_ranks", sampled((3, 4), (3,)))
def test_ranks_exchange_rows_of_every_dtype(num_ranks):
    """Ragged, empty and strided; the program checks every byte on every rank."""
    out = launched(PROGRAMS / "comm.py", num_ranks=num_ranks, timeout_s=120)
    assert sorted(re.findall(r"rank \d: \d+ cases", out)) == [f"rank {rank}: 32 cases" for rank in range(num_ranks)]


def test_a_group_of_one_receives_what_it_sends():
    comm, x = LocalComm(), torch.arange(6).view(3, 2)
    assert torch.equal(comm.all_gather(x), x.view(1, 3, 2))
    assert torch.equal(comm.all_to_all(x, [3], [3]), x)
