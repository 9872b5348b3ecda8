"""Run once a rank: joins, exchanges a few times with its place told each time, and reports as the command line does."""

import sys

import torch

from runner.base.errors import RinggraphError
from runner.ranks.join import given_world, joined, report_of
from runner.ranks.reports import Place, end, own_folder, write_report


def main(timeout_s: float, start_s: float) -> int:
    torch.set_num_threads(1)
    try:
        world = given_world()
        assert world is not None
        place = Place(own_folder(), world.rank)
        with joined(world, timeout_s=timeout_s, start_s=start_s) as comm:
            for step in range(4):
                place.phase(f"step {step}")
                place.node(f"layer_{step}.dispatch")
                comm.all_gather(torch.tensor([step]))
        sys.stdout.write(f"rank {world.rank} done\n")  # at once, as the others do
        return 0
    except (RinggraphError, RuntimeError) as error:
        if not write_report(report_of(error)):
            print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    end(main(*map(float, sys.argv[1:])))
