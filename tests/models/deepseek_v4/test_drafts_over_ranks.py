"""Decoding with drafts over two ranks: tokens, logits and state of single-token decoding on each of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from drafting import CONFIGS, FORCED, LENGTHS, agreeing, with_draft
from places import TESTS
from test_drafts import SMALL
from warm import launched

PROGRAM = TESTS / "rank_programs" / "drafts.py"


def run(folder: Path, jobs: list[dict]) -> dict[str, list[dict]]:
    """The acceptance rates of every job on both ranks."""
    folder.mkdir()
    (folder / "jobs.json").write_text(json.dumps(jobs, default=str))
    launched(PROGRAM, folder / "jobs.json", num_ranks=2, timeout_s=600)
    return {job["name"]: [json.loads((folder / f"{job['name']}.{rank}.json").read_text()) for rank in (0, 1)] for job in jobs}


def job(name: str, checkpoint: Path, lengths, steps: int, ways) -> dict:
    return {"name": name, "checkpoint": checkpoint, "lengths": lengths, "steps": steps, "ways": list(ways)}


def test_two_ranks_one_of_which_has_less_to_do(tmp_path):
    """A rank that is done takes part idle; drafts count on one rank and not on the other."""
    folder = with_draft(tmp_path / "made", *SMALL)
    for rates in run(tmp_path / "out", [job("small", folder, (3, 130, 5), 5, ("mixed",))])["small"]:
        assert rates["mixed"] is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_over_ranks(name, tmp_path):
    folder = with_draft(tmp_path / "made", *CONFIGS[name], seed=6)
    same = agreeing(folder, tmp_path / "agreeing")
    jobs = [job("forced", folder, LENGTHS, 64, FORCED), job("agreeing", same, LENGTHS, 64, ("proposed",))]
    found = run(tmp_path / "out", jobs)
    assert all(rates["proposed"] == 1.0 for rates in found["agreeing"])
