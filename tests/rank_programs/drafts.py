"""Run once a rank: of every checkpoint of a file, decodes with drafts and without, and tells whether this rank has the same.

A job is `{"name", "checkpoint", "lengths", "steps", "ways"}`; the file NAME.RANK.json gets the acceptance rate of each way.
"""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "deepseek_v4"))

from drafting import check_both, random_prompts, session_of

from runner.ranks.join import given_world, joined


def main(path: Path) -> None:
    torch.set_num_threads(1)
    world = given_world()
    assert world is not None
    with joined(world, timeout_s=600) as comm:
        for job in json.loads(path.read_text()):
            ep = f"ep={comm.size}"
            one, two = (session_of(Path(job["checkpoint"]), decode, ep, comm=comm) for decode in ("decode", "decode-mtp"))
            given = random_prompts(job["lengths"], one.vocabulary.size)[comm.rank :: comm.size]
            rates = check_both(one, two, given, job["steps"], job["ways"], comm)
            (path.parent / f"{job['name']}.{comm.rank}.json").write_text(json.dumps(rates))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
