"""Run once a rank: generates for every job of a file, one after another in one world, and leaves what came out for the test.

A job is `{"name", "checkpoint", "prompts", "new_tokens", "sets"}`. Rank 0 writes NAME.safetensors (`N.tokens`, `N.logits` of
every position) and NAME.routing; a job that is refused leaves NAME.R.error of every rank R, and the next one goes on.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from runner.base.errors import ExecutionError
from runner.config.config import load_config
from runner.driver.driver import registry
from runner.driver.serve import experts_of
from runner.ranks.gather import gather_bytes, gathered
from runner.ranks.join import given_world, joined
from runner.serving.generate import generate
from runner.serving.session import Placement, open_session
from schedulers import get_scheduler


def run(job, comm, folder: Path) -> None:
    config = load_config([Path(job["checkpoint"]) / "config.json"], [*job["sets"], f"ep={comm.size}"])
    annotated = get_scheduler("annotated")
    session = open_session(config, job["checkpoint"], registry(), Placement(lambda p: annotated(p, {})), comm=comm)
    experts = experts_of(config, "this test")
    session.recorder = recorder = experts.recorder(session.serving, session.programs, comm.rank, comm.size)
    prompts = [tuple(prompt) for prompt in job["prompts"]]
    found, _ = generate(session, prompts[comm.rank :: comm.size], job["new_tokens"], keep_logits=True, comm=comm)
    made, packed = gathered(comm, found, prompts), gather_bytes(comm, recorder.packed())
    if made is not None:
        tensors = {f"{n}.tokens": torch.tensor(g.tokens) for n, g in enumerate(made)}
        for n, g in enumerate(made):
            tensors[f"{n}.logits"] = torch.cat([*g.prefill_logits, *(row.unsqueeze(0) for row in g.decode_logits)])
        save_file(tensors, folder / f"{job['name']}.safetensors")
        recorder.recording(packed).write(folder / f"{job['name']}.routing")


def main(path: Path) -> None:
    torch.set_num_threads(1)
    world = given_world()
    assert world is not None
    with joined(world, timeout_s=240) as comm:
        for job in json.loads(path.read_text()):
            try:
                run(job, comm, path.parent)
            except ExecutionError as error:
                (path.parent / f"{job['name']}.{comm.rank}.error").write_text(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
